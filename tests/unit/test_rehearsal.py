"""What a waiting reader does with sources of our own: every question of a compiled build is answered once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.attempt import rehearsal
from builder.attempt.desk import Desk, answer
from builder.data import catalog_file
from builder.node import child
from builder.node.leftovers import remove_left_behind
from builder.pipelines import catalog as catalogs
from builder.pipelines.base import Sampled
from builder.settings import Settings


def test_the_sample_of_each_runtime_is_unpacked_detected_and_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers: list[tuple[str, dict[str, Any]]] = []

    def noted(desk: Desk, asked: dict[str, Any]) -> bytes:
        found = answer(desk, asked)
        answers.append((asked["question"], json.loads(found)["answer"]))
        return found

    monkeypatch.setattr(rehearsal, "answer", noted)
    rehearsal.rehearse(pipelines.PIPELINES, catalogs.read(catalog_file(""), {}), tmp_path)
    expected = []
    for module in pipelines.PIPELINES:
        assert isinstance(module, Sampled)
        expected += [("unpack", len(module.SAMPLE)), ("detect", module.NAME), ("plan", module.NAME)]
        for path, text in module.SAMPLE.items():
            assert (tmp_path / module.NAME / "src" / path).read_text() == text
    assert [(question, _fact(question, found)) for question, found in answers] == expected
    assert all(found["plan"]["steps"] for question, found in answers if question == "plan")


def test_a_folder_that_takes_nothing_ends_a_rehearsal(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        rehearsal.rehearse(pipelines.PIPELINES, catalogs.read(catalog_file(""), {}), tmp_path / "none")


def test_what_a_killed_one_left_goes_with_what_killed_owners_left(tmp_path: Path) -> None:
    folder = child.rehearsals(Settings(node_dir=str(tmp_path)))
    folder.mkdir(parents=True)
    rehearsal.rehearse(pipelines.PIPELINES, catalogs.read(catalog_file(""), {}), folder)
    assert remove_left_behind(tmp_path) == 0  # no build had it
    assert list(tmp_path.iterdir()) == []


def _fact(question: str, found: dict[str, Any]) -> object:
    if question == "unpack":
        return found["files"]
    return found["runtime"] if question == "detect" else found["plan"]["detection"]["runtime"]
