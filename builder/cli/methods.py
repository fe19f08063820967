"""Methods of dataclasses, compiled when they are first called: a program that lives for one build calls few of them.

`dataclasses` writes the text of up to six methods for a class and compiles each at once. For the classes of a local
build that is a quarter of all that its imports take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

MAKER = "_create_fn"
"""What compiles one method in CPython 3.11 and 3.12. A later Python has another one, and compiles at once."""


def compile_when_called() -> None:
    """From here on dataclasses compile no method before its first call. What a method does stays the same."""
    make = vars(dataclasses).get(MAKER)
    if make is not None and make.__module__ == dataclasses.__name__:
        setattr(dataclasses, MAKER, _deferring(make))


def _deferring(make: Callable[..., Callable[..., Any]]) -> Callable[..., Callable[..., Any]]:
    def deferred(name: str, *text: Any, **scope: Any) -> Callable[..., Any]:
        made: list[Callable[..., Any]] = []

        def first(self: Any, *args: Any, **named: Any) -> Any:
            if not made:  # of two threads each may compile it; one is as good as the other
                made.append(make(name, *text, **scope))
            _put(type(self), first, made[0])
            return made[0](self, *args, **named)

        first.__name__ = name
        return first

    return deferred


def _put(cls: type, first: Callable[..., Any], made: Callable[..., Any]) -> None:
    """Put the compiled method in the place of the one that compiles it, where a class has that still."""
    name = first.__name__
    for each in cls.__mro__:
        own: Mapping[str, Any] = vars(each)
        if own.get(name) is first:
            made.__qualname__ = first.__qualname__
            setattr(each, name, made)
            return
