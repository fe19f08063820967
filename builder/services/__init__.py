"""What the API does: service objects and uploads, without HTTP or gRPC."""
