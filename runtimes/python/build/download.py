"""Run inside the sandbox of a step that sees no source: download wheels, each to the path that the node named.

    download.py LIST SHARED INTO

LIST is JSON [{"url", "path"}], or [{"crate", "version", "path"}] for a crate of an sdist with Rust code; what lies
below SHARED is not fetched again. Nothing here is trusted: the node verifies the digest of every file before it becomes
one of the shared cache.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = 8
TRIES = 3
SILENCE_S = 60.0
PAUSE_S = 0.5
READ_BEFORE = Path("sdists")
"""What the resolver had to read."""
FOR_GOOD = (401, 403, 404, 410)
CRATES = "sparse+https://index.crates.io/"
MARKS = ("{crate}", "{version}", "{prefix}", "{lowerprefix}", "{sha256-checksum}")


def fetch(url: str, path: Path) -> str:
    """Write the file; returns what stopped it, or "" when it is there."""
    trouble = ""
    for number in range(TRIES):
        time.sleep(PAUSE_S * number)
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "ignite-builder"})
            with urllib.request.urlopen(request, timeout=SILENCE_S) as answer, path.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            return ""
        except urllib.error.HTTPError as error:
            trouble = f"HTTP {error.code} {error.reason}"
            if error.code in FOR_GOOD:
                return f"{path.name} is not to be had: {trouble}"
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            trouble = str(error)
    return f"error sending request for {path.name}: {trouble}"


def crate_urls(into: Path) -> str:
    """The template of a crate's address (cargo's `dl`), as the configuration of the registry's sparse index has it.

    Raises OSError, or ValueError where the registry has none.
    """
    index = (os.environ.get("CARGO_REGISTRIES_MIRROR_INDEX") or CRATES).removeprefix("sparse+").rstrip("/")
    path = into / "config.json"
    if trouble := fetch(f"{index}/config.json", path):
        raise OSError(trouble)
    template = str(json.loads(path.read_text(encoding="utf-8"))["dl"])
    path.unlink()
    return template if any(mark in template for mark in MARKS) else template + "/{crate}/{version}/download"


def crate_url(template: str, name: str, version: str, checksum: str) -> str:
    """The address of a crate's file: cargo's template filled in."""
    prefix = {1: "1", 2: "2", 3: f"3/{name[:1]}"}.get(len(name), f"{name[:2]}/{name[2:4]}")
    values = (name, version, prefix, prefix.lower(), checksum)
    for mark, value in zip(MARKS, values, strict=True):
        template = template.replace(mark, value)
    return template


def main(listed: Path, shared: Path, into: Path) -> int:
    """Fetch what is missing, some at a time."""
    waiting = []
    template = ""
    for entry in json.loads(listed.read_text(encoding="utf-8")):
        if (shared / entry["path"]).is_file():
            continue
        if "crate" in entry:
            try:
                template = template or crate_urls(into)
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"error: the registry of crates has no configuration: {error}", file=sys.stderr)
                return 1
            checksum = entry["path"].partition("/")[0]
            entry["url"] = crate_url(template, entry["crate"], entry["version"], checksum)
        (into / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
        if (READ_BEFORE / entry["path"]).is_file():
            shutil.copyfile(READ_BEFORE / entry["path"], into / entry["path"])
        else:
            waiting.append((entry["url"], into / entry["path"]))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stopped = [each for each in pool.map(lambda one: fetch(*one), waiting) if each]
    for line in stopped:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(waiting) - len(stopped)} files downloaded")
    return 1 if stopped else 0


if __name__ == "__main__":
    raise SystemExit(main(*(Path(text) for text in sys.argv[1:4])))
