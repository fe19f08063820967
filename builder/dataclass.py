"""`dataclass` as the standard library has it, made without compiling code.

`dataclasses.dataclass` writes the source of up to six methods for each class and compiles it, half a millisecond a
class. A program that ends in half a second loads 200 of them. Here a class of keywords alone shares its methods with
the others of its kind. `dataclasses.fields`, `replace`, `asdict` and type checkers see no difference.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, FrozenInstanceError
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass"]

T = TypeVar("T")
OWN = frozenset({"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__slots__"})
"""A class that defines one of these decides itself what it is."""

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type[T] | None = None, /, **options: bool) -> Any:
        """The class as a dataclass; the options are those of `dataclasses.dataclass`."""
        return (lambda each: _made(each, options)) if cls is None else _made(cls, options)


def _made(cls: type[T], options: Mapping[str, bool]) -> type[T]:
    if not _is_plain(cls, options):
        made: type[T] = dataclasses.dataclass(**options)(cls)
        return made
    plain: Any = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
    fields = dataclasses.fields(plain)
    names = tuple(field.name for field in fields)
    plain.__init__ = _init_of(plain.__qualname__, fields, has_post_init=hasattr(cls, "__post_init__"))
    plain.__repr__ = _repr_of(tuple(field.name for field in fields if field.repr))
    plain.__eq__, plain.__hash__ = _eq_of(names), None
    if options.get("frozen"):
        plain.__hash__ = _hash_of(names)
        plain.__setattr__, plain.__delattr__ = _refuse_to_set, _refuse_to_delete
        plain.__dataclass_params__.frozen = True
    return cls


def _is_plain(cls: type, options: Mapping[str, bool]) -> bool:
    """Whether a class takes keywords alone, inherits no field, and has none that a method treats apart."""
    own = cls.__dict__
    return (
        options.get("kw_only", False)
        and options.keys() <= {"frozen", "kw_only"}
        and not own.keys() & OWN
        and not any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:])
        and not any(
            "ClassVar" in str(each) or "InitVar" in str(each) for each in own.get("__annotations__", {}).values()
        )
        and all(
            each.init and each.compare and each.hash is None
            for each in own.values()
            if isinstance(each, dataclasses.Field)
        )
    )


def _init_of(name: str, fields: tuple[dataclasses.Field[Any], ...], *, has_post_init: bool) -> Callable[..., None]:
    names = tuple(field.name for field in fields)
    known = frozenset(names)
    defaults = {field.name: field.default for field in fields if field.default is not MISSING}
    factories = {field.name: field.default_factory for field in fields if field.default_factory is not MISSING}
    set_field = object.__setattr__

    def __init__(self: Any, /, **given: Any) -> None:
        if not given.keys() <= known:
            raise TypeError(f"{name}() takes no argument {', '.join(sorted(given.keys() - known))}")
        for each in names:
            if each in given:
                set_field(self, each, given[each])
            elif each in defaults:
                set_field(self, each, defaults[each])
            elif each in factories:
                set_field(self, each, factories[each]())
            else:
                raise TypeError(f"{name}() needs the argument {each}")
        if has_post_init:
            self.__post_init__()

    return __init__


def _repr_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    @recursive_repr()
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _eq_of(names: tuple[str, ...]) -> Callable[[Any, object], bool]:
    values = _values_of(names)

    def __eq__(self: Any, other: object) -> bool:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    return __eq__


def _hash_of(names: tuple[str, ...]) -> Callable[[Any], int]:
    values = _values_of(names)

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __hash__


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
