"""The build key: each part changes it, and no two lists of parts can be confused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.key import digest_of_parts

PARTS = {
    "organization": "a", "code_hash": "b", "runtime": "c", "version": "d", "target": "e", "platform": "f",
    "recipe": "1",
    "argument.X": "y", "digest.base": "z", "digest.go": "w", "single_file": "False",
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_each_part_changes_the_key(name: str) -> None:
    assert digest_of_parts({**PARTS, name: PARTS[name] + "!"}) != digest_of_parts(PARTS)
    assert digest_of_parts({key: value for key, value in PARTS.items() if key != name}) != digest_of_parts(PARTS)


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
def test_different_parts_give_different_keys(one: dict[str, str], other: dict[str, str]) -> None:
    assert (digest_of_parts(one) == digest_of_parts(other)) == (one == other)
