"""The owner's protocol as values that a loop drives: calls, lease, time limit, spool, requests. No thread, no clock."""
