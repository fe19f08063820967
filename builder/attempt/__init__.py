"""One attempt at a build: the value that travels the line, and its effects. Loads no HTTP, Redis or Celery."""
