"""What every store promises, by subject: the same functions on SQLite (unit) and on PostgreSQL (end to end).

A module that runs them imports all names from here and gives the fixtures `world` (an empty store), `worlds` (makes
one) and `empty_url` (a database without tables).
"""

import pytest

SUBJECTS = (
    "claims", "lines", "attaching", "finalizing", "offering", "untaken", "cancelling", "races", "reporting",
    "interleavings", "retaining", "starting", "statements", "phases", "watching", "limiting",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in (*SUBJECTS, "world")))  # before they are imported

from tests.store_contract.attaching import *  # noqa: E402, F403
from tests.store_contract.cancelling import *  # noqa: E402, F403
from tests.store_contract.claims import *  # noqa: E402, F403
from tests.store_contract.finalizing import *  # noqa: E402, F403
from tests.store_contract.interleavings import *  # noqa: E402, F403
from tests.store_contract.limiting import *  # noqa: E402, F403
from tests.store_contract.lines import *  # noqa: E402, F403
from tests.store_contract.offering import *  # noqa: E402, F403
from tests.store_contract.phases import *  # noqa: E402, F403
from tests.store_contract.races import *  # noqa: E402, F403
from tests.store_contract.reporting import *  # noqa: E402, F403
from tests.store_contract.retaining import *  # noqa: E402, F403
from tests.store_contract.starting import *  # noqa: E402, F403
from tests.store_contract.statements import *  # noqa: E402, F403
from tests.store_contract.untaken import *  # noqa: E402, F403
from tests.store_contract.watching import *  # noqa: E402, F403
