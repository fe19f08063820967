"""A process that is started gets the settings whole: nothing of a file or a variable stands over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder.config import HANDED_OVER, handed_over, load
from builder.errors import BuildError
from builder.settings import NAMES, Settings, validated

DEFAULTS = msgspec.to_builtins(Settings())
OTHER: dict[str, Any] = {
    "server": "https://other.test:8443",
    "token": 'quote",comma,back\\slash',
    "listen": "0.0.0.0:9999",
    "tokens": ({"token": "t-1", "organization": "acme", "scopes": ("read",), "node": "n"},),
    "organization": "acme",
    "data_dir": "/other/data",
    "node_dir": "/other/node",
    "store_url": "postgresql://u:p@db.test/x",
    "redis_url": "redis://:secret@redis.test:6379/3",
    "message_key": 'quote " comma , line\nand ☃',
    "registry": "registry.test:5000",
    "registry_insecure": True,
    "registry_username": "robot",
    "registry_password": "p,a=b",
    "repository_prefix": "team",
    "report_url": "https://reports.test/x",
    "report_token": "report-token",
    "start_check": "require",
    "report_keys": ("a key of reports", "and its successor"),
    "node_id": "other-node",
    "slots": 8,
    "finalizers": 9,
    "queues": ("compile.go", "a b", "with,comma"),
    "unpacked_image_bytes": 8 * 1024 * 1024,
    "node_free_bytes": 5,
    "node_free_inodes": 6,
    "node_disk_bytes": 7,
    "private_registries": ("registry.corp:5000",),
    "job_registry_username": "jobs",
    "job_registry_password": "jobs' password",
    "job_registry_logins": ({"organization": "acme", "username": "acme's", "password": 'acme\'s, "password"'},),
    "job_resources": ({"organization": "acme", "cpus": 1.5, "memory_bytes": 64 * 1024 * 1024, "timeout_ms": 60_000},),
    "kaniko_cache": False,
    "public_url": "https://api.corp",
    "source_store": "s3://sources/prod",
    "s3_endpoint": "https://s3.corp",
    "s3_region": "eu-central-1",
    "git_hosts": ("git.corp",),
    "git_known_hosts": "/other/known_hosts",
    "import_hosts": ("deno.land", "modules.corp:8443"),
    "secrets_key_file": "/other/secrets.key",
    "build_uid": 4242,
    "unsandboxed": True,
    "disk_fence": "loop",
    "use_cgroups": False,
    "pipelines": ("tests.pipeline_script",),
    "catalog": "/other/catalog.toml",
    "fetch_toolchains": True,
    "default_versions": {"go": "1.24"},
    "timeout_ms": 5000,
    "queue_timeout_ms": 6000,
    "memory_bytes": 64 * 1024 * 1024,
    "cpus": 0.1,
    "pids": 64,
    "disk_bytes": 2 * 1024 * 1024,
    "artifact_bytes": 3 * 1024 * 1024,
    "log_bytes": 70_000,
    "upload_bytes": 4 * 1024 * 1024,
    "inline_bytes": 2048,
    "read_cpu_ms": 2000,
    "unpack_cpu_ms": 3000,
    "read_ms": 4000,
    "read_memory_bytes": 65 * 1024 * 1024,
    "heartbeat_ms": 60,
    "lease_ms": 300,
    "drain_ms": 0,
    "stop_grace_ms": 0,
    "tick_ms": 20,
    "retry_backoff_ms": 0,
    "keep_succeeded_days": 1.5,
    "keep_failed_days": 2,
    "keep_tagged_builds": False,
    "keep_cache_days": 3,
    "keep_reports_days": 0.25,
    "keep_nodes_days": 4,
    "keep_uploads_days": 5,
    "queued_builds": 7,
    "running_jobs": 12,
    "open_uploads": 3,
    "source_free_bytes": 7,
    "kept_upload_bytes": 5 * 1024 * 1024,
    "log_streams": 6,
    "body_rate_bytes": 1024,
    "bodies_bytes": 9 * 1024 * 1024,
    "keep_attempt_tags_days": 6,
    "retention_ms": 30,
    "index_env": {"GOPROXY": 'https://go.test,"direct"'},
    "ca_bundle": __file__,  # a file must be there
    "upstream_proxy": "http://u:secret@proxy.test:3128",
    "no_proxy": (".corp", "*"),
    "kubeconfig": "/other/kubeconfig",
    "kube_context": "other",
    "kaniko_namespace": "other",
    "kaniko_executor": "other.test/kaniko@sha256:" + "01" * 32,
    "dockerfile_from_allowed": ("docker.io/library/*", "other.test/*"),
    "buildpacks_namespace": "other",
    "buildpacks_builder": "other.test/builder@sha256:" + "03" * 32,
    "buildpacks_run_image": "other.test/run@sha256:" + "04" * 32,
    "buildpacks_arguments": ("BP_*", "NODE_ENV"),
    "fetch_image": "other.test/fetch@sha256:" + "02" * 32,
    "job_node_selector": {"pool": "other"},
    "job_tolerations": ("other=1:NoSchedule",),
    "job_runtime_class": "other",
    "job_priority_class": "other",
    "job_pull_secret": "other",
    "docker_host": "unix:///other/docker.sock",
    "crash_at": "label",
}
MACHINE = {
    "HTTPS_PROXY": "http://hostile.test:1",
    "NO_PROXY": "hostile.test",
    "SSL_CERT_FILE": "/hostile.pem",
    "GOPROXY": "https://hostile.test",
    "XDG_DATA_HOME": "/hostile",
}


def hostile(monkeypatch: pytest.MonkeyPatch, folder: Path, values: dict[str, Any]) -> None:
    """A settings file with these values, at both places where one is looked for, and a machine with its own."""
    text = "".join(f"{name} = {toml(value)}\n" for name, value in values.items())
    path = folder / "ignite-builder" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("IGNITE_BUILDER_CONFIG", str(path))
    for name, value in MACHINE.items():
        monkeypatch.setenv(name, value)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def test_the_table_has_another_value_for_every_field() -> None:
    assert set(OTHER) == set(NAMES)
    assert not [name for name, value in msgspec.to_builtins(validated(OTHER)).items() if value == DEFAULTS[name]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mine", "files"), [(OTHER, DEFAULTS), (DEFAULTS, OTHER)], ids=["other", "default"])
def test_a_child_has_each_setting_of_its_parent_and_none_of_a_hostile_file(
    name: str, mine: dict[str, Any], files: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile(monkeypatch, tmp_path, {name: files[name]})
    parent = load({name: mine[name]}).settings
    assert getattr(load().settings, name) == getattr(validated({name: files[name]}), name), "the file counts"
    with handed_over(parent) as environ:
        assert load(environ=environ).settings == parent


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_can_come_from_a_variable(name: str) -> None:
    value = OTHER[name]
    if isinstance(value, tuple) and isinstance(value[0], str):
        value = tuple(word.replace(",", ".") for word in value)  # a comma is what parts them
        text = ",".join(value)
    else:
        text = value if isinstance(value, str) else toml(value)
    loaded = load(environ={f"IGNITE_BUILDER_{name.upper()}": text})
    assert getattr(loaded.settings, name) == getattr(validated({name: value}), name)


@pytest.mark.parametrize(("mine", "files"), [(OTHER, DEFAULTS), (DEFAULTS, OTHER)], ids=["other", "default"])
def test_all_settings_at_once_travel_whole(
    mine: dict[str, Any], files: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile(monkeypatch, tmp_path, files)
    parent = load(mine).settings
    with handed_over(parent) as environ:
        variables = {f"IGNITE_BUILDER_{name.upper()}": str(value) for name, value in files.items()}
        loaded = load(environ=variables | environ)
    assert loaded.settings == parent == validated(mine)
    assert set(loaded.origins.values()) == {HANDED_OVER}


def test_a_file_that_switches_the_sandbox_off_does_not_stand_over_a_variable_that_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile(monkeypatch, tmp_path, {"unsandboxed": True, "slots": 8, "registry": "registry.corp:5000"})
    for name, value in {"UNSANDBOXED": "false", "SLOTS": "2", "REGISTRY": ""}.items():
        monkeypatch.setenv(f"IGNITE_BUILDER_{name}", value)
    parent = load().settings
    with handed_over(parent) as environ:
        child = load(environ=environ).settings
    assert (child.unsandboxed, child.slots, child.registry) == (False, 2, "")
    assert child == parent


def test_the_environment_of_a_child_is_the_machines_own_and_holds_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MACHINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IGNITE_BUILDER_REGISTRY_PASSWORD", "hunter2")
    with handed_over(validated(OTHER)) as environ:
        assert {name for name in environ if name.startswith("IGNITE_BUILDER_")} == {HANDED_OVER}
        assert environ.items() >= MACHINE.items()
        secrets = ("hunter2", OTHER["token"], OTHER["message_key"], OTHER["registry_password"], "secret", "t-1")
        assert not [value for value in environ.values() if any(secret in value for secret in secrets)]


def test_what_is_handed_over_cannot_be_changed_and_is_gone_with_its_owner() -> None:
    with handed_over(Settings()) as environ:
        with pytest.raises(OSError, match=r"not permitted|busy"):
            Path(environ[HANDED_OVER]).write_bytes(b"{}")
        assert load(environ=environ).settings == Settings()
    with pytest.raises(BuildError, match="cannot be read") as caught:
        load(environ=environ)
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", HANDED_OVER)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not whole"), ('{"slots": 0}', "not whole"), ("{}", "lack .*server")]
)
def test_a_part_of_the_settings_is_refused_and_not_filled_with_defaults(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text(text)
    with pytest.raises(BuildError, match=words):
        load(environ={HANDED_OVER: str(tmp_path / "settings")})
