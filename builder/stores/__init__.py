"""The stores of sources, by digest."""
