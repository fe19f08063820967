"""The launcher (`builder/pipelines/launcher.py`) as a Rust program, compiled beside the source's. Pure."""

from __future__ import annotations

from builder.pipelines.launcher import MADE
from builder.pipelines.rust.inputs import FETCH
from builder.plan import Sees, Step, WriteFile

RUSTC = "/opt/ignite/toolchain/rust/bin/rustc"
_FILE = "start.rs"
_SOURCE = """\
//! Become a command, with the variables that its words name: `start [NAME=VALUE...] -- WORD...`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{exit, Command};

fn name_of(text: &[u8]) -> usize {
    let first = text.first().map_or(false, |byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    if first { text.iter().take_while(is_part).count() } else { 0 }
}

/// What stands behind a `$`: how long it is, the variable and the default. None where it is no variable.
fn variable(text: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    if text.first() != Some(&b'{') {
        let size = name_of(text);
        return if size > 0 { Some((size, &text[..size], b"")) } else { None };
    }
    let size = name_of(&text[1..]);
    let (name, rest) = (&text[1..1 + size], &text[1 + size..]);
    let end = rest.iter().position(|byte| *byte == b'}')?;
    let default = if end == 0 {
        &rest[..0]
    } else if rest.starts_with(b":-") && end >= 2 {
        &rest[2..end]
    } else if rest.starts_with(b"-") {
        &rest[1..end]
    } else {
        return None;
    };
    if size > 0 { Some((1 + size + end + 1, name, default)) } else { None }
}

fn expanded(word: &[u8]) -> OsString {
    let (mut made, mut at) = (Vec::new(), 0);
    while at < word.len() {
        let found = if word[at] == b'$' { variable(&word[at + 1..]) } else { None };
        at += 1;
        match found {
            None => made.push(word[at - 1]),
            Some((size, name, default)) => {
                let value = env::var_os(OsStr::from_bytes(name)).map(OsString::into_vec).unwrap_or_default();
                made.extend_from_slice(if value.is_empty() { default } else { &value });
                at += size;
            }
        }
    }
    OsString::from_vec(made)
}

fn main() {
    if env::var_os("PORT").map_or(true, |text| text.is_empty()) {
        env::set_var("PORT", "80");
    }
    let mut words = env::args_os().skip(1);
    for word in words.by_ref() {
        let word = word.into_vec();
        if word == b"--" {
            break;
        }
        let at = word.iter().position(|byte| *byte == b'=').unwrap_or(word.len());
        env::set_var(OsStr::from_bytes(&word[..at]), expanded(word.get(at + 1..).unwrap_or_default()));
    }
    let mut words = words.map(|word| expanded(word.as_bytes()));
    let Some(program) = words.next() else {
        eprintln!("start [NAME=VALUE...] -- WORD...");
        exit(2);
    };
    let error = Command::new(&program).args(words).exec();
    eprintln!("ignite: cannot start {}: {error}", program.to_string_lossy());
    exit(127);
}
"""


def stubs() -> tuple[WriteFile, ...]:
    """The launcher's source, beside the stubs."""
    return (WriteFile(path=_FILE, content=_SOURCE),)


def step(triple: str) -> Step:
    """Compile it: code of ours alone, static as the program is."""
    argv = (
        RUSTC, "--edition", "2021", "--crate-name", "start", "-O", "-Cpanic=abort", "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static", "--target", triple, "--out-dir", MADE, f"{FETCH}/{_FILE}",
    )  # fmt: skip
    return Step(name="compile launcher", argv=argv, sees=Sees.STUBS, runs_source=False, cwd=FETCH, result=MADE)
