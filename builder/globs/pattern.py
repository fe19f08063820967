"""What patterns of text share: one that is made at its first use, and a set of states for those without a regular
expression that takes no time in proportion to text times pattern. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

_MOST_MOVES = 64
"""Different characters of texts that an automaton remembers."""


class Glob:
    """One pattern. Nothing is made of one that is longer than all it is compared with."""

    def __init__(self, least: int, make: Callable[[], Callable[[str], object]]) -> None:
        self._least = least
        self._make = make
        self._whole: Callable[[str], object] | None = None

    def matches(self, text: str) -> bool:
        """Whether it is the whole of a text."""
        if len(text) < self._least:
            return False
        if self._whole is None:
            self._whole = self._make()
        return bool(self._whole(text))


class Automaton:
    """A pattern as a set of states, the bits of a number: each character of a text moves all of them at once.

    Its parts are added in their order. Of two that may be left out beside each other the first is one of folders, so
    that two moves leave out both.
    """

    def __init__(self) -> None:
        self._end = 1
        self._chars: dict[str, int] = {}
        """A character → the states that wait for it alone."""
        self._classes: dict[str, tuple[Callable[[str], object], int]] = {}
        """The expression of a class → whether a character is of it, and the states that wait for one."""
        self._moves: dict[str, int] = {}
        self._stay = self._stay_in_name = 0
        """States that any character leaves as they are, or any but a slash."""
        self._name_leads_on = self._slash_leads_on = self._slash_leads_back = 0
        self._optional = self._optional_folders = 0
        """States that may be left out; those of folders take two."""

    def _next(self) -> int:
        state, self._end = self._end, self._end << 1
        return state

    def char(self, char: str) -> None:
        """Add one character."""
        self._chars[char] = self._chars.get(char, 0) | self._next()

    def any_of(self, regex: str) -> None:
        """Add any character of a class."""
        matches, states = self._classes.get(regex) or (re.compile(regex, re.DOTALL).fullmatch, 0)
        self._classes[regex] = matches, states | self._next()

    def any_in_name(self) -> None:
        """Add any character but a slash."""
        self._name_leads_on |= self._next()

    def star(self) -> None:
        """Add any number of characters but slashes."""
        state = self._next()
        self._optional |= state
        self._stay_in_name |= state

    def anything(self) -> None:
        """Add any number of characters."""
        state = self._next()
        self._optional |= state
        self._stay |= state

    def folders(self) -> None:
        """Add any number of folders, each a name with its slash."""
        before, inside = self._next(), self._next()
        self._optional_folders |= before
        self._name_leads_on |= before
        self._stay_in_name |= inside
        self._slash_leads_back |= inside

    def up_to_a_slash(self) -> None:
        """Add anything that ends with a slash, or nothing."""
        before, inside = self._next(), self._next()
        self._optional_folders |= before
        self._optional |= before  # it is inside from its first character on
        self._stay |= inside
        self._slash_leads_on |= inside

    def __call__(self, text: str) -> bool:
        states = self._skipped(1)
        for char in text:
            moved = (states & self._move(char)) << 1 | states & self._stay
            if char == "/":
                moved |= (states & self._slash_leads_on) << 1 | (states & self._slash_leads_back) >> 1
            else:
                moved |= (states & self._name_leads_on) << 1 | states & self._stay_in_name
            if not moved:
                return False
            states = self._skipped(moved)
        return bool(states & self._end)

    def _skipped(self, states: int) -> int:
        """With the states behind what may be left out."""
        states |= (states & self._optional_folders) << 2
        return states | (states & self._optional) << 1

    def _move(self, char: str) -> int:
        """The states that this character leaves for the next."""
        found = self._chars.get(char, 0)
        if not self._classes:
            return found
        known = self._moves.get(char)
        if known is None:
            if len(self._moves) >= _MOST_MOVES:
                self._moves.clear()
            for matches, states in self._classes.values():
                if matches(char):
                    found |= states
            self._moves[char] = known = found
        return known
