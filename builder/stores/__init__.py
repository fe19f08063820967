"""Where sources are kept, by digest."""
