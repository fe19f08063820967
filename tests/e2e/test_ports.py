"""Ports of servers that are started here: no connection of another process takes one before they listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.local import ports

pytestmark = pytest.mark.e2e


def test_a_port_is_below_those_of_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    (tmp_path / "range").write_text("10250\t60999\n")
    assert all(ports.LOWEST <= ports.free_port() < 10250 for _ in range(50))


@pytest.mark.parametrize("text", ["1024 65535", "", "x y"])
def test_without_room_below_them_the_kernel_picks_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    (tmp_path / "range").write_text(text)
    assert ports.free_port() > 0
