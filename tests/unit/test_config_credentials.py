"""What is handed into a sandbox by name holds no credential: refused when the settings are read, without saying it."""

from __future__ import annotations

import pytest

from builder import config, indexes
from builder.errors import BuildError
from builder.sandbox.policy import hosts_of

HELD = {
    "a URL with a password": ("UV_DEFAULT_INDEX", "https://user:hunter2@host.test/simple"),
    "a URL with a token for a user": ("UV_INDEX_URL", "https://hunter2@host.test/simple"),
    "a named index": ("UV_INDEX", "mine=https://user:hunter2@host.test/simple"),
    "the second of a list": ("GOPROXY", "https://proxy.golang.org,https://user:hunter2@host.test|direct"),
    "an empty user": ("PIP_INDEX_URL", "https://:hunter2@host.test/simple"),
    "a password variable": ("UV_INDEX_MINE_PASSWORD", "hunter2"),
    "a program that gives one": ("GOAUTH", "git hunter2"),
}
FREE = {
    "UV_DEFAULT_INDEX": "https://host.test:8443/simple/@scope/x?y=a@b",
    "UV_INDEX": "mine=https://other.test/simple",
    "GOPROXY": "https://proxy.golang.org,direct",
    "GOSUMDB": "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
}


@pytest.mark.parametrize("how", HELD)
@pytest.mark.parametrize("origin", ["own variable", "setting"])
def test_a_credential_is_refused_and_not_repeated(how: str, origin: str) -> None:
    name, value = HELD[how]
    environ = {"HOME": "/nowhere", name: value}
    if origin == "setting":
        environ = {"HOME": "/nowhere", "IGNITE_BUILDER_INDEX_ENV": f'{{{name} = "{value}"}}'}
    elif name not in indexes.claimed():
        assert config.load({}, environ).settings.index_env == {}, "never taken over by itself"
        return
    with pytest.raises(BuildError, match=f"index_env: .*{name} holds credentials") as refused:
        config.load({}, environ)
    assert refused.value.reason == "InvalidRequest"
    assert "hunter2" not in str(refused.value) + refused.value.message


def test_indexes_without_a_login_are_taken_and_reachable() -> None:
    settings = config.load({}, {"HOME": "/nowhere", **FREE}).settings
    assert settings.index_env == FREE
    expected = {("host.test", 8443), ("other.test", 443), ("proxy.golang.org", 443)}
    assert hosts_of(settings.index_env) == expected


@pytest.mark.parametrize(
    ("environ", "added"),
    [
        ({"PIP_INDEX_URL": "https://a.test/simple"}, {"UV_DEFAULT_INDEX": "https://a.test/simple"}),
        ({"PIP_INDEX_URL": "https://a.test/simple", "UV_INDEX_URL": "https://b.test/simple"}, {}),
        ({"PIP_INDEX_URL": "https://a.test/simple", "UV_DEFAULT_INDEX": "https://b.test/simple"}, {}),
        (
            {"PIP_EXTRA_INDEX_URL": "https://a.test/simple\n  https://b.test/simple"},
            {"UV_INDEX": "https://a.test/simple https://b.test/simple"},
        ),
        ({"PIP_EXTRA_INDEX_URL": "https://a.test/simple", "UV_EXTRA_INDEX_URL": "https://b.test/simple"}, {}),
    ],
)
def test_what_is_set_for_pip_alone_is_said_to_uv(environ: dict[str, str], added: dict[str, str]) -> None:
    settings = config.load({}, {"HOME": "/nowhere", **environ}).settings
    assert settings.index_env == environ | added


def test_no_proxy_is_the_machines_own_and_no_secret() -> None:
    environ = {"HOME": "/nowhere", "no_proxy": "localhost, .corp,10.0.0.0/8", "https_proxy": "http://u:hunter2@p:1"}
    loaded = config.load({}, environ)
    assert loaded.settings.no_proxy == ("localhost", ".corp", "10.0.0.0/8")
    shown = {name: value for name, value, _ in loaded.describe()}
    assert ".corp" in shown["no_proxy"] and "hunter2" not in shown["upstream_proxy"]
    assert config.load({}, {"HOME": "/nowhere"}).settings.no_proxy == ()


def test_what_the_installation_ships_is_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the runtimes' indexes and to resolve the settings' types took a `load` 10 ms each time."""

    def again(*_: object) -> object:
        raise AssertionError("read again")

    first = config.load({}, {})
    monkeypatch.setattr(indexes, "tomllib", None)
    monkeypatch.setattr(config, "get_type_hints", again)
    assert config.load({}, {}) == first
