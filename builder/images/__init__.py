"""OCI images: layers, manifests, root file systems, and the two places they are pushed to. Runs no container engine."""
