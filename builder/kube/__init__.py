"""Kubernetes as image mode uses it: Jobs created, watched and followed, each end with its reason. Runs no build itself."""
