"""docs/security.md names tests that there are, and every probe of the edges holds a border of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.edges import PROBES, api, egress, protocol, redis_queue, steps

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"\[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", PAGE)
AREAS = (api, egress, protocol, redis_queue, steps)


def test_every_test_that_the_page_names_exists() -> None:
    probes = {(one.name, f"tests/edges/{one.area}.py") for one in PROBES}
    gone = [
        f"{path}: {name}"
        for name, path in NAMED
        if (name, path) not in probes and f"\ndef {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert len(NAMED) > 100 and not gone, gone


def test_every_probe_holds_a_border_of_the_page() -> None:
    assert len(AREAS) == len({one.area for one in PROBES})
    assert {one.name for one in PROBES} - {name for name, _ in NAMED} == set()


def test_every_border_names_a_test() -> None:
    borders = PAGE.partition("\n## Borders\n")[2].partition("\n## ")[0]
    rows = [row for row in borders.splitlines() if row.startswith("| ") and not row.startswith("| what may cross")]
    assert len(rows) > 20
    assert [row for row in rows if "](../tests/" not in row] == []


def test_links_of_both_pages_lead_somewhere() -> None:
    for page in (ROOT / "docs/security.md", ROOT / "SECURITY.md", ROOT / "README.md"):
        targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert targets and [one for one in targets if not (page.parent / one).exists()] == [], page.name
    assert {"docs/security.md", "SECURITY.md"} <= set(re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()))
