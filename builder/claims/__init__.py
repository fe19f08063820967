"""The owner's protocol: claim, lease, spool, finish. Every write carries the claim."""
