"""OCI artifacts: layers, images, base images, and the two places they are pushed to. Runs no container engine."""
