"""A real one-node Kubernetes for the tests of image mode: its programs, its start and end, and its suite."""
