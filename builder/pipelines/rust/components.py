"""Crates that cannot be built for components: which one it is, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.output import SAID, first_match, said_from
from builder.pipelines.rust.config import TRIPLES
from builder.plan import Diagnosis, Step

_CRATE = re.compile(r"^error: could not compile `([\w-]{1,100})`")
_SCRIPT = re.compile(r"^error: failed to run custom build command for `([\w-]{1,100}) v([^\s`]{1,100})")
_ERROR = re.compile(r"^error(?:\[E\d{4}\])?: ")
_FEATURES = re.compile(r"^error: Only features? (.{1,200}) (?:are|is) supported on wasm")
_NATIVE = re.compile(
    r"\b(?:pthread|openssl|clang|cmake|\bcc\b|gcc|wasi-sysroot|no such file or directory)", re.IGNORECASE
)
_ELSEWHERE = (
    "Leave it out of components, under [target.'cfg(not(target_family = \"wasm\"))'.dependencies], or build for the "
    "target native."
)


def unbuildable(step: Step, lines: Sequence[str]) -> Diagnosis | None:
    """What keeps a crate out of a component, where the step compiles crates for one; None for any other failure."""
    if TRIPLES["wasm"] not in step.argv:
        return None
    if found := _SCRIPT.search(first_match(lines, _SCRIPT)):
        has_c = bool(first_match(lines, _NATIVE))
        why = (
            "it compiles C code, for which there is no compiler to wasm32-wasip2" if has_c else "its build script fails"
        )
        return _crate(f"{found[1]} {found[2]}", why, lines, _SCRIPT)
    if step.name != "compile crates":
        return None
    found = _CRATE.search(first_match(lines, _CRATE))
    if found is None:
        return None
    if features := _FEATURES.search(first_match(lines, _FEATURES)):
        return Diagnosis(
            reason="CompileFailed",
            message=f"the crate {found[1]} has in components no other features than {features[1]}",
            where=f"Cargo.toml  {found[1]}",
            said=_said(lines, _FEATURES),
            next="Name only these in its features, or build for the target native.",
        )
    error = first_match(lines, _ERROR).partition(": ")[2].strip()[:200]
    return _crate(found[1], error or "it does not compile", lines, _ERROR)


def _crate(name: str, why: str, lines: Sequence[str], pattern: re.Pattern[str]) -> Diagnosis:
    return Diagnosis(
        reason="CompileFailed",
        message=f"the crate {name} cannot be built for components: {why}",
        where=f"Cargo.toml  {name.partition(' ')[0]}",
        said=_said(lines, pattern),
        next=_ELSEWHERE,
    )


def _said(lines: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(line[:200] for line in said_from(lines, pattern))[:SAID]
