"""Another builder's examples, built and compared with their own expectation: `python -m bench.peer_examples FOLDER`.

FOLDER has a folder for each example, with a `test.json` as in railpack's `examples/`. Prints a table's row for each:
what serves HTTP is run and asked, what only prints is compared with what the start check saw. Nothing of the folder is
a part of this project; `docs/runtimes.md` has what came of it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder.pipelines.deno.jsonc import read_json
from builder.source.tree import DictTree

PROGRAM = str(Path(sys.executable).parent / "ignite-builder")
BUILD_S = 1800


@dataclass(frozen=True)
class Row:
    """An example, what its builder expects of it, and what came of it here."""

    name: str
    expected: str
    found: str
    right: bool

    def __str__(self) -> str:
        return f"| {self.name} | {self.expected} | {self.found} | {'yes' if self.right else 'no'} |"


def examples(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each example with the first of its expectations that says what it serves, else with the first."""
    for path in sorted(folder.glob("*/test.json")):
        whole = DictTree({"test.json": f'{{"cases": {path.read_text(encoding="utf-8")}}}'})  # it may have comments
        cases = read_json(whole, "test.json")["cases"] or [{}]
        yield path.parent, next((case for case in cases if "httpCheck" in case), cases[0])


def texts(value: object) -> list[str]:
    """What has to be in an output: one text, a list of them, or nothing."""
    return [value] if isinstance(value, str) else [str(one) for one in value] if isinstance(value, list) else []


def judged(folder: Path, case: dict[str, Any]) -> Row:
    """Build it; ask what serves, read what prints."""
    check = case.get("httpCheck")
    wanted = texts(check.get("expectedOutput") if isinstance(check, dict) else case.get("expectedOutput"))
    expected = f"GET {check['path']}: {check['expected']} " if isinstance(check, dict) else ""
    expected = f"{expected}{'; '.join(wanted)}"[:80]
    argv = [PROGRAM, "build", str(folder), "--name", folder.name.lower(), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)
    record = json.loads(done.stdout or "{}")
    failure = record.get("failure") or (record if "reason" in record else {})
    if done.returncode != 0:
        return Row(
            folder.name, expected, f"{failure.get('reason', done.returncode)}: {failure.get('message', '')}", False
        )
    if not isinstance(check, dict):
        printed = str(record.get("startCheck", {}).get("message", ""))
        return Row(folder.name, expected, printed, all(one in printed for one in wanted))
    status, text = asked(str(record["buildId"]), str(check["path"]))
    right = status == check["expected"] and all(one in text for one in wanted)
    return Row(folder.name, expected, f"{status} {text[:80]}", right)


def asked(build_id: str, path: str) -> tuple[int, str]:
    """Run a build's artifact and ask it once: status and body; 0 where it does not start."""
    with subprocess.Popen([PROGRAM, "run", build_id[:8]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        try:
            answer = httpx.get(url + path, timeout=30, trust_env=False) if url else None
        except httpx.HTTPError as error:  # that is one row, and not the end of the table
            return 0, f"{type(error).__name__}: {error}"
        finally:
            process.send_signal(signal.SIGTERM)
        return (answer.status_code, answer.text) if answer else (0, "it did not start")


def main(argv: list[str]) -> int:
    """Print the table; 2 for a folder without examples."""
    found = list(examples(Path(argv[0]))) if len(argv) == 1 else []
    if not found:
        print(__doc__.split("\n")[0] if __doc__ else "", file=sys.stderr)
        return 2
    print("| example | its expectation | here | as expected |\n|---|---|---|---|")
    for folder, case in found:
        print(judged(folder, case), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
