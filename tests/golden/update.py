"""The golden plans of the examples, the golden Jobs and mistakes. `make golden` writes them again.

The diff is the review.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from builder import pipelines
from builder.data import runtimes_dir
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.source.tree import DictTree
from tests.golden import jobs, mistakes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OURS = frozenset({"expect.toml", "plan.json"})


def examples() -> list[Path]:
    """Every example folder: the ones with an expectation."""
    return sorted(path.parent for path in EXAMPLES.glob("*/expect.toml"))


def files_of(folder: Path) -> dict[str, str | bytes]:
    """The source of an example, without what is about it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OURS and "__pycache__" not in path.parts
    }


def target_of(folder: Path) -> str:
    """What an example is compiled to; empty for the default of its runtime."""
    return str(tomllib.loads((folder / "expect.toml").read_text()).get("target", ""))


def plan_text(folder: Path) -> str:
    """The plan of an example as it is kept."""
    tree = DictTree(files_of(folder))
    found = pipelines.detect(tree)
    request, rows = PlanRequest(target=target_of(folder)), catalog.read(runtimes_dir() / "catalog.toml")
    plan = pipelines.plan(found, tree, request, rows)
    return json.dumps(plan.to_json(), indent=2) + "\n"


if __name__ == "__main__":
    for folder in examples():
        (folder / "plan.json").write_text(plan_text(folder))
    for name, value in jobs.all_manifests().items():
        (jobs.FOLDER / f"{name}.json").write_text(jobs.text_of(value))
    mistakes.FILE.write_text(mistakes.text())
