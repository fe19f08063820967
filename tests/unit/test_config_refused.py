"""Settings that nothing could work with are refused when they are read, and `config` shows addresses, not logins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.config import load
from builder.errors import BuildError
from builder.settings import JobLogin, Settings, address_of, check_redis_url, without_credentials

WRONG = {
    "report_url": ("notaurl", "http://", "http:///reports", "http://127.0.0.1:/reports", "ftp://x", "http://h:99999/"),
    "server": ("127.0.0.1:8480", "ftp://x", "https://[::1", "localhost"),
    "listen": ("nonsense", "", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1"),
    "cpus": ("inf", "nan"),
    "token": ("töken", "a\nb"),
    "report_token": ("töken", "a\x7fb"),
    "registry": ("https://r.test", "r.test/", "r.test/team", "r test", "r.test:", "r.test:99999", "u@r.test", "[r]:80"),
    "repository_prefix": ("/team", "team/", "a//b", "Team", "a..b", "team:x"),
    "slots": ("4097", "10000000000000000000000"),
    "docker_host": ("tcp://host.test:99999", "tcp://host.test", "/var/run/docker.sock"),
    "data_dir": ("~/data", "a\0b"),
    "node_dir": ("~", "~root/node"),
    "kubeconfig": ("~/.kube/config",),
    "public_url": ("http://h.test/a b", "http://h.test\r", "http://h.test\0"),
    "import_hosts": ("*", "https://deno.land", "deno.land/x", "deno.land:", "deno.land:99999", "u@deno.land"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_that_cannot_work_is_refused(name: str, value: str) -> None:
    with pytest.raises(BuildError, match=name) as caught:
        load({name: value}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest"
    assert "Value error" not in caught.value.message


TAKEN = {
    "registry": ("", "localhost", "registry.test:5000", "my_registry:5000", "127.0.0.1:5000", "[::1]:5000", "Reg.test"),
    "repository_prefix": ("", "team", "a/b-c/d_e/f.g", "a__b--c"),
    "private_registries": (("*",), ("r.test", "r.test:5000", "10.0.0.1", "[fd00::1]:5000", "fd00::1"), ()),
    "docker_host": ("", "unix:///var/run/docker.sock", "tcp://127.0.0.1:2375"),
    "data_dir": ("", "data", "/var/lib/~/data"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in TAKEN.items() for value in values])
def test_a_value_that_can_work_is_taken(name: str, value: object) -> None:
    assert getattr(load({name: value}, {"HOME": "/nowhere"}).settings, name) == value


@pytest.mark.parametrize("name", ["private_registries", "git_hosts"])
@pytest.mark.parametrize("host", ["https://h.test", "h.test/x", "git@h.test", "", "*.h.test", "h.test:99999"])
def test_a_list_of_hosts_has_hosts_alone(name: str, host: str) -> None:
    with pytest.raises(BuildError, match=f"{name}: '.*' is no host; it takes HOST, HOST:PORT or ") as caught:
        load({name: ("other.test", host)}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"scopes": ("summit", "read")}, "row 2: 'summit' is no scope; it takes submit, read, worker, watch, operate"),
        ({"token": "hunter2 "}, "row 2: a token takes printable ASCII characters alone, and no blank"),
        ({"token": "hunter2é"}, "row 2: a token takes printable ASCII"),
        ({"scopes": ("worker",), "node": "a/b"}, "row 2: 'a/b' is no node; it takes 1 to 200 printable ASCII"),
        ({"scopes": ("watch",), "node": "-a"}, "row 2: '-a' is no node"),
        ({"scopes": ("read", 5)}, "row 2: scopes: row 2: it takes text"),
    ],
)
def test_a_token_that_no_call_could_be_made_with_is_refused(row: dict[str, object], words: str) -> None:
    rows = ({"token": "t", "organization": "acme"}, {"token": "hunter2", "organization": "acme"} | row)
    with pytest.raises(BuildError, match=f"tokens: {words}") as caught:
        load({"tokens": rows}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest" and "hunter2" not in caught.value.message


def test_a_refused_url_does_not_show_its_login() -> None:
    with pytest.raises(BuildError) as caught:
        load({"report_url": "ftp://user:hunter2@host.test/x"}, {"HOME": "/nowhere"})
    assert "hunter2" not in caught.value.message and "host.test" in caught.value.message


@pytest.mark.parametrize(
    "url", ["nonsense", "", "http://u:hunter2@127.0.0.1/0", "redis:///0", "redis://127.0.0.1:x/0", "unix:///run/redis"]
)
def test_a_broker_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(BuildError, match="redis_url: ") as caught:
        check_redis_url(url)
    assert caught.value.where == "redis_url" and "hunter2" not in caught.value.message
    check_redis_url("rediss://u:hunter2@127.0.0.1/0?ssl_ca_certs=/x")


def test_addresses() -> None:
    assert address_of(":8480") == address_of("127.0.0.1:8480") == ("127.0.0.1", 8480)
    assert address_of("control.test:0") == ("control.test", 0)


@pytest.mark.parametrize("second", [{"organization": "beta"}, {"organization": "acme"}, {"scopes": ("worker",)}])
def test_a_token_stands_once(second: dict[str, object]) -> None:
    rows = ({"token": "hunter2", "organization": "acme"}, {"token": "hunter2", **second})
    with pytest.raises(BuildError, match="rows 1 and 2 have the same token") as caught:
        load({"tokens": rows}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest" and "hunter2" not in caught.value.message


ROW = {"organization": "acme", "username": "robot", "password": "hunter2"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((ROW, {**ROW, "username": "other"}), "rows 1 and 2 are of the same organization"),
        (({**ROW, "organization": ""},), "row 1: '' is no organization"),
        (({**ROW, "organization": "a/b"},), "row 1: 'a/b' is no organization"),
        ((ROW, {**ROW, "organization": "beta", "username": ""}), "row 2 has an empty username"),
        (({**ROW, "password": ""},), "row 1 has an empty password"),
        (({"organization": "acme", "password": "hunter2"},), "row 1: username: it is needed"),
        (({**ROW, "host": "hunter2"},), "row 1: host: there is no such field"),
        ('[{password = "hunter2"}', "it takes a list"),
    ],
)
def test_logins_of_jobs_that_cannot_be_told_apart_are_refused_and_not_repeated(rows: object, words: str) -> None:
    with pytest.raises(BuildError, match=f"job_registry_logins: .*{words}|job_registry_logins: {words}") as caught:
        load({"job_registry_logins": rows}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest" and "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (({"organization": "acme"}, {"organization": "acme", "cpus": 1}), "rows 1 and 2 are of the same organization"),
        (({"organization": "A"},), "row 1: 'A' is no organization"),
        (({"cpus": 1},), "row 1: organization: it is needed"),
        (({"organization": "acme", "cpu": 1},), "row 1: cpu: there is no such field"),
        (({"organization": "acme", "cpus": 0},), "row 1: cpus: it takes more than 0"),
        (({"organization": "acme", "memory_bytes": 1},), "row 1: memory_bytes: it takes 16777216 or more"),
        (({"organization": "acme", "timeout_ms": 3_600_001},), "row 1: timeout_ms: it takes 3600000 or less"),
    ],
)
def test_resources_of_jobs_that_cannot_be_are_refused(rows: object, words: str) -> None:
    with pytest.raises(BuildError, match=f"job_resources: {words}") as caught:
        load({"job_resources": rows}, {"HOME": "/nowhere"})
    assert caught.value.reason == "InvalidRequest"


@pytest.mark.parametrize("in_file", [False, True])
def test_logins_of_jobs_are_a_table_in_a_variable_or_a_file_and_are_not_shown(tmp_path: Path, *, in_file: bool) -> None:
    text = """[
      { organization = "acme", username = "robot", password = "hunter2" },
      { organization = "beta", username = "robot", password = "hunter3" },
    ]"""
    (tmp_path / "logins").write_text(text, encoding="utf-8")
    name, value = ("_FILE", str(tmp_path / "logins")) if in_file else ("", text)
    loaded = load(environ={"HOME": "/nowhere", f"IGNITE_BUILDER_JOB_REGISTRY_LOGINS{name}": value})
    assert loaded.settings.job_registry_logins == (
        JobLogin(organization="acme", username="robot", password="hunter2"),
        JobLogin(organization="beta", username="robot", password="hunter3"),
    )
    shown = {name: value for name, value, _ in loaded.describe()}
    assert shown["job_registry_logins"] == "***" and "hunter" not in str(shown)


def test_an_empty_token_is_none() -> None:
    with pytest.raises(BuildError, match="row 1 has an empty token"):
        load({"tokens": ({"token": "", "organization": "acme"},)}, {"HOME": "/nowhere"})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:hunter2@redis.test:6379/0", "redis://***@redis.test:6379/0"),
        ("postgresql://u:hun/te@r2@db.test/x", "postgresql://***@db.test/x"),
        ("postgresql://u:hun?ter2@db.test/x", "postgresql://***@db.test/x"),
        ("postgresql://db.test/x?password=hunter2&sslmode=require", "postgresql://db.test/x?password=***&sslmode=***"),
        ("https://reports.test/x?hunter2", "https://reports.test/x?***"),
        ("user:hunter2@proxy.test:3128", "***@proxy.test:3128"),
        ("sqlite:////var/lib/builder.db", "sqlite:////var/lib/builder.db"),
    ],
)
def test_a_url_shows_all_but_its_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_config_shows_the_hosts_and_hides_the_logins() -> None:
    values: dict[str, Any] = {
        "redis_url": "redis://:hunter2@redis.test:6379/0",
        "store_url": "postgresql://u:hunter2@db.test/x",
        "report_url": "https://u:hunter2@reports.test/x",
        "upstream_proxy": "http://u:hunter2@proxy.test:3128",
        "server": "https://u:hunter2@control.test",
        "token": "hunter2",
        "message_key": "hunter2",
        "registry_password": "hunter2",
        "report_token": "hunter2",
    }
    shown = {name: value for name, value, _ in load(values, {"HOME": "/nowhere"}).describe()}
    assert not [name for name, value in shown.items() if "hunter2" in value]
    hosts = {"redis_url": "redis", "store_url": "db", "report_url": "reports", "upstream_proxy": "proxy"}
    assert not [name for name, host in hosts.items() if f"@{host}.test" not in shown[name]]
    assert {shown[name] for name in values if not name.endswith("_url")} >= {"***"}
    assert Settings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slots": "many"}, "slots: it takes a whole number"),
        ({"slots": "0"}, "slots: it takes 1 or more"),
        ({"cpus": "0"}, "cpus: it takes more than 0"),
        ({"start_check": "maybe"}, "start_check: it takes off, warn or require"),
        ({"cpus": "x"}, "cpus: it takes a number"),
        ({"use_cgroups": "maybe"}, "use_cgroups: it takes true or false"),
        ({"timeout_ms": "9999999999"}, "timeout_ms: it takes 3600000 or less"),
        ({"tokens": '[{scopes=["read"]}]'}, "tokens: row 1: token: it is needed"),
        ({"tokens": '[{token="t", organization="a", wat=1}]'}, "tokens: row 1: wat: there is no such field"),
        ({"tokens": "t"}, "tokens: it takes a list"),
    ],
)
def test_what_a_setting_takes_is_said_in_our_words(values: dict[str, str], message: str) -> None:
    environ = {f"IGNITE_BUILDER_{name.upper()}": text for name, text in values.items()} | {"HOME": "/nonexistent"}
    with pytest.raises(BuildError) as refused:
        load(environ=environ)
    assert refused.value.message == message
