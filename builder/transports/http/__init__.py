"""HTTP over the services: routes from the descriptors, proto3 JSON, server-sent events."""
