"""Some eighty ways out, tried from inside: none may get anything, and the host's listeners must hear nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.sandbox import host_root
from tests.probe_fixtures import NAMES, SCRIPT, Host, answers
from tests.sandbox_fixtures import PYTHON, UID, run, work_folder

pytestmark = pytest.mark.e2e

# Without a sandbox these must get something, else the probe itself is broken.
CONTROLS = (
    "tcp_to_host_loopback",
    "udp_to_host_loopback",
    "tcp_to_host_address",
    "abstract_unix_socket_of_the_host",
    "unix_socket_file_of_the_host",
    "other_interfaces",
    "public_address",
    "redis",
    "api_of_the_builder",
    "registry",
    "see_a_host_process",
    "handle_on_a_host_process",
    "environments_of_processes",
    "namespaces_of_the_host",
    "shared_memory_of_the_host",
    "ptrace_own_child",
    "add_a_key",
    "join_a_session_keyring",
    "user_namespace",
    "user_namespace_by_clone",
    "user_namespace_by_clone3",
    "vsock_to_the_hypervisor",
    "io_uring",
    "real_users",
    "host_configuration",
    "system_state",
    "control_groups",
    "secrets_in_the_environment",
    "terminal_injection_on_an_own_terminal",
    "gain_by_setuid_program",
    "work_of_another_build",
    "link_out_of_the_work_folder",
)


def placed(host: Host, work: Path, script: str) -> None:
    (work / "contained.py").write_text(script)
    (work / "facts.json").write_text(json.dumps(host.facts | {"work": str(work)}))


def attempt(host: Host, work: Path) -> dict[str, str]:
    placed(host, work, SCRIPT.read_text())
    ran = run(work, PYTHON, "-I", "/work/contained.py", "/work/facts.json", env={"GIVEN": "1"})
    assert ran.result.exit_code == 0, ran
    return answers(ran.text().splitlines())


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[dict[str, str], list[str]]]:
    with ExitStack() as stack:
        host = Host(stack)
        os.environ["IGNITE_TEST_SECRET"] = host.secret
        stack.callback(os.environ.pop, "IGNITE_TEST_SECRET")
        got = attempt(host, stack.enter_context(work_folder()))
        yield got, host.heard()


@pytest.mark.parametrize("name", NAMES)
def test_probe_gets_nothing(name: str, inside: tuple[dict[str, str], list[str]]) -> None:
    assert inside[0][name] == ""


def test_no_listener_of_the_host_heard_anything(inside: tuple[dict[str, str], list[str]]) -> None:
    assert inside[1] == []


@pytest.fixture(scope="module")
def outside() -> Iterator[dict[str, str]]:
    """The same probes with no sandbox around them, as the same user."""
    with ExitStack() as stack:
        host = Host(stack)
        work = stack.enter_context(work_folder())
        host.facts["answer_within_s"] = 120  # the host answers below, in its own time
        placed(host, work, SCRIPT.read_text().replace("/work/", f"{work}/"))
        process = stack.enter_context(
            subprocess.Popen(
                [PYTHON, "-I", str(work / "contained.py"), str(work / "facts.json")],
                stdout=subprocess.PIPE,
                text=True,
                env={"IGNITE_TEST_SECRET": host.secret},
                user=UID if os.geteuid() == 0 else None,
                group=UID if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
            )
        )
        stack.callback(process.kill)
        host.udp.settimeout(300)
        _, sender = host.udp.recvfrom(10)
        host.udp.sendto(b"heard", sender)
        said, _ = process.communicate(timeout=120)
        yield answers(said.splitlines())


@pytest.mark.parametrize("name", CONTROLS)
def test_probe_can_succeed_without_the_sandbox(name: str, outside: dict[str, str]) -> None:
    assert outside[name] != ""


def test_mountinfo_tells_where_the_runs_own_folders_are_and_nothing_else_of_the_host() -> None:
    """What `builder/sandbox/__init__.py` admits: field 4 of proc(5), the path within the host's file system."""
    with work_folder() as work:
        cache = work.parent / "caches" / "acme" / "uv"
        cache.mkdir(parents=True)
        os.chown(cache, UID, UID)
        ran = run(work, "/bin/cat", "/proc/self/mountinfo", caches={"uv": cache})
    mounts = (line.split() for line in ran.text().splitlines())
    told = {point: path for _, _, _, path, point, *_ in mounts if not point.startswith(("/dev/", "/etc/"))}
    told = {point: path for point, path in told.items() if path not in ("/", "/newroot")}
    known = {"/work": work, "/cache/uv": cache} | {mount.dest: mount.source for mount in host_root().mounts}
    assert {"/work", "/cache/uv"} <= set(told) <= set(known)
    for point, path in told.items():
        here = str(known[point].resolve())
        # The file system may be mounted below its own root, or this root may be a folder of it.
        assert here.endswith(path) or path.endswith(here)
