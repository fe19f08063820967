"""What `celery -A builder.node.celery worker` loads: the settings, and the worker's application over them."""

from __future__ import annotations

import sys

from celery import Celery

from builder.config import load
from builder.errors import BuildError
from builder.node.main import make_app
from builder.node.membership import why_not
from builder.node.worker import WorkerRefused


def _made() -> Celery:
    """The application. A setting that is refused, a pipeline that cannot be loaded: said, and the worker ends."""
    try:
        return make_app(load().settings, sys.stderr)
    except BuildError as error:
        sys.stderr.write(why_not(error))
        raise WorkerRefused(error) from None


# At a SIGHUP Celery executes sys.argv again; `python -m celery` has a file there that does not run by its path.
if sys.argv[0].endswith("/celery/__main__.py"):
    sys.argv[:1] = ["-m", "celery"]

app = _made()
