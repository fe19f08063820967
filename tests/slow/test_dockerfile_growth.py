"""Hostile Dockerfiles are read in time that grows as they do."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from builder.dockerfile.check import check
from builder.errors import BuildError
from tests.growth import assert_linear
from tests.unit.test_dockerfile import context

SMALL, LARGE = 2_000, 8_000
FLOOR_S = 0.03
HOSTILE: dict[str, Callable[[int], str]] = {
    "instructions": lambda n: "FROM a\n" + "RUN x\n" * n,
    "stages": lambda n: "".join(f"FROM a AS s{at}\n" for at in range(n // 8)),
    "stages without names": lambda n: "FROM a\n" * n * 2,
    "stages on the one before": lambda n: "FROM a AS s0\n"
    + "".join(f"FROM s{at} AS s{at + 1}\n" for at in range(n)),
    "stages that copy from an image": lambda n: "".join(
        f"FROM a AS stage{at}\nCOPY --from=stag{at} a b\n" for at in range(n)
    ),
    "stages that mount from an image": lambda n: "".join(
        f"FROM a AS stage{at}\nRUN --mount=from=stag{at} b\n" for at in range(n)
    ),
    "arguments without values": lambda n: "".join(f"ARG A{at}=\n" for at in range(n)) + "FROM a\n",
    "stages that copy": lambda n: "".join(f"FROM a AS s{at}\nCOPY --from={at - 1} a b\n" for at in range(1, n // 8)),
    "continuations": lambda n: "FROM a\nRUN x" + " \\\n y" * n + "\n",
    "comments in a line": lambda n: "FROM a\nRUN x \\\n" + "# c\n" * n + "y\n",
    "empty lines": lambda n: "\n" * n * 8 + "FROM a\n",
    "escapes": lambda n: "FROM a\nRUN " + "\\" * n + "\n",
    "spaces behind a backslash": lambda n: "FROM a\nRUN " + "\\ " * n + "\n",
    "spaces": lambda n: "FROM a\nRUN x" + " " * n + "y\n",
    "quotes": lambda n: "FROM a\nENV A=" + "'\"" * n + "\n",
    "names": lambda n: "FROM a\nENV " + " ".join(f"A{at}=1" for at in range(n // 2)) + "\n",
    "flags": lambda n: "FROM a\nCOPY " + "--exclude=x " * (n // 2) + "app.py b\n",
    "mounts": lambda n: "FROM a\nRUN --mount=" + "a=b," * n + " x\n",
    "quoted fields": lambda n: 'FROM a\nRUN --mount="' + '""' * n + '" x\n',
    "substitutions": lambda n: "FROM a" + "$A" * n + "\n",
    "nested substitutions": lambda n: "FROM " + "${A:-" * n + "a" + "}" * n + "\n",
    "open substitutions": lambda n: "FROM a\nRUN <<E " + "${A" * n + "\nE\n",
    "heredocs": lambda n: "FROM a\nRUN " + " ".join(f"<<E{at}" for at in range(n // 8)) + "\n"
    + "".join(f"E{at}\n" for at in range(n // 8)),
    "heredocs without an end": lambda n: "FROM a\nRUN <<E\n" + "x\n" * n,
    "less-than signs": lambda n: "FROM a\nRUN " + "<" * n + "\n",
    "a list": lambda n: "FROM a\nCMD [" + '"x",' * n + '"x"]\n',
    "a deep list": lambda n: "FROM a\nCMD " + "[" * n + "\n",
    "triggers": lambda n: "FROM a\n" + "ONBUILD " * n + "RUN x\n",
    "digits": lambda n: "FROM a\nHEALTHCHECK --interval=" + "1" * n + "s CMD x\n",
    "durations": lambda n: "FROM a\nHEALTHCHECK --interval=" + "1s" * n + " CMD x\n",
    "directives": lambda n: "# syntax=" + "x " * n + "\nFROM a\n",
    "stars": lambda n: "FROM a\nCOPY " + "*a" * (n // 8) + "b /x\n",
    "sources": lambda n: "FROM a\nCOPY " + "app.py " * n + "/x/\n",
    "arguments": lambda n: "".join(f"ARG A{at + 1}=$A{at}\n" for at in range(n // 8)) + "FROM a\n",
    "doubling values": lambda n: "ARG A0=xxxxxxxxxx\n"
    + "".join(f"ARG A{at + 1}=$A{at}$A{at}\n" for at in range(n // 8)) + "FROM $A0\n",
    "doubling values of a stage": lambda n: "FROM a\nENV A0=xxxxxxxxxx\n"
    + "".join(f"ENV A{at + 1}=$A{at}$A{at}\n" for at in range(n // 8)) + "COPY $A9 /\n",
    "surrogates": lambda n: "FROM a\nRUN " + "\udcff" * n + "\n",
    "one long line": lambda n: "FROM a\nRUN " + "x" * n * 64 + "\n",
}  # fmt: skip


def spent(text: str) -> float:
    data, paths = text.encode("utf-8", "surrogateescape"), context()
    start = time.process_time()
    try:
        check(data, paths)
    except BuildError as error:
        assert error.reason == "DockerfileInvalid" and len(error.message) < 1000
    return time.process_time() - start


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_as_the_file_does(name: str) -> None:
    small, large = HOSTILE[name](SMALL), HOSTILE[name](LARGE)
    assert_linear(lambda: spent(small), lambda: spent(large), FLOOR_S, name)
