"""Kubernetes as image mode uses it: Jobs created, watched and followed, every end told apart. Runs no build itself."""
