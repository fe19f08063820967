"""The processes of a worker: Celery's prefork pool, which survives the death of one at any time."""

from __future__ import annotations

from celery.concurrency.prefork import TaskPool


class Pool(TaskPool):  # type: ignore[misc]
    """A process that dies before the worker reads its first message is replaced like any later one."""

    def did_start_ok(self) -> bool:
        """Replace what has died by now. Celery's own would end the whole worker; processes that die again and again
        still do, by the pool's limit on restarts."""
        self._pool.maintain_pool()
        return True
