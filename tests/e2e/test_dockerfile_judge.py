"""BuildKit's own parser is the judge of ours: its test files, Kaniko's, and mutations of both.

The judge is a program of a few lines over the Go module github.com/moby/buildkit, compiled once and stored outside of
the tree under the hash of its source and sums. Kaniko's files come from its module's archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.dockerfile.check import check
from builder.dockerfile.context import Context
from builder.dockerfile.instructions import understood
from builder.dockerfile.read import read
from builder.errors import BuildError
from builder.globs import moby_patterns
from tests.kept import KEPT

pytestmark = pytest.mark.e2e

SOURCE = Path(__file__).resolve().parents[1] / "dockerfile_judge"
BUILDKIT = "github.com/moby/buildkit"
KANIKO = "github.com/GoogleContainerTools/kaniko@v1.24.0"
INTEGRATION = KANIKO + "/integration/"
DECIDED = {
    "there is no FROM": "BuildKit's parser takes a file of ARG alone, and its next stage refuses it",
}
"""Where we refuse and the judge does not. In the other direction nothing is decided: what it refuses, we refuse."""


NO_LINE = re.compile("parser directive|escape token|no instructions")
"""Errors whose line BuildKit counts from 0, or whose place is the whole file."""


def go(*words: str, cwd: Path = SOURCE) -> str:
    environ = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(["go", *words], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def judge() -> Path:
    """The compiled judge."""
    parts = b"\0".join((SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    program = KEPT / "programs" / f"dockerfile-judge-{hashlib.sha256(parts).hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(made), ".")
        made.replace(program)
    return program


@pytest.fixture(scope="module")
def testfiles() -> dict[str, bytes]:
    """BuildKit's own, the broken ones, too."""
    folder = Path(go("list", "-m", "-f", "{{.Dir}}", BUILDKIT).strip()) / "frontend/dockerfile/parser"
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*/Dockerfile"))}
    assert len(found) > 30
    return found


@pytest.fixture(scope="module")
def kaniko() -> dict[str, bytes]:
    """What is below `integration/` in Kaniko's archive."""
    archive = json.loads(go("mod", "download", "-json", KANIKO, cwd=Path("/")))["Zip"]
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.startswith(INTEGRATION)]
        return {name.removeprefix(INTEGRATION): opened.read(name) for name in names}


def dockerfiles(kaniko: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, data in sorted(kaniko.items()):
        if name.startswith("dockerfiles/Dockerfile_") and not name.endswith(".dockerignore"):
            yield name, data


def verdicts(judge: Path, files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    done = subprocess.run([judge], input=packed.getvalue(), capture_output=True, check=True, timeout=120)
    return map(json.loads, done.stdout.splitlines())


@dataclass(frozen=True)
class Ours:
    """What we make of a file: an error with its line, or instructions and stages as the judge prints them."""

    error: str = ""
    line: int = 0
    names: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


def ours(data: bytes) -> Ours:
    try:
        document = read(data)
        stages = understood(document).stages
    except BuildError as error:
        assert error.reason == "DockerfileInvalid" and error.next
        return Ours(error.message, int(error.where.split(":")[1]))
    names = tuple(printed(f"{each.line} {each.name}").lower() for each in document.instructions)
    return Ours(names=names, stages=tuple(printed(f"{stage.base} AS {stage.name}") for stage in stages))


def printed(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def differences(judge: Path, files: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    """(file, the judge's word, ours) where they differ and nobody decided it."""
    found = []
    for verdict in verdicts(judge, files):
        mine, theirs = ours(files[verdict["name"]]), verdict["parse"] or verdict["instructions"]
        if mine.error and not theirs and mine.error in DECIDED:
            continue
        if bool(mine.error) != bool(theirs):
            found.append((verdict["name"], theirs, mine.error))
        elif not theirs:
            names = tuple(name.lower() for name in verdict["names"])
            if (names, tuple(verdict["stages"])) != (mine.names, mine.stages):
                found.append((verdict["name"], str(verdict), str(mine)))
        elif verdict["line"] and mine.line != verdict["line"] and not NO_LINE.search(theirs):
            found.append((verdict["name"], f"{verdict['line']}: {theirs}", f"{mine.line}: {mine.error}"))
    return found


def test_buildkits_testfiles_are_judged_alike(judge: Path, testfiles: dict[str, bytes]) -> None:
    assert differences(judge, testfiles) == []
    refused = {name for name, data in testfiles.items() if ours(data).error}
    assert {name for name in testfiles if name.startswith("testfiles-negative/")} <= refused


INSERTED = (
    b'"', b"'", b"\\", b"\n", b"<<EOF", b"<<-E", b"$", b"${", b"}", b"[", b"]", b"=", b" ", b"\t", b"#", b"--", b"`",
    b"\xff", b"\\\n", b"\r\n", b"ONBUILD ", b"FROM ", b"${x:-a b}", b'"a', b"<<'E F'", b"# escape=`\n", b"AS x",
)  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found) + 1)
        lines = bytes(found).split(b"\n")
        line = chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            del found[at : at + chance.randint(1, 8)]
        elif kind == 1:
            found[at:at] = chance.choice(INSERTED)
        elif kind == 2:
            lines.insert(line, chance.choice(lines))
            found = bytearray(b"\n".join(lines))
        elif kind == 3:
            del lines[line]
            found = bytearray(b"\n".join(lines))
        else:
            found = found[:at]
    return bytes(found)


def test_mutations_are_judged_alike(judge: Path, testfiles: dict[str, bytes], kaniko: dict[str, bytes]) -> None:
    chance = random.Random(20)
    origins = [*testfiles.items(), *dockerfiles(kaniko)]
    files = {f"{n}/{name}": mutated(data, chance) for n in range(20) for name, data in origins}
    assert len(files) > 2000
    assert differences(judge, files) == []
    refused = sum(bool(ours(data).error) for data in files.values())
    assert len(files) / 20 < refused < len(files), "mutations that all pass, or none, test nothing"


ARGUMENTS = {"image": "scratch", "hello": "hello-value", "file": "context/foo", "file3": "context/b*"}
"""What Kaniko's tests build the one file with that has no default for its base."""


def test_every_file_that_kaniko_builds_passes(judge: Path, kaniko: dict[str, bytes]) -> None:
    names = {name for path in kaniko for name in folders(path)}
    contexts = {
        "Dockerfile_relative_copy": below(names, "context/"),
        "Dockerfile_git_buildcontext": names | {"LICENSE"},
    }
    checked = 0
    for path, data in dockerfiles(kaniko):
        name = path.rpartition("/")[2]
        rules = kaniko.get(f"{path}.dockerignore", kaniko.get(".dockerignore", b""))
        context = Context(paths=contexts.get(name, names), ignored=moby_patterns(rules))
        arguments = ARGUMENTS if name == "Dockerfile_test_scratch" else {}
        check(data, context, arguments, name)
        checked += 1
    assert checked > 80
    assert differences(judge, dict(dockerfiles(kaniko))) == []


def folders(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def below(names: set[str], folder: str) -> set[str]:
    return {name.removeprefix(folder) for name in names if name.startswith(folder)}
