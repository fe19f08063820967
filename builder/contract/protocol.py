"""What the API and its workers share beside the messages: the protocol version and the names in Redis."""

PROTOCOL = 1
"""Version of the worker's protocol. Each call carries it; the API refuses any other."""

CANCEL_CHANNEL = "ignite:cancel:"
"""Pub/sub channel of one build's cancel, followed by the build id."""

KEPT_STREAM = "ignite:kept"
"""Redis Stream of the ids of builds that have new log lines."""
