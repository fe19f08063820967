"""What a measurement found: rows and sections, kept as JSON with their raw values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.pairs import Spread, spread

MET = "met"
SHORT = "falls short"
NO_TARGET = "–"
NOT_KNOWN = "not known"
LONG_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table. `raw` holds the values it sums up, for whoever wants to look again."""

    what: str
    target: str
    measured: str
    spread: str
    pairs: int
    verdict: str
    raw: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One metric, measured at one commit."""

    metric: str
    commit: str
    date: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def judged(value: float, most: float) -> str:
    """Whether a value that should be small is small enough."""
    return MET if value <= most else SHORT


def ratio_row(what: str, found: Spread, raw: Sequence[float], most: float | None) -> Row:
    """A ratio and its target."""
    return Row(
        what=what,
        target=f"≤ {most:g}×" if most is not None else NO_TARGET,
        measured=f"{found.median:.3g}×",
        spread=f"{found.least:.3g}–{found.most:.3g}×, quartiles {found.low:.3g}–{found.high:.3g}×",
        pairs=found.count,
        verdict=judged(found.median, most) if most is not None else NO_TARGET,
        raw=tuple(raw),
    )


def if_long(row: Row, against: Sequence[float]) -> Row:
    """No verdict where what it was compared with took under a second: the target is for builds longer than that."""
    return row if spread(against).median >= LONG_S else replace(row, verdict=NO_TARGET)


def time_row(what: str, found: Spread, raw: Sequence[float], most_ms: float | None) -> Row:
    """A time in ms, its median judged."""
    return Row(
        what=what,
        target=f"≤ {most_ms:g} ms" if most_ms is not None else NO_TARGET,
        measured=f"{found.median * 1000:.1f} ms",
        spread=f"{found.least * 1000:.1f}–{found.most * 1000:.1f} ms, p95 {found.p95 * 1000:.1f} ms",
        pairs=found.count,
        verdict=judged(found.median * 1000, most_ms) if most_ms is not None else NO_TARGET,
        raw=tuple(raw),
    )


def p95_row(what: str, found: Spread, most_ms: float) -> Row:
    """The 95th percentile of times, judged; the values are in the row of the median."""
    return Row(
        what=what,
        target=f"≤ {most_ms:g} ms",
        measured=f"{found.p95 * 1000:.1f} ms",
        spread=f"up to {found.most * 1000:.1f} ms",
        pairs=found.count,
        verdict=judged(found.p95 * 1000, most_ms),
    )


def count_row(what: str, count: int, most: int, pairs: int, spread: str = "", *, complete: bool = True) -> Row:
    """Something that was counted. A count that is not `complete` is a lower bound: it can fall short, never be met."""
    return Row(
        what=what,
        target=str(most),
        measured=str(count),
        spread=spread or "counted",
        pairs=pairs,
        verdict=judged(count, most) if complete or count > most else NOT_KNOWN,
    )


def load(path: Path) -> dict[str, Section]:
    """The sections of earlier runs; none where there was no run."""
    if not path.is_file():
        return {}
    return {name: _section(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}


def save(path: Path, sections: dict[str, Section]) -> None:
    """Write all sections, with their raw values."""
    path.write_text(
        json.dumps({name: asdict(section) for name, section in sections.items()}, indent=1), encoding="utf-8"
    )


def _section(value: dict[str, Any]) -> Section:
    rows = tuple(Row(**{**row, "raw": tuple(row["raw"])}) for row in value["rows"])
    return Section(**{**value, "rows": rows, "notes": tuple(value["notes"])})
