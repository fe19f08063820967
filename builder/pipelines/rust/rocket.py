"""Programs of the framework Rocket, which reads its port from a variable of its own and never from $PORT. Pure.

An image's config cannot set one variable to the value of another, and the base has no shell. What starts such a program
is a launcher, compiled with it, that sets ROCKET_PORT and becomes the program. Rocket.toml is weaker than a variable;
an application whose own code merges a port into its configuration stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.pipelines.rust.config import TRIPLES
from builder.pipelines.rust.inputs import FETCH, Source
from builder.pipelines.rust.manifest import Package, Project, below, table
from builder.plan import LayerSource, Sees, Step, WriteFile

CRATE = "rocket"
RUSTC = "/opt/ignite/toolchain/rust/bin/rustc"
ENV = (("ROCKET_ADDRESS", "0.0.0.0"),)
"""Rocket's own default is loopback, where nobody reaches it."""
_WORDS = ("/ignite/start", "ROCKET_PORT")
LAUNCHER = len(_WORDS)
"""How many words start the launcher."""
_FILE, _MADE = "start.rs", "/work/out/ignite"
_LAUNCHER = """\
//! Become a program that reads its port from a variable of another name: `start VARIABLE PROGRAM [WORD...]`.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{exit, Command};

fn main() {
    let port = env::var_os("PORT").filter(|text| !text.is_empty()).unwrap_or_else(|| "80".into());
    let mut words = env::args_os().skip(1);
    let (Some(variable), Some(program)) = (words.next(), words.next()) else {
        eprintln!("start VARIABLE PROGRAM [WORD...]");
        exit(2);
    };
    let error = Command::new(&program).args(words).env(variable, port).exec();
    eprintln!("ignite: cannot start {}: {error}", program.to_string_lossy());
    exit(127);
}
"""


def serves(source: Source) -> bool:
    """Whether the program may serve by Rocket: it depends on it, or a package of the source that it takes by path
    does. With a handler it is our front that serves."""
    return source.triple == TRIPLES["native"] and not source.entry.handler and _depends(source.project)


def _depends(project: Project) -> bool:
    by_folder = {one.folder: one for one in project.packages}
    waiting, seen = [project.package], {project.package.folder}
    while waiting:
        for name, folder in _taken(waiting.pop(), project):
            if name == CRATE:
                return True
            if folder in by_folder and folder not in seen:
                seen.add(folder)
                waiting.append(by_folder[folder])
    return False


def _taken(package: Package, project: Project) -> Iterator[tuple[str, str]]:
    """(name of the crate, its folder in the source or "") of what the code of a package is compiled with."""
    shared = table(table(project.top, "workspace"), "dependencies")
    targets = table(package.table, "target")
    for part in (package.table, *(table(targets, target) for target in targets)):
        for key, value in table(part, "dependencies").items():
            rows: Mapping[str, Any] = value if isinstance(value, dict) else {}
            at = package.folder
            if rows.get("workspace") is True:
                rows, at = table(shared, key), project.root
            path = rows.get("path")
            yield str(rows.get("package", key)), below(at, path) if isinstance(path, str) else ""


def stubs() -> tuple[WriteFile, ...]:
    """The launcher's source, beside the stubs."""
    return (WriteFile(path=_FILE, content=_LAUNCHER),)


def step(triple: str) -> Step:
    """Compile the launcher: code of ours alone, static as the program is."""
    argv = (
        RUSTC, "--edition", "2021", "--crate-name", "start", "-O", "-Cpanic=abort", "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static", "--target", triple, "--out-dir", _MADE, f"{FETCH}/{_FILE}",
    )  # fmt: skip
    return Step(name="compile launcher", argv=argv, sees=Sees.STUBS, runs_source=False, cwd=FETCH, result=_MADE)


def layer() -> LayerSource:
    """The launcher in the image, apart from the program's own folder."""
    return LayerSource(source=_MADE, dest="/ignite", created_by="ignite: launcher")


def started(words: tuple[str, ...]) -> tuple[str, ...]:
    """The command that starts the program on $PORT."""
    return (*_WORDS, *words)
