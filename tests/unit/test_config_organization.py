"""A client's token is for one organization, whose name is safe in a repository's name and in a folder's."""

from __future__ import annotations

import json

import pytest

from builder import config
from builder.errors import BuildError
from builder.settings import Settings

WRONG = ("", "..", ".", "a/b", "../b", "a..b", "-a", "a-", "Acme", "a b", "a\n", "\u00e9")
RIGHT = ("acme", "a", "a-b.c_d", "0")


def load(name: str, value: str) -> Settings:
    return config.load({}, {"HOME": "/nowhere", f"IGNITE_BUILDER_{name}": value}).settings


def tokens(organization: str, *scopes: str) -> str:
    return f'[{{ token = "hunter2", organization = {json.dumps(organization)}, scopes = {list(scopes)} }}]'


@pytest.mark.parametrize("scope", ["submit", "read"])
@pytest.mark.parametrize("name", WRONG)
def test_a_clients_token_names_an_organization(name: str, scope: str) -> None:
    with pytest.raises(BuildError, match=r"tokens: .*is no organization") as refused:
        load("TOKENS", tokens(name, scope, "worker"))
    assert refused.value.reason == "InvalidRequest"
    assert "hunter2" not in str(refused.value) + refused.value.message


@pytest.mark.parametrize("name", WRONG)
def test_so_does_the_setting_of_the_embedded_mode(name: str) -> None:
    with pytest.raises(BuildError, match=r"organization: .*is no organization"):
        config.load({"organization": name}, {"HOME": "/nowhere"})


@pytest.mark.parametrize("name", RIGHT)
def test_what_fits_is_taken(name: str) -> None:
    assert load("TOKENS", tokens(name, "submit")).tokens[0].organization == name
    assert load("ORGANIZATION", name).organization == name


def test_a_workers_token_needs_none() -> None:
    assert load("TOKENS", tokens("", "worker")).tokens[0].organization == ""
