"""The store: the truth about every build. SQLite (WAL) or PostgreSQL, by URL; its clock is the one that counts.

Each file of statements has its callers:

- `builds.py`: clients submit, read, list and cancel builds.
- `nodes.py`, `granting.py`, `owner.py`, `logs.py`: build nodes register, claim, renew and finish, send lines;
  `cluster.py` limits what an organization has in a cluster.
- `closing.py`: the finalizer adopts, publishes, tags and succeeds.
- `offers.py`, `sweeps.py`, `outbox.py`: the loops of the control side offer, expire and report.

Below them: `schema.py` (tables), `transitions.py` (what may become what), `rows.py` (the one function that changes a
status), `listeners.py` (what runs in the transaction of an end), `engine.py` (transactions, clock, migrations).
"""
