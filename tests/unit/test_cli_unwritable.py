"""A folder of the settings that cannot be written is the machine's condition, and no bug of the program's."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from builder.cli.stop import DISK_ERRORS, of_disk
from builder.settings import Settings
from tests.cli_fixtures import run

FOLDERS = {"data_dir": "/home/ada/.local/share/ignite-builder", "node_dir": "/var/lib/ignite-builder"}


@pytest.mark.parametrize("number", sorted(DISK_ERRORS))
@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/home/ada/.local", "data_dir"),
        ("/home/ada/.local/share/ignite-builder/builder.db", "data_dir"),
        ("/var/lib/ignite-builder/work/x", "node_dir"),
    ],
    ids=["above", "below", "of the node"],
)
def test_the_setting_is_named_and_the_platform_at_fault(number: int, path: str, setting: str) -> None:
    found = of_disk(OSError(number, "words", path), FOLDERS)
    assert found is not None
    assert (found.exit_code, found.error_class, found.where) == (75, "platform", setting)
    assert path in found.message and "words" in found.message
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert (found.reason == "NodeDiskFull") is full
    assert ("Free space" if full else f"IGNITE_BUILDER_{setting.upper()}=FOLDER") in found.next


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, "words", "/etc/passwd"),
        OSError(errno.EROFS, "words"),
        OSError(errno.EBADF, "words", "/var/lib/ignite-builder/x"),
    ],
    ids=["elsewhere", "nameless", "another error"],
)
def test_any_other_error_stays_a_bug_of_ours(error: OSError) -> None:
    assert of_disk(error, FOLDERS) is None


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    ran = run("ls", settings=Settings(data_dir=str(tmp_path / "home" / "data"), node_dir=str(tmp_path / "node")))
    assert ran.code == 75 and "REFUSED  Internal" in ran.err and "data_dir" in ran.err, ran
    assert "bug of ours" not in ran.err
