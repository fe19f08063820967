"""The broker: the Celery application of both sides, and Redis as a worker reads it, with distrust."""
