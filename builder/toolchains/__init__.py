"""Providers of a toolchain: what a node can build with, and the digests that join the build key."""
