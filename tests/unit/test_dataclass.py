"""`builder.dataclass` makes what `dataclasses.dataclass` makes, without compiling a method for each class."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field
from typing import ClassVar

import pytest

from builder.dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A class of keywords alone."""

    name: str
    words: tuple[str, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    secret: str = field(default="", repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theirs:
    """The same, as the standard library makes it."""

    name: str
    words: tuple[str, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    secret: str = field(default="", repr=False)


@dataclass(kw_only=True)
class Open:
    """One whose fields change."""

    count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("negative")


@dataclass(frozen=True, kw_only=True)
class Named(Ours):
    """One that inherits fields."""

    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One with a class variable and a method of its own."""

    kind: ClassVar[str] = "counted"
    count: int

    def __repr__(self) -> str:
        return f"<{self.count}>"


@dataclass
class Placed:
    """One that takes its fields by place."""

    left: int
    right: int = 2


METHODS = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


def compiled_for(cls: type) -> set[str]:
    """The methods of a class whose source was written for it."""
    return {name for name in METHODS if getattr(cls, name).__code__.co_filename == "<string>"}


def test_a_class_of_keywords_alone_has_no_method_that_was_compiled_for_it() -> None:
    assert compiled_for(Ours) == set()
    assert {"__init__", "__hash__"} <= compiled_for(Theirs)


def test_what_reads_dataclasses_reads_these() -> None:
    one = Ours(name="a", words=("b",))
    assert dataclasses.is_dataclass(Ours)
    assert [each.name for each in dataclasses.fields(Ours)] == [each.name for each in dataclasses.fields(Theirs)]
    assert dataclasses.asdict(one) == dataclasses.asdict(Theirs(name="a", words=("b",)))
    assert dataclasses.replace(one, name="c") == Ours(name="c", words=("b",))
    assert list(vars(one)) == list(vars(Theirs(name="a")))
    assert copy.deepcopy(one) == copy.copy(one) == pickle.loads(pickle.dumps(one)) == one
    match Ours(name="a"):
        case Ours(name=found):
            assert found == "a"


def test_it_is_shown_compared_and_hashed_alike() -> None:
    assert repr(Ours(name="a", secret="s")) == repr(Theirs(name="a", secret="s")).replace("Theirs", "Ours")
    assert Ours(name="a") == Ours(name="a") != Ours(name="b")
    assert Ours(name="a") != Theirs(name="a")
    nan = float("nan")
    assert Ours(name="a", table={"n": 1}) != Ours(name="a")
    assert Ours(name=nan) == Ours(name=nan)  # type: ignore[arg-type]
    assert hash(Counted(count=1)) == hash(Counted(count=1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours(name="a"))  # a dict is a field
    with pytest.raises(TypeError, match="unhashable"):
        hash(Open())


def test_a_default_factory_is_called_for_each() -> None:
    assert Ours(name="a").table is not Ours(name="a").table


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Ours\(\) needs the argument name"):
        Ours()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Ours\(\) takes no argument nmae"):
        Ours(name="a", nmae="b")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Ours("a")  # type: ignore[misc]


def test_a_frozen_one_stays_what_it_is() -> None:
    one = Ours(name="a")
    with pytest.raises(FrozenInstanceError):
        one.name = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.name
    assert one.name == "a"
    changing = Open()
    changing.count = 3
    assert changing == Open(count=3)


def test_post_init_is_asked() -> None:
    with pytest.raises(ValueError, match="negative"):
        Open(count=-1)


def test_any_other_class_is_the_standard_library_s() -> None:
    named = Named(name="a", more=2)
    assert repr(named) == "Named(name='a', words=(), table={}, more=2)" and named != Ours(name="a")
    with pytest.raises(FrozenInstanceError):
        named.more = 3  # type: ignore[misc]
    assert repr(Counted(count=1)) == "<1>" and Counted.kind == "counted"
    assert Placed(1) == Placed(1, 2) == Placed(left=1)
