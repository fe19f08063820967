"""The build node: a Celery worker that claims builds, runs the line and keeps its output until the API has it."""
