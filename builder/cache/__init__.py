"""The whole-build cache: identical work is done once within an organization (docs/architecture.md)."""
