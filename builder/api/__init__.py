"""HTTP over service objects that know nothing of HTTP: routes from the proto descriptors, JSON from `codec`."""
