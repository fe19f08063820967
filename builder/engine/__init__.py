"""A Docker engine in the place of a cluster, for a developer's own machine: the call, its end, the client."""
