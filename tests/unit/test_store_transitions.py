"""The one table of transitions and its page."""

from __future__ import annotations

from pathlib import Path

from builder.store import transitions


def test_the_document_of_states_is_the_generated_one() -> None:
    document = Path(__file__).parents[2] / "docs" / "states.md"
    assert document.read_text(encoding="utf-8") == transitions.page()


def test_nothing_leaves_a_terminal_status() -> None:
    assert not [row for row in transitions.TRANSITIONS if row.before in transitions.TERMINAL]
    assert len(transitions.BY_NAME) == len(transitions.TRANSITIONS)
