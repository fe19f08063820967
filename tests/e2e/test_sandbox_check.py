"""What a worker asks before it starts: one sandbox that fails is no verdict, and the words name what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import sandbox
from builder.sandbox import launch
from tests.sandbox_fixtures import PYTHON

pytestmark = pytest.mark.e2e

REAL = launch.program("bwrap")
FAULT = f"exec {PYTHON} -c 'import ctypes; ctypes.string_at(0)'"
"""It is process 1 of its PID namespace: of its own signals only a fault reaches it."""
SCRIPT = """\
#!/bin/sh
[ "$1" = --version ] && {{ echo "bubblewrap {version}"; exit; }}
echo >> {tries}
[ $(wc -l < {tries}) -le {fails} ] && {{ {how}; }}
exec {real} "$@"
"""


class Bubblewrap:
    """The real one behind a script that fails some times first."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        (folder / "tries").touch()
        (folder / "tries").chmod(0o666)
        self.folder = folder

    def fail(self, times: int, how: str = FAULT, version: str = "0.8.0") -> None:
        tries = self.folder / "tries"
        text = SCRIPT.format(version=version, tries=tries, fails=times, how=how, real=REAL)
        (self.folder / "bwrap").write_text(text)
        (self.folder / "bwrap").chmod(0o755)

    @property
    def tries(self) -> int:
        return len((self.folder / "tries").read_text().splitlines())


@pytest.fixture
def bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bubblewrap:
    monkeypatch.setattr(launch, "FOLDERS", (str(tmp_path), *launch.FOLDERS))
    for folder in tmp_path.parents:
        if folder.stat().st_uid == tmp_path.stat().st_uid and "pytest" in folder.name:
            folder.chmod(0o755)  # others must be able to enter
    return Bubblewrap(tmp_path)


def found() -> dict[str, sandbox.HostCheck]:
    return {finding.name: finding for finding in sandbox.check()}


def test_a_sandbox_that_fails_twice_and_works_then_is_one(bubblewrap: Bubblewrap) -> None:
    bubblewrap.fail(2)
    finding = found()["sandbox"]
    assert finding.ok, finding.detail
    assert bubblewrap.tries == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (FAULT, "bubblewrap ended by signal 11 without a word, 3 times in a row"),
        ("exit 7", "bubblewrap ended with exit status 7 without a word, 3 times in a row"),
        ("echo no room >&2; exit 1", "no room (ended with exit status 1), 3 times in a row"),
    ],
)
def test_how_it_ended_is_said_and_nothing_that_is_there_is_to_be_installed(
    bubblewrap: Bubblewrap, how: str, said: str
) -> None:
    bubblewrap.fail(99, how)
    findings = found()
    assert not findings["sandbox"].ok and findings["bubblewrap"].ok
    assert said in findings["sandbox"].detail
    assert "install" not in findings["sandbox"].detail + findings["sandbox"].next
    assert bubblewrap.tries == 3


def test_a_bubblewrap_that_is_too_old_is_named_with_the_command_that_mends_it(bubblewrap: Bubblewrap) -> None:
    bubblewrap.fail(0, version="0.6.1")
    finding = found()["bubblewrap"]
    assert not finding.ok and finding.detail == "bubblewrap 0.6.1 is too old"
    assert "0.8 or newer: apt-get install -y bubblewrap" in finding.next
