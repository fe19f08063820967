"""Whom a node trusts without a setting: whom its machine trusts, not a list that an image or a library brings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from builder import config
from builder.errors import BuildError


def ca_bundle(**environ: str) -> str:
    return config.load({}, {"HOME": "/nowhere", **environ}).settings.ca_bundle


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two places where a machine may keep whom it trusts."""
    place = tmp_path / "pki" / "tls-ca-bundle.pem"
    monkeypatch.setattr(config, "CA_FILES", (str(tmp_path / "ssl" / "ca-certificates.crt"), str(place)))
    return place


def test_the_machines_own_bundle_is_the_default(machine: Path) -> None:
    machine.parent.mkdir()
    machine.write_text("")
    assert ca_bundle() == str(machine)


def test_variables_of_its_clients_go_before_it_and_the_setting_before_both(machine: Path) -> None:
    machine.parent.mkdir()
    pip, mine = (str(machine.with_name(name)) for name in ("pip.pem", "mine.pem"))
    for path in (str(machine), pip, mine):
        Path(path).write_text("")
    assert ca_bundle(PIP_CERT=pip) == pip
    assert ca_bundle(PIP_CERT=pip, IGNITE_BUILDER_CA_BUNDLE=mine) == mine


def test_a_machine_without_one_names_none(machine: Path) -> None:
    assert ca_bundle() == ""


def test_a_variable_that_names_no_file_is_nobodys_wish(machine: Path, tmp_path: Path) -> None:
    machine.parent.mkdir()
    machine.write_text("")
    assert ca_bundle(SSL_CERT_FILE=str(tmp_path / "gone.pem")) == str(machine)


def test_a_setting_that_names_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is no file that can be seen") as caught:
        ca_bundle(IGNITE_BUILDER_CA_BUNDLE=str(tmp_path))
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "IGNITE_BUILDER_CA_BUNDLE")


def test_a_variable_of_another_user_is_passed_over(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain user may inherit a path below a folder that is not his."""
    machine.parent.mkdir()
    machine.write_text("")
    stat = os.stat

    def closed(path: str, *rest: Any, **named: Any) -> os.stat_result:
        if str(path) == "/root/own.pem":
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *rest, **named)

    monkeypatch.setattr(os, "stat", closed)
    assert ca_bundle(SSL_CERT_FILE="/root/own.pem") == str(machine)
