"""JSON with comments and trailing commas, as deno.json(c) has it. Pure; one pass over the text."""

from __future__ import annotations

import json
import re
from typing import Any

from builder.errors import BuildError
from builder.pipelines.limits import TOML_LIMIT
from builder.source.tree import Tree
from builder.text import strangers_json

# A string or a comment as a whole: an unclosed one extends to where it must end, hence one pass.
_TOKEN = re.compile(r'"(?:[^"\\\n]++|\\.)*+"?|//[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?', re.DOTALL)
_TRAILING = re.compile(r'"(?:[^"\\\n]++|\\.)*+"?|,(?=\s*+[}\]])', re.DOTALL)
_NOT_NEWLINE = re.compile(r"[^\n]")


def read_json(tree: Tree, name: str, limit: int = TOML_LIMIT, *, comments: bool = True) -> dict[str, Any]:
    """The object of a JSON file of the source. Raises `BuildError` ManifestInvalid with file, line and column."""
    text = tree.read_text(name, limit)
    if comments:
        text = _TRAILING.sub(lambda found: found[0] if found[0] != "," else " ", _TOKEN.sub(_blank, text))
    try:
        found = strangers_json(text)
    except UnicodeEncodeError:
        raise BuildError("ManifestInvalid", f"{name} has a \\u escape that is no character", where=name) from None
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}:{error.colno}"
        raise BuildError("ManifestInvalid", f"{name} is no JSON: {error.msg}", where=where) from None
    except (ValueError, RecursionError):  # a number of more than 4300 digits, or brackets without end
        raise BuildError("ManifestInvalid", f"{name} is nested too deeply, or has a number too long") from None
    if not isinstance(found, dict):
        raise BuildError("ManifestInvalid", f"{name} is no JSON object", where=name)
    return found


def _blank(found: re.Match[str]) -> str:
    """A string as it is; a comment as blanks, so that lines and columns stay."""
    return found[0] if found[0].startswith('"') else _NOT_NEWLINE.sub(" ", found[0])


def table(whole: object, *keys: str) -> dict[str, Any]:
    """The object at these keys; empty where there is none, or something else."""
    for key in keys:
        whole = whole.get(key) if isinstance(whole, dict) else None
    return whole if isinstance(whole, dict) else {}


def line_of(tree: Tree, name: str, text: str) -> str:
    """file:line of the first line that has this text; the file alone where none has."""
    for number, line in enumerate(tree.read_text(name, 4 * TOML_LIMIT).splitlines(), 1):
        if text in line:
            return f"{name}:{number}"
    return name
