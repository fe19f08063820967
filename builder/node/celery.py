"""What `celery -A builder.node.celery worker` loads: the settings, the application, the node behind its task."""

from __future__ import annotations

from builder.broker import add_run_task, make_celery, read_queues
from builder.config import load
from builder.node.worker import WorkerProcess

settings = load().settings
app = make_celery(settings)
node = WorkerProcess(settings)
read_queues(app, node.queues(), settings.slots)
add_run_task(app, node.handle)
node.connect_signals()
