"""Kubernetes as image mode uses it: Jobs created, watched and followed; each end has a reason."""
