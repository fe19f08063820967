"""A watcher: adopts builds in stage JOB, follows their Jobs and logs, and finishes them. It has no database."""
