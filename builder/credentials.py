"""Secrets of organizations: typed values, sealed in the store, opened where a build needs one. None goes out.

A value is bound to its organization, name, type, host and version. Whoever opens one names the type that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import BuildError, PlatformError
from builder.settings import Settings
from builder.store import secrets
from builder.store.engine import Store
from builder.store.rows import Row
from builder.store.secrets import BUILD, GIT, REGISTRY
from builder.text import visible
from builder.vault import Unreadable, Vault

MOST_SECRETS = 1000
WORDS = {BUILD: "build", GIT: "git", REGISTRY: "registry"}


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """Credentials of a registry secret. `host`: the only one that they are sent to; empty: any."""

    username: str
    password: str = field(repr=False)
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class GitLogin:
    """Credentials of a git secret: a token or a private key, never both. `host`: the only one; empty: any."""

    username: str = ""
    token: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    known_hosts: str = ""
    host: str = ""
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """The secrets of one store. Raises `BuildError` SecretNotFound, SecretWrongType; Internal for a lost key."""

    store: Store
    vault: Vault

    def save(self, organization: str, name: str, type_: str, host: str, value: dict[str, str]) -> Row:
        """Store a value, a new version where the name is known. Raises `secrets.TooMany`."""
        text = json.dumps(value, sort_keys=True).encode()

        def seal(identity: str) -> str:
            return self.vault.seal(identity, text)

        # Before the store is locked. With secrets in the store the file was lost, or is another process's: a second key
        # would part them in two, of which each process opens one.
        self.vault.seal("", b"", make=not secrets.are_there(self.store))
        return secrets.save(self.store, organization, name, type_, host, seal, MOST_SECRETS)

    def listed(self, organization: str) -> Sequence[Row]:
        """What is known of each; no value."""
        return secrets.listed(self.store, organization)

    def remove(self, organization: str, name: str) -> None:
        """Delete one."""
        if not secrets.remove(self.store, organization, name):
            raise _not_found(name, "name")

    def check(self, organization: str, name: str, type_: str, where: str) -> Row:
        """That there is a secret of this name and type."""
        row = secrets.find(self.store, organization, name)
        if row is None:
            raise _not_found(name, where)
        if row["type"] != type_:
            message = f'{where} "{name}" is a {WORDS[row["type"]]} secret; a {WORDS[type_]} secret is needed here'
            raise BuildError("SecretWrongType", message, where=where, next=f"Name one of type {WORDS[type_]}.")
        return row

    def registry(self, organization: str, name: str, where: str) -> RegistryLogin:
        """A registry login."""
        row, value = self._opened(organization, name, REGISTRY, where)
        return RegistryLogin(username=value["username"], password=value["password"], host=row["host"])

    def git(self, organization: str, name: str, where: str) -> GitLogin:
        """Credentials for a git host."""
        row, value = self._opened(organization, name, GIT, where)
        return GitLogin(**value, host=row["host"], version=row["version"])

    def _opened(self, organization: str, name: str, type_: str, where: str) -> tuple[Row, dict[str, Any]]:
        row = self.check(organization, name, type_, where)
        identity = secrets.identity(organization, name, type_, row["host"], row["version"])
        try:
            return row, json.loads(self.vault.open(identity, row["sealed"]))
        except Unreadable as why:
            raise PlatformError("Internal", f'the stored secret "{name}" cannot be opened: {why}') from None


def secrets_of(settings: Settings, store: Store) -> Secrets:
    """The secrets of a store, under the key file of the settings."""
    return Secrets(store=store, vault=Vault(Path(settings.secrets_key)))


def _not_found(name: str, where: str) -> BuildError:
    message = f'there is no secret "{visible(name, limit=80)}" in your organization'
    return BuildError("SecretNotFound", message, where=where)
