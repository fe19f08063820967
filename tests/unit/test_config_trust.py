"""Whom a node trusts without a setting: whom its machine trusts, not a list that an image or a library brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import config


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
    machine.write_text("")
    assert ca_bundle(PIP_CERT="/of/pip.pem") == "/of/pip.pem"
    assert ca_bundle(PIP_CERT="/of/pip.pem", IGNITE_BUILDER_CA_BUNDLE="/mine.pem") == "/mine.pem"


def test_a_machine_without_one_names_none(machine: Path) -> None:
    assert ca_bundle() == ""
