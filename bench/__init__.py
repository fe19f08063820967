"""What the builder costs, against what it could cost: `make bench`, or `python -m bench P7` for one metric."""
