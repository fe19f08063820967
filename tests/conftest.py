"""Where `CI` is set, a skipped test is a failed one: what was not looked at must not look as if it were fine."""

from __future__ import annotations

import functools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# No test asserts a time: a deadline of Hypothesis would, and its check of slow generation, on a machine that is busy.
# Each run has the same examples, so that a failure belongs to the change that brought it; others are looked for by
# `pytest --hypothesis-profile explore`.
UNTIMED = hypothesis.settings(deadline=None, derandomize=True, suppress_health_check=(hypothesis.HealthCheck.too_slow,))
hypothesis.settings.register_profile("explore", UNTIMED, derandomize=False)
hypothesis.settings.register_profile("untimed", UNTIMED)
hypothesis.settings.load_profile("untimed")

# A session under nohup, or in the background of a script, would hand its deaf ears down to every program that a test
# sends a signal to.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

MAY_SKIP = {
    "tests/e2e/test_sandbox_groups.py": "a host whose controllers are all on cgroup v1 has no v2 hierarchy to try",
    "tests/e2e/test_disk_fence.py": "a container may be lent no loop device",
    "tests/e2e/test_sandbox.py::test_cpu_time_is_shared_out": "a container may be lent no cpu control group",
}
"""Node ids, by how they begin, and why a Debian machine may not have what they need, whatever is installed on it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--part` is for sessions side by side (tests/lanes.py)."""
    parser.addoption("--part", default="1/1", metavar="K/N", help="only the files of one of N parts of each folder")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of another part is not even imported."""
    part, count = map(int, config.getoption("--part").split("/"))
    if count == 1 or not collection_path.match("test_*.py"):
        return None
    return parts_of(collection_path.parent, count)[collection_path] != part - 1 or None


@functools.cache
def parts_of(folder: Path, count: int) -> dict[Path, int]:
    """Test file → the part that it belongs to (from 0). Parts have as many bytes each, as far as that goes: a file goes
    to the smallest, the largest file first."""
    sizes = [0] * count
    parts = {}
    weights = {path: bytes_of(path) for path in folder.glob("test_*.py")}
    for path in sorted(weights, key=lambda path: (-weights[path], path)):
        parts[path] = sizes.index(min(sizes))
        sizes[parts[path]] += weights[path]
    return parts


def bytes_of(path: Path) -> int:
    """The size of a test file and of the package of tests that it runs, if it is there for one."""
    text = path.read_bytes()
    shared: list[bytes] = re.findall(rb"^from tests\.(\w+) import \*", text, re.MULTILINE)
    modules = [module for name in shared for module in (Path(__file__).parent / name.decode()).glob("*.py")]
    return len(text) + sum(module.stat().st_size for module in modules)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure that says what is missing."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    expected = hasattr(report, "wasxfail")
    if os.environ.get("CI") and report.skipped and not expected and not report.nodeid.startswith(tuple(MAY_SKIP)):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = (
            f"{why.removeprefix('Skipped: ')}\n"
            "CI is set and nothing may be skipped: install what is missing (deploy/setup, as root), or say in "
            "tests/conftest.py why a machine cannot have it"
        )
