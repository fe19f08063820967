"""The store: the truth about every build. SQLite (WAL) or PostgreSQL, by URL; its clock is the one that counts.

`schema.py` holds the tables, `transitions.py` the table of what may become what. The guarded statements (one
transaction each) are given out by `builds.py`: of clients there, of owners in `owner.py`, of FINALIZE in `closing.py`,
of dispatcher and reconciler in `sweeps.py`, what they share in `rows.py`. `logs.py` keeps the lines, `outbox.py` the
reports, `nodes.py` the build nodes.
"""
