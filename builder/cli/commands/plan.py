"""`plan`: what would run, and why. Pure: no network, no server, no compiler, no process."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.pack import build_name, entries, is_archive, require_text, runtime_of_file
from builder.cli.safe import shown
from builder.cli.stop import refused_here
from builder.cli.terminal import Look
from builder.config import Settings
from builder.contract.request import START_CHECK
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.pipelines.catalog import read as read_catalog
from builder.plan import Detection, Network, Plan
from builder.source.digest import code_hash
from builder.source.tree import DirTree
from builder.source.unpack import Limits, unpack, write_single

_NETWORK = {Network.NONE: "no", Network.INDEX: "package index only"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What would be sent, unpacked: exactly the files that the build would see."""

    root: Path
    path: str
    files: int
    size: int
    single_file: bool = False

    def detect(self, runtime: str) -> Detection:
        """Which runtime. Raises `BuildError`."""
        return pipelines.detect(DirTree(self.root), runtime or None)


@contextlib.contextmanager
def opened(path: str, stdin: bytes = b"", runtime: str = "") -> Iterator[Source]:
    """The source of PATH as a folder that is removed afterwards. Raises `BuildError` for what cannot be a source."""
    with tempfile.TemporaryDirectory(prefix="ignite-plan-") as folder:
        root = Path(folder) / "src"
        single = _fill(path, stdin, root, Path(folder), runtime)
        found = [entry for entry in entries(root) if not entry.is_dir]
        if not found:
            raise BuildError("SourceEmpty", f"{path} holds no file", where=path)
        total = sum(entry.size for entry in found)
        yield Source(root=root, path=path, files=len(found), size=total, single_file=single)


def _fill(path: str, stdin: bytes, root: Path, scratch: Path, runtime: str) -> bool:
    source = Path(path)
    if path != "-" and source.is_dir():
        _mirror(source, root)
        return False
    if path != "-" and not source.is_file():
        raise BuildError("InvalidRequest", f"{path} does not exist", where="PATH", next="Name a folder, a file, or -")
    data = stdin if path == "-" else source.read_bytes()
    if is_archive(data[:4096]):
        archive = scratch / "archive"
        archive.write_bytes(data)
        unpack(archive, root, Limits())
        return False
    if data:
        require_text(data, path)
    name = _single_name(source.name if path != "-" else "", data, runtime)
    write_single(name, data, root)
    return True


def _single_name(name: str, data: bytes, runtime: str) -> str:
    """A single file is named by its runtime, never by the user: the wire carries no name. Here the extension stands for
    the runtime where --runtime names none."""
    return pipelines.single_file_name(runtime or runtime_of_file(name) or None, data)


def _mirror(source: Path, root: Path) -> None:
    """The entries that `build` would send. Files are linked where that is possible, else copied."""
    root.mkdir()
    for entry in entries(source):
        there = root / entry.path
        if entry.is_dir:
            there.mkdir()
        elif entry.link is not None:
            os.symlink(entry.link, there)
        else:
            try:
                os.link(source / entry.path, there)
            except OSError:
                shutil.copy(source / entry.path, there)


def plan(ctx: Context, path: str, runtime: str, version: str, target: str, build_args: Mapping[str, str]) -> int:
    """Show detection, version, steps, network, caches and output of PATH."""
    stdin = ctx.stdin.read() if path == "-" else b""
    try:
        with opened(path, stdin, runtime) as source:
            made = make(ctx.settings(), source, runtime, version, target, build_args)
            digest = code_hash(source.root)
    except BuildError as error:
        raise refused_here(error) from None
    if ctx.common.json:
        facts = {"codeHash": digest, "files": source.files, "sizeBytes": str(source.size)}
        ctx.document({"name": build_name(Path(path).resolve().name), "source": facts, "plan": made.to_json()})
        return 0
    for line in rendered(made, source, digest, ctx.look(ctx.out), f"{ctx.prog} build {path}"):
        ctx.out.line(line)
    return 0


def make(
    settings: Settings, source: Source, runtime: str, version: str, target: str, build_args: Mapping[str, str]
) -> Plan:
    """The plan of a source by the catalog of the settings. Raises `BuildError`."""
    known = pipelines.load(settings.pipelines)
    request = PlanRequest(
        runtime=runtime or None,
        version=version,
        target=target,
        build_args={name: value for name, value in build_args.items() if name != START_CHECK},
        single_file=source.single_file,
    )
    tree = DirTree(source.root)
    detection = pipelines.detect(tree, runtime or None, known)
    return pipelines.plan(detection, tree, request, catalog_of(settings), known)


def catalog_of(settings: Settings) -> Catalog:
    """The catalog of the settings, or the shipped one, with the default versions of the settings."""
    path = Path(settings.catalog) if settings.catalog else runtimes_dir() / "catalog.toml"
    return read_catalog(path, settings.default_versions)


def rendered(made: Plan, source: Source, digest: str, look: Look, next_command: str) -> tuple[str, ...]:
    """The tables of docs/cli.md. Nothing is cut in a pipe."""
    facts = (fmt.count(source.files, "file"), fmt.size(source.size))
    rows = [("", "VALUE", "WHY")]
    rows += [(shown(each.name), shown(each.value), shown(each.why)) for each in made.choices]
    rows.append(("source", ", ".join(facts), fmt.short_digest(digest)))
    lines = list(fmt.table(rows))
    steps = [("STEP", "NETWORK", "CACHES", "COMMAND")]
    for number, step in enumerate(made.steps, 1):
        command = " ".join(_word(part) for part in step.argv)
        steps.append((f"{number} {step.name}", _NETWORK[step.network], ", ".join(step.caches) or "-", command))
    lines += fmt.table(steps)
    lines += [f"{look.paint('yellow', look.symbols.warning)} {shown(warning)}" for warning in made.warnings]
    lines.append(f"output   {shown(made.output.summary)}")
    lines.append(f"next     {look.paint('cyan', shown(next_command))}")
    return tuple(line if look.columns is None else fmt.cut(line, look.columns, look.symbols.ellipsis) for line in lines)


def _word(part: str) -> str:
    """An argument as one word for eyes; quoted where it holds a space."""
    text = shown(part)
    return f"'{text}'" if " " in text or not text else text
