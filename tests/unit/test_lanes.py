"""Every file of end-to-end tests belongs to one session of `make test`."""

from __future__ import annotations

from tests import lanes, uids
from tests.chaos.__main__ import AT_ONCE
from tests.chaos.parts import LANE_UIDS

FILES = {path.name for path in (lanes.ROOT / lanes.E2E).glob("test_*.py")}


def test_each_file_is_in_one_session() -> None:
    first, second = lanes.sessions()
    left_out = {word.rpartition("/")[2] for word in first[0] if word.startswith("--ignore=")}
    named = [word.rpartition("/")[2] for word in second[0] if word.endswith(".py")]
    assert left_out == set(lanes.APART) | set(lanes.SECOND) and left_out < FILES
    assert sorted(named) == sorted(set(lanes.SECOND)) and not set(named) & set(lanes.APART)


def test_what_more_is_asked_for_ends_the_second_lane() -> None:
    first, second = lanes.sessions(["tests/cluster"])
    assert (first, second[0]) == (lanes.sessions()[0], lanes.sessions()[1][0])
    assert [words[3:] for words in second[1:]] == [("tests/cluster",)]


def test_the_users_of_a_lane_are_its_own() -> None:
    every = [value for name, value in vars(uids).items() if name.isupper() and isinstance(value, int)]
    users = [value for value in [*every, *uids.SERVERS] if value not in (uids.LANE, uids.LANE_UIDS)]
    assert max(users) + AT_ONCE * LANE_UIDS - min(users) < uids.LANE_UIDS
