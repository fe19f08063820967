"""`doctor` says what follows from what is missing, not only that it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import sandbox
from builder.engine.api import unreachable
from builder.local import doctor
from builder.sandbox import HostCheck
from builder.settings import Settings
from builder.toolchains import wasmtime

OVERLAY: dict[str, str] = {}
"""Folder → why no overlay can be mounted there."""
NO_GROUPS = "not writable: memory and processes are watched from outside, CPU is not limited"


def look(monkeypatch: pytest.MonkeyPatch, folder: Path, *said: HostCheck, **flags: Any) -> dict[str, doctor.Finding]:
    """The findings by name on a host whose sandbox says this; trying it out takes a process."""
    monkeypatch.setattr(sandbox, "check", lambda: said)
    monkeypatch.setattr(sandbox, "lacks_overlay", lambda folder: OVERLAY.get(folder, ""))
    return {one.name: one for one in doctor.findings(Settings(node_dir=str(folder), **flags))}


def test_what_a_sources_own_code_gets_of_a_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = "caches where a source's own code runs: "
    assert look(monkeypatch, tmp_path)[f"{place}an overlay of the organization's, thrown away"].ok
    monkeypatch.setitem(OVERLAY, str(tmp_path), "the worker is not root")
    assert f"{place}empty ones at first, thrown away (the worker is not root)" in look(monkeypatch, tmp_path)


def test_without_control_groups_cpu_is_not_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = HostCheck(name="control groups", ok=False, detail=NO_GROUPS, next="Delegate=yes")
    found = look(monkeypatch, tmp_path, missing)["control groups"]
    assert (found.ok, found.effect, found.mend) == (False, NO_GROUPS, "Delegate=yes")


def test_control_groups_that_are_switched_off_are_said_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "use_cgroups is off" not in look(monkeypatch, tmp_path)
    assert "CPU is not limited" in look(monkeypatch, tmp_path, use_cgroups=False)["use_cgroups is off"].effect


def test_a_compressor_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert look(monkeypatch, tmp_path)["compressor"].ok
    monkeypatch.setattr("builder.images.layer.KNOWN_DIGEST", "another")
    found = look(monkeypatch, tmp_path)["compressor"]
    assert not found.ok
    assert "other digests" in found.effect


def test_a_node_needs_no_redis_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "redis-server" in look(monkeypatch, tmp_path)
    found = look(monkeypatch, tmp_path, server="http://127.0.0.1:1", redis_url="nonsense")
    assert "redis-server" not in found and "mmdebstrap" in found


@pytest.mark.parametrize(("token", "effect"), [("", "the server takes no call without one"), ("a\nb", "no header")])
def test_a_token_that_cannot_be_sent_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, effect: str
) -> None:
    found = look(monkeypatch, tmp_path, server="http://127.0.0.1:1", token=token, redis_url="nonsense")
    assert not found["token"].ok and effect in found["token"].effect and "token_file" in found["token"].mend


@pytest.mark.parametrize("url", ["nonsense", "http://u:secret@h", "redis://u:secret@127.0.0.1/0?unknown=1"])
def test_a_broker_that_cannot_be_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    found = look(monkeypatch, tmp_path, server="http://127.0.0.1:1", redis_url=url)
    assert not found["broker"].ok and "redis_url" in found["broker"].mend
    assert "secret" not in found["broker"].effect


def test_a_catalog_without_a_row_of_a_loaded_pipeline_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        '[[row]]\nruntime = "go"\nversion = "1.26"\ntoolchain = "go-1.26"\nbase = "go"\ndefault = true\n'
    )
    found = look(monkeypatch, tmp_path, catalog=str(catalog))
    assert not found["python"].ok
    assert 'there is no runtime "python"; the catalog has go' in found["python"].effect
    assert found["python"].mend == "add a row for python to the catalog, or take its pipeline out of pipelines"
    assert "go-1.26" in found


def test_a_user_who_cannot_make_a_base_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builder.bases.debian.os.geteuid", lambda: 0)
    assert "uidmap" not in look(monkeypatch, tmp_path)
    monkeypatch.setattr("builder.bases.debian.os.geteuid", lambda: 1000)
    monkeypatch.setattr("builder.bases.debian.shutil.which", lambda name: None)
    found = look(monkeypatch, tmp_path)["uidmap"]
    assert not found.ok and "newuidmap" in found.effect and found.mend == "apt-get install -y uidmap"


def test_a_disk_below_a_floor_is_what_keeps_a_worker_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "disk" not in look(monkeypatch, tmp_path, node_free_bytes=0, node_free_inodes=0)
    found = look(monkeypatch, tmp_path, node_free_bytes=1 << 60)["disk"]
    assert not found.ok and "takes no builds here" in found.effect and "node_free_bytes" in found.effect


def test_each_missing_part_of_a_toolchain_has_its_own_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_base = look(monkeypatch, tmp_path)["go-1.26"]
    assert without_base.mend == "ignite-builder runtimes fetch go-1.26"
    assert without_base.effect == "go-1.26: base image go is not on this node"
    monkeypatch.setattr("builder.images.store.ImageStore.get", lambda store, name: SimpleNamespace(digest="d"))
    monkeypatch.setattr(doctor, "find_program", lambda name: None)
    monkeypatch.setattr("builder.toolchains.host.find_program", lambda name: None)
    found = look(monkeypatch, tmp_path)
    assert found["go-1.26"].effect == "go-1.26: go is not on the PATH of this node"
    assert found["go-1.26"].mend == "ignite-builder runtimes fetch go-1.26"
    assert found["python-3.11"].mend == "install it and put uv on the PATH of this node"


def test_what_serves_components_has_its_own_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "find_program", lambda name: None)
    found = look(monkeypatch, tmp_path)["wasmtime"]
    assert not found.ok and found.mend == "ignite-builder runtimes fetch wasmtime"
    assert "components do not run here" in found.effect
    program = wasmtime.WHEEL.place(tmp_path / "toolchains")
    program.parent.mkdir(parents=True)
    program.write_bytes(b"")
    assert look(monkeypatch, tmp_path)["wasmtime"].ok


def test_an_engine_is_named_with_whom_it_builds_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = "unix:///run/docker.sock"
    there = SimpleNamespace(version=lambda: "20.10.24", close=lambda: None)
    monkeypatch.setattr(doctor, "connect", lambda host: there)
    found = look(monkeypatch, tmp_path, docker_host=host, organization="acme")
    (name,) = (one for one in found if one.startswith(f"Docker engine 20.10.24 at {host}"))
    assert found[name].ok and "root" in name and "organization acme alone" in name

    def away(host: str) -> None:
        raise unreachable(host, FileNotFoundError(2, "No such file or directory"))

    monkeypatch.setattr(doctor, "connect", away)
    missing = look(monkeypatch, tmp_path, docker_host=host)["docker_host"]
    assert not missing.ok and "No such file or directory" in missing.effect and "docker_host" in missing.mend
    assert not [one for one in look(monkeypatch, tmp_path) if "ocker" in one]
