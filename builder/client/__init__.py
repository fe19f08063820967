"""One client of the control API: paths from the descriptors, retries by the kind of the answer."""
