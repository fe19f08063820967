"""Methods of dataclasses that are compiled with their first call do what those do that are compiled at once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from builder.cli.methods import MAKER, compile_when_called

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python compiles at once")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the methods that are compiled, from here on each with its first call."""
    make: Callable[..., Any] = vars(dataclasses)[MAKER]
    names: list[str] = []

    def counting(name: str, *text: Any, **scope: Any) -> Any:
        names.append(name)
        return make(name, *text, **scope)

    counting.__module__ = dataclasses.__name__
    monkeypatch.setattr(dataclasses, MAKER, counting)
    compile_when_called()
    compile_when_called()  # twice is once
    return names


def test_a_class_that_nobody_calls_compiles_nothing(compiled: list[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Point:
        """A point."""

        x: int
        y: int = 0

    assert compiled == [] and [each.name for each in dataclasses.fields(Point)] == ["x", "y"]
    assert Point(x=1).y == 0 and compiled == ["__init__"]
    assert Point(x=2).x == 2 and compiled == ["__init__"]


def test_each_method_does_what_it_did(compiled: list[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Line:
        """A line."""

        text: str
        marks: tuple[str, ...] = field(default_factory=tuple)

        def __post_init__(self) -> None:
            object.__setattr__(self, "text", self.text.strip())

    @dataclass(frozen=True, kw_only=True)
    class Numbered(Line):
        """A line with its number."""

        number: int = 0

    one = Line(text=" a ")
    assert one == Line(text="a") and one != Line(text="b") and one != Numbered(text="a")
    assert hash(one) == hash(Line(text="a")) and len({one, replace(one, text="b")}) == 2
    assert repr(Numbered(text="a", number=3)).endswith("Numbered(text='a', marks=(), number=3)")
    with pytest.raises(FrozenInstanceError):
        one.text = "c"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.text
    with pytest.raises(TypeError, match="unexpected keyword argument 'word'"):
        Line(word="a")  # type: ignore[call-arg]
    assert Line.__init__.__qualname__.endswith("Line.__init__")
    assert compiled.count("__init__") == 2


def test_slots_and_order_are_what_they_were(compiled: list[str]) -> None:
    @dataclass(order=True, slots=True)
    class Due:
        """When something is due."""

        at: int
        name: str = ""

    due = Due(2, "b")
    due.at = 1
    assert Due(1, "a") < due < Due(3) and sorted([Due(2), due])[0] is due
    assert not hasattr(due, "__dict__")


def test_a_python_without_it_compiles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(dataclasses, MAKER)
    compile_when_called()
    assert not hasattr(dataclasses, MAKER)
