"""What `celery -A builder.node.celery worker` loads: the settings, the application, the node behind its task."""

from __future__ import annotations

from builder.broker.app import add_run_task, make_celery, read_queues
from builder.config import load
from builder.node.worker import Node

settings = load().settings
node = Node(settings)
app = make_celery(settings, node.dropped)
read_queues(app, node.queues(), settings.slots)
add_run_task(app, node.handle)
node.connect_signals()
