"""Who may read the data folder and what lies in it, and what of a request stays once its build has ended."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.control.folder import make_private
from builder.store.engine import open_store
from builder.store.hide import hidden


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_records_are_for_their_user_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store = open_store(f"sqlite:///{data / 'builder.db'}")
    with store.transaction():
        found = {path.name: mode(path) for path in data.iterdir()}
    store.engine.dispose()
    assert found == dict.fromkeys(("builder.db", "builder.db-wal", "builder.db-shm"), 0o600)
    assert mode(data) == 0o700


def test_a_folder_and_a_database_of_an_older_version_are_closed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in (data / "sources", data / "artifacts"):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    for file in (data / "builder.db", data / "lock"):
        file.touch()
        file.chmod(0o644)
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (data / "link").symlink_to(tmp_path / "elsewhere")
    data.chmod(0o755)
    make_private(str(data), str(tmp_path / "node"))
    assert mode(data) == 0o700 and mode(tmp_path / "elsewhere") == 0o755
    names = ("sources", "artifacts", "builder.db", "lock")
    assert [mode(data / name) for name in names] == [0o700, 0o700, 0o600, 0o600]


def test_build_users_pass_through_to_a_node_folder_below_and_list_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    data = tmp_path / "data"
    (data / "node").mkdir(parents=True)
    (data / "node").chmod(0o755)
    (data / "run").mkdir()
    make_private(str(data), str(data / "node"))
    assert (mode(data), mode(data / "node"), mode(data / "run")) == (0o711, 0o755, 0o700)


def test_of_arguments_only_the_names_stay() -> None:
    arguments = {"TOKEN": "s3cret", "B": "two"}
    kept = {"name": "n", "code": {"compile": {"runtime": {"go": {}}, "buildArgs": arguments}}, "buildArgs": arguments}
    names = {"TOKEN": "***", "B": "***"}
    assert json.loads(hidden(json.dumps(kept))) == {
        "name": "n",
        "code": {"compile": {"runtime": {"go": {}}, "buildArgs": names}},
        "buildArgs": names,
    }
    assert hidden('{"name":"n"}') == '{"name":"n"}'
