"""Typical mistakes: what a person gets to read of each is golden, with a place, the tool's words and a next step."""

from __future__ import annotations

import json
import re

import pytest

from builder import pipelines
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.errors import REASONS, ErrorClass
from tests.golden.mistakes import FILE, MISTAKES, Recorded, text

GOLDEN = json.loads(FILE.read_text())
COUNT = 32
PLACE = re.compile(
    r"\S+:\d+(:\d+)?(  (?:\(first of \d+\)|\S+))?|\S+\.(?:toml|lock|json|txt|sum|mod|rs|py|ts)(  \S+)?"
    r"|npm:\S+|target|buildArgs\.\w+"
)
"""file:line, a file and a key of it, a package, or a key of the request."""
ASKED = (
    "Cargo.toml is missing", "used after it moved", "yanked", "lock is stale", "module path with a typo", "type error",
    "fn main is missing", "edition", "target wasm", "another Python", "newer glibc",
)  # fmt: skip


def test_the_golden_file_is_what_people_read() -> None:
    assert FILE.read_text() == text(), "run: make golden"


def test_there_are_enough_of_every_runtime_of_the_wire() -> None:
    assert len(GOLDEN) >= COUNT
    of = {
        name: [one for one in MISTAKES if one.startswith(f"{name}: ")]
        for name in common.Runtime.DESCRIPTOR.fields_by_name
    }
    assert {one.partition(":")[0] for one in MISTAKES} <= set(pipelines.names())
    assert all(len(mistakes) >= COUNT // 4 for mistakes in of.values()), {name: len(all_) for name, all_ in of.items()}
    for words in ASKED:
        assert any(words in name for name in MISTAKES), words
    failures = [json.dumps(failure) for failure in GOLDEN.values()]
    assert len(set(failures)) == len(failures)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_place_the_tools_words_and_a_next_step(name: str) -> None:
    failure = GOLDEN[name]
    assert REASONS[failure["reason"]].error_class is not ErrorClass.PLATFORM
    assert failure["message"] and len(failure["message"].splitlines()) == 1
    assert PLACE.fullmatch(failure["where"]), failure["where"]
    assert failure["next"]
    if isinstance(mistake := MISTAKES[name], Recorded):
        first, printed = failure["said"][0].split(), " ".join(mistake.lines())
        assert [word for word in first if "/" not in word and "." not in word and word not in printed] == []
        assert 1 <= len(failure["said"]) <= 6 and len(first) > 1
    assert "/work/src" not in json.dumps(failure)
