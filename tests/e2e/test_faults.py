"""What goes wrong, end to end: each fault with its reason, class, phase and exit codes, and nothing left behind.

The program itself asks for each build: its exit code is the row's, its stdout the record that is judged.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.sandbox import cgroups
from tests.build_fixtures import PYTHON_HANDLER, Server, tar_gz_of, tar_of, zip_of
from tests.program_fixtures import Program, Ran
from tests.source_archives import Zip, deflated, zipped

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("kept")]  # to wait for its turn is no time of the test

GIB = 1024**3
MIB = 1024**2
KILLED = 128 + 9
FORK_FOREVER = """\
import os, time
with open("/proc/self/cgroup") as groups:
    print(groups.read(), flush=True)
while True:
    try:
        if os.fork() == 0:
            continue
    except OSError:
        time.sleep(0.001)
"""
SMALL_FILES = """\
import os
for folder in range(100):
    os.mkdir(f"/work/out/{folder}")
    for number in range(1000):
        with open(f"/work/out/{folder}/{number}", "w") as file:
            file.write("x")
"""


FOREIGN_WHEEL = "idna @ https://files.strangers.example/idna-3.10-py3-none-any.whl\n"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A source, what its build must end with, and the program's exit code.

    An empty `phase`: refused before there is a build. `tool_exit` is that of the step's own program, where one ended.
    """

    source: Callable[[], bytes | str]
    reason: str
    error_class: str
    exit_code: int
    phase: str = ""
    tool_exit: int = 0
    runtime: str = "python"
    server: str = "server"
    retries: int = 0
    where: str = ""
    lists_groups: bool = False
    """Whether the build prints its control groups."""
    refused_by_program: bool = False
    """The program looks at the file and asks nobody; the service says the same to who asks it."""


def truncated() -> bytes:
    """A tar.gz that ends early."""
    whole = tar_gz_of({"handler.py": PYTHON_HANDLER, "more.txt": bytes(range(256)) * 64})
    return whole[: len(whole) // 2]


def encrypted() -> bytes:
    """A ZIP whose entry says that it is encrypted, in both of its headers."""
    data = bytearray(zip_of({"handler.py": PYTHON_HANDLER}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


def traversal() -> bytes:
    """A tar with an entry above its root."""
    return tar_of({"handler.py": PYTHON_HANDLER, "../../escaped.py": "x = 1\n"})


def tar_bomb() -> bytes:
    """One file of 5 GiB of zeros, every byte of it there, about 5 MiB compressed: one compressed member, repeated."""
    header = tarfile.TarInfo("zeros")
    header.size = 5 * GIB
    member = _gzip(bytes(64 * MIB))
    return _gzip(header.tobuf(tarfile.GNU_FORMAT)) + member * 80 + _gzip(bytes(1024))


def _gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    return compressor.compress(data) + compressor.flush()


def zip_bomb() -> bytes:
    """45 files of 116 MiB of zeros, 5 GiB together, each below the limit of one file."""
    zeros = bytes(116 * MIB)
    packed, stated = deflated(zeros), {"crc": zlib.crc32(zeros), "size": len(zeros)}
    return zipped(*(Zip(name=f"{number}", packed=packed, local=stated, central=stated) for number in range(45)))


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00" + bytes(64)
GO_ERROR = 'package main\n\nfunc main() {\n\tvar number int = "text"\n\t_ = number\n}\n'

FAULTS = {
    "empty-archive": Fault(
        source=lambda: zip_of({}), reason="SourceEmpty", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "truncated": Fault(
        source=truncated, reason="ArchiveUnreadable", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "encrypted": Fault(
        source=encrypted, reason="ArchiveUnreadable", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "traversal": Fault(
        source=traversal, reason="ArchiveUnsafe", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "tar-bomb": Fault(
        source=tar_bomb, reason="ArchiveTooLarge", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "zip-bomb": Fault(
        source=zip_bomb, reason="ArchiveTooLarge", error_class="client", exit_code=2, phase="FETCH_SOURCE"
    ),
    "png": Fault(
        source=lambda: PNG,
        reason="NotAnArchive",
        error_class="client",
        exit_code=2,
        phase="FETCH_SOURCE",
        refused_by_program=True,
    ),
    "wrong-runtime": Fault(
        source=lambda: zip_of({"main.go": GO_ERROR}),
        reason="EntryPointMissing",
        error_class="user_code",
        exit_code=1,
        phase="DETECT",
    ),
    "unknown-version": Fault(
        source=lambda: PYTHON_HANDLER,
        reason="UnknownRuntimeVersion",
        error_class="client",
        exit_code=2,
        runtime="python@2.7",
    ),
    "missing-handler": Fault(
        source=lambda: "def main():\n    pass\n",
        reason="EntryPointMissing",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=1,
    ),
    "syntax-error": Fault(
        source=lambda: "def handler(payload, ctx)\n    return 1\n",
        reason="CompileFailed",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=1,
    ),
    "go-compile-error": Fault(
        source=lambda: GO_ERROR,
        reason="CompileFailed",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=1,
        runtime="go",
    ),
    "missing-dependency": Fault(
        source=lambda: zip_of({"handler.py": PYTHON_HANDLER, "requirements.txt": "idna==99.99\n"}),
        reason="DependencyNotFound",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=1,
    ),
    "dead-registry": Fault(
        source=lambda: PYTHON_HANDLER,
        reason="RegistryUnavailable",
        error_class="platform",
        exit_code=75,
        phase="PUSH",
        server="cut_off",
        retries=2,
    ),
    "dead-index": Fault(
        source=lambda: zip_of({"handler.py": PYTHON_HANDLER, "requirements.txt": "idna==3.10\n"}),
        reason="PackageIndexUnavailable",
        error_class="platform",
        exit_code=75,
        phase="BUILD",
        server="cut_off",
        retries=2,
    ),
    "refused-host": Fault(
        source=lambda: zip_of({"handler.py": PYTHON_HANDLER, "requirements.txt": FOREIGN_WHEEL}),
        reason="ManifestInvalid",
        error_class="client",
        exit_code=2,
        phase="PLAN",
        where="requirements.txt:1",
    ),
    "endless-fork": Fault(
        source=lambda: tar_of({"build.py": FORK_FOREVER}),
        reason="ProcessLimitExceeded",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=KILLED,
        runtime="",
        server="scripts",
        lists_groups=True,
    ),
    "endless-fork-without-cgroups": Fault(
        source=lambda: tar_of({"build.py": FORK_FOREVER}),
        reason="ProcessLimitExceeded",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=KILLED,
        runtime="",
        server="no_cgroups",
        lists_groups=True,
    ),
    "small-files": Fault(
        source=lambda: tar_of({"build.py": SMALL_FILES}),
        reason="DiskQuotaExceeded",
        error_class="user_code",
        exit_code=1,
        phase="BUILD",
        tool_exit=KILLED,
        runtime="",
        server="scripts",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fault = FAULTS[name]
    server: Server = request.getfixturevalue(fault.server)
    source = fault.source()
    ran = built(server, tmp_path, name, source, fault.runtime)
    server.assert_nothing_left()
    assert ran.code == fault.exit_code, ran.err
    assert ran.err.splitlines()[-1].startswith("next   "), ran.err
    if not fault.phase or fault.refused_by_program:
        refusal = json.loads(ran.out)
        assert (refusal["reason"], refusal["errorClass"]) == (fault.reason, fault.error_class)
        assert refusal["message"] and refusal["hint"]
        assert not [build for build in listed(server) if build.name == name], "a build exists"
    if fault.phase:
        asked = server.wait(server.submit(name, source, fault.runtime)) if fault.refused_by_program else ran.record
        assert_failed(server, asked, fault)
        if fault.lists_groups:
            text = server.log(asked.build_id).text
            assert "::/" in text, text
            assert f"/{cgroups.PREFIX}" not in text, "the group is the root of what a build sees"


def assert_failed(server: Server, record: pb.Build, fault: Fault) -> None:
    failure = record.failure
    ended = (failure.reason, failure.error_class, pb.BuildPhase.Name(failure.phase), failure.exit_code)
    assert ended == (fault.reason, fault.error_class, "BUILD_PHASE_" + fault.phase, fault.tool_exit), failure
    assert record == server.get(record.build_id)
    assert record.status == pb.BUILD_STATUS_FAILED
    assert failure.message
    assert not fault.where or failure.where == fault.where
    assert failure.next
    assert record.retries == fault.retries
    assert not record.image_digest
    server.assert_nothing_left()


def built(server: Server, home: Path, name: str, source: bytes | str, runtime: str) -> Ran:
    """`ignite-builder build` of one file on disk."""
    path = home / "source"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    kind, _, version = runtime.partition("@")
    asked = (("--runtime", kind), ("--runtime-version", version))
    options = [word for option, value in asked if value for word in (option, value)]
    settings = {"server": server.embedded.url, "token": server.embedded.token}
    return Program(home, settings).run("build", str(path), "--name", name, "--json", *options)


def listed(server: Server) -> list[pb.Build]:
    found: pb.ListBuildsResponse = server.api.call("ListBuilds", pb.ListBuildsRequest(limit=100))
    return list(found.builds)
