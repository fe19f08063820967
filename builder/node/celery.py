"""What `celery -A builder.node.celery worker` loads: the settings, and the worker's application over them."""

from __future__ import annotations

import sys

from builder.config import load
from builder.node.main import make_app

# At a SIGHUP Celery executes sys.argv again; `python -m celery` has a file there that does not run by its path.
if sys.argv[0].endswith("/celery/__main__.py"):
    sys.argv[:1] = ["-m", "celery"]

app = make_app(load().settings, sys.stderr)
