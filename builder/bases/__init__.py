"""Base images: recipes of Debian packages, made once on a node, pinned by digest."""
