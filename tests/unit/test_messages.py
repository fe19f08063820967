"""The hint's signature: only a genuine, well-formed message of a known version names a build."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from builder.contract.messages import read_run, run_message

KEY = "a key"
BUILD = "k7m2xq9d4t1zv6wh5r3p"


def test_a_genuine_hint_names_its_build() -> None:
    assert read_run(run_message(BUILD, KEY), KEY) == BUILD


def test_another_key_is_refused() -> None:
    assert read_run(run_message(BUILD, "another"), KEY) is None


@given(field=st.sampled_from(["v", "build_id", "kid", "sig"]), value=st.none() | st.integers() | st.text())
def test_a_changed_field_is_refused(field: str, value: object) -> None:
    body = run_message(BUILD, KEY)
    if body[field] == value:
        return
    assert read_run({**body, field: value}, KEY) is None


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())))
def test_strangers_bodies_are_dropped(body: dict[str, object]) -> None:
    assert read_run(body, KEY) is None
