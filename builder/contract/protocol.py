"""What the API and its workers share beside the messages: the protocol version and the names in Redis."""

PROTOCOL = 1
"""Version of the worker's protocol. Each call carries it; the API refuses any other."""

CANCEL_CHANNEL = "ignite:cancel"
"""Pub/sub channel of cancels; a message is the id of the build."""

CHANGED_CHANNEL = "ignite:changed"
"""Pub/sub channel between control processes: who wrote, then the ids of builds that have new log lines."""
