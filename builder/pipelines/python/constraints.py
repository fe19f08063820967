"""Constraints of Poetry and Pipenv as specifiers (PEP 440). Pure."""

from __future__ import annotations

import re

_BOUND = re.compile(r"(\^|~=|~|===?|!=|<=?|>=?)?\s{0,8}([0-9][0-9A-Za-z.*+!_-]{0,60}|\*)\s{0,8}")
_MOST_BOUNDS = 20


def specifiers(constraint: object) -> str | None:
    """A constraint of Poetry's or Pipenv's as specifiers (PEP 440), "" for any version; None for none of one range."""
    text = constraint.strip() if isinstance(constraint, str) else "?"
    if len(text) > 200:
        return None
    found: list[str] = []
    for part in (one.strip() for one in text.split(",")):
        at = 0
        while at < len(part):
            match = _BOUND.match(part, at)
            if match is None or len(found) > _MOST_BOUNDS:
                return None
            at = match.end()
            if (one := _bound(match[1] or "", match[2])) is None:
                return None
            found += [one] if one else []
    return ",".join(found)


def _bound(operator: str, version: str) -> str | None:
    if version == "*":
        return "" if operator in ("", "==", "^", ">=", "~") else None
    if operator not in ("^", "~"):
        return f"{operator or '=='}{version}"
    numbers = re.match(r"\d{1,9}(?:\.\d{1,9}){0,9}", version)
    parts = [int(one) for one in numbers[0].split(".")] if numbers else [0]
    if operator == "~":
        at = min(1, len(parts) - 1)
    else:
        at = next((place for place, one in enumerate(parts) if one), len(parts) - 1)
    above = ".".join(str(one) for one in [*parts[:at], parts[at] + 1])
    return f">={version},<{above}"
