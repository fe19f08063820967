"""What the diagnoses of several runtimes share: reading the last lines of a tool. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.limits import LINE_LIMIT
from builder.plan import Diagnosis, Step

SAID = 6
"""How many lines of a tool's own words a diagnosis holds."""

TROUBLE = re.compile(
    r"connection refused|connection reset|no route to host|network is unreachable|i/o timeout|handshake timeout|"
    r"(?:operation|connection|request|read|response)s? timed out|deadline exceeded|proxyconnect|Proxy CONNECT|"
    r"tunnel error|error sending request|dns error|temporary failure in name|unexpected EOF|"
    r"(?:429 )?Too Many Requests|Bad Gateway|Service Unavailable|Gateway Time-?out|500 Internal Server Error",
    re.IGNORECASE,
)


UNTRUSTED = re.compile(
    r"certificate signed by unknown authority|failed to verify certificate|invalid peer certificate|"
    r"CERTIFICATE_VERIFY_FAILED|SSL certificate problem|server certificate verification failed|"
    r"error adding trust anchors|unable to get local issuer certificate|self.signed certificate",
    re.IGNORECASE,
)
"""Go, rustls (uv, deno), OpenSSL and curl (Python, cargo), GnuTLS (git) of a server that nobody here vouches for."""


def cut_root(line: str) -> str:
    """A line without the sandbox's root, which nobody else knows, and no longer than is matched."""
    return line[:LINE_LIMIT].rstrip().replace("/work/src/", "").replace("/work/src", ".")


def word_before(text: str, found: re.Match[str]) -> str:
    """The word that a match follows: "x" of "Because x has no wheels", at most its last 256 characters.

    An expression that starts with a word and goes on with a literal tries each character of each word as its start.
    """
    words = text[max(0, found.start() - 256) : found.start()].split()
    return words[-1] if words else ""


def first_match(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    """The first line in which the pattern is found, or nothing."""
    return next((line for line in lines if pattern.search(line)), "")


def said_from(lines: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """At most `SAID` lines, from the first in which the pattern is found; empty ones are left out."""
    start = next((at for at, line in enumerate(lines) if pattern.search(line)), 0)
    return tuple(line for line in lines[start:] if line)[:SAID]


def index_trouble(lines: Sequence[str]) -> Diagnosis | None:
    """The package index did not answer, or is not trusted here: ours, not theirs."""
    if found := first_match(lines, UNTRUSTED):
        return Diagnosis(
            reason="PackageIndexUnavailable",
            message=f"the certificate of the package index is not trusted here: {found.strip()[:200]}",
            said=said_from(lines, UNTRUSTED),
            next="Nothing to change in your code. The operator of the node adds who signed it: ca_bundle.",
        )
    found = first_match(lines, TROUBLE)
    if not found:
        return None
    return Diagnosis(
        reason="PackageIndexUnavailable",
        message=f"the package index did not answer: {found.strip()[:200]}",
        said=tuple(line for line in lines if line)[:SAID],
        next="Nothing to change in your code. Try again later.",
    )


def step_failed(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """Nothing known was recognized: the tool's own last words."""
    return Diagnosis(
        reason="StepFailed",
        message=f"step {step.name} exited {exit_code}",
        said=tuple(line for line in lines if line)[-SAID:],
        next="Read the log of the step and correct what it names.",
    )
