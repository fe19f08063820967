"""The build users of a session: every uid that a test gives away is here, and `TEST_BUILD_UID` moves them all.

Two sessions on one machine see each other's processes: with uids of its own none takes the other's for its own.
`TEST_LANE` is 1 for the second of two sessions that tests/lanes.py runs at a time.
"""

from __future__ import annotations

import os

LANE = int(os.environ.get("TEST_LANE", "0"))
LANE_UIDS = 1700
FIRST_UID = int(os.environ.get("TEST_BUILD_UID", "62100")) + LANE * LANE_UIDS
SANDBOX = FIRST_UID - 99
"""The user of a sandbox without a service."""
SERVER = FIRST_UID - 50
"""The users of the fixture `server` and of who shares its package caches: what one keeps there another cannot enter."""
SERVERS = range(FIRST_UID, FIRST_UID + 1000, 20)
"""The users of further servers, one each; a server takes its slots' uids after it and the one before it."""
CRASH = FIRST_UID + 1000
NODE = FIRST_UID + 1300
LOCAL = FIRST_UID + 1350
"""The users of builds without a server."""
WHEEL = FIRST_UID + 1400
"""The users of builds by an installed wheel."""
READER = FIRST_UID - 110
"""The user of readers without a service; its group is the next number."""
EDGES = FIRST_UID + 1450
"""The users of the node that the probes of the edges attack."""
CLUSTER = FIRST_UID + 1545
"""The users of the cluster suite's workers; one suite runs at a time: it takes no turn among other sessions."""
CHAOS = FIRST_UID + 1500
"""The users of histories of kills, 20 for each that runs at once."""
