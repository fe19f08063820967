"""What `celery -A builder.app worker` loads: the settings, and the worker's application over them."""

from __future__ import annotations

import sys

from builder.config import load
from builder.worker.main import make_app

app = make_app(load().settings, sys.stderr)
