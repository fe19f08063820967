"""The hook of tests/conftest.py: with `CI` set a skip fails and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MAY_SKIP

pytest_plugins = ["pytester"]

HOOK = (Path(__file__).parents[1] / "conftest.py").read_text()
TESTS = """
import pytest

@pytest.fixture
def no_zsh():
    pytest.skip("zsh is not here")

def test_by_fixture(no_zsh): ...

@pytest.mark.skipif(True, reason="only root may")
def test_by_mark(): ...

def test_by_call():
    pytest.skip("go is not here")

@pytest.mark.xfail(reason="known")
def test_expected():
    raise AssertionError
"""


@pytest.mark.parametrize(("ci", "outcomes"), [("1", {"errors": 2, "failed": 1}), ("", {"skipped": 3})])
def test_a_skip_is_a_failure_only_where_ci_is_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcomes: dict[str, int]
) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makeconftest(HOOK)
    pytester.makepyfile(TESTS)
    ran = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    ran.assert_outcomes(xfailed=1, **outcomes)
    if ci:
        ran.stdout.fnmatch_lines(["*zsh is not here", "*only root may", "*go is not here"])


def test_what_may_skip_may_also_with_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    pytester.makeconftest(HOOK)
    allowed = pytester.path / "tests/e2e/test_sandbox_groups.py"
    allowed.parent.mkdir(parents=True)
    allowed.write_text("import pytest\n\ndef test_one():\n    pytest.skip('no v2')\n")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(skipped=1)


def test_what_may_skip_exists() -> None:
    for node in MAY_SKIP:
        path, _, name = node.partition("::")
        text = (Path(__file__).parents[2] / path).read_text()
        assert f"def {name}(" in text if name else text
