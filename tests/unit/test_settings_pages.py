"""Every setting stands in a page, and the table of limits and clocks has the defaults of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.settings import NAMES, Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
LIMITS = (DOCS / "operators.md").read_text(encoding="utf-8").partition("\n## Limits and clocks\n")[2]
ROWS = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", LIMITS.partition("\n## ")[0], re.MULTILINE))
UNITS = {"": 1, "MiB": 1024**2, "GiB": 1024**3}


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_stands_in_a_page(name: str) -> None:
    """As `name`, as `name = value`, or in a line of a settings file."""
    assert re.search(rf"`{name}`|(?:`|^){name} = ", PAGES, re.MULTILINE)


def test_the_limits_and_clocks_are_those_of_the_code() -> None:
    wanted = {"timeout_ms", "queue_timeout_ms", "memory_bytes", "pids", "log_bytes", "lease_ms", "retry_backoff_ms"}
    assert wanted < set(ROWS)
    defaults = Settings()
    for name, text in ROWS.items():
        number, _, unit = text.strip().replace(",", "").partition(" ")
        assert float(number) * UNITS[unit] == getattr(defaults, name), name
