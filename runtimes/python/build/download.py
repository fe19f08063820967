"""Run inside the sandbox of a step that sees no source: download wheels, each to the path that the node named.

    download.py LIST SHARED INTO

LIST is JSON [{"url", "path"}]; what lies below SHARED is not fetched again. Nothing here is trusted: the node verifies
the digest of every file before it becomes one of the shared cache.
"""

from __future__ import annotations

import http.client
import json
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


def main(listed: Path, shared: Path, into: Path) -> int:
    """Fetch what is missing, some at a time."""
    waiting = []
    for entry in json.loads(listed.read_text(encoding="utf-8")):
        if (shared / entry["path"]).is_file():
            continue
        (into / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
        if (READ_BEFORE / entry["path"]).is_file():
            shutil.copyfile(READ_BEFORE / entry["path"], into / entry["path"])
        else:
            waiting.append((entry["url"], into / entry["path"]))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stopped = [each for each in pool.map(lambda one: fetch(*one), waiting) if each]
    for line in stopped:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(waiting) - len(stopped)} wheels downloaded")
    return 1 if stopped else 0


if __name__ == "__main__":
    raise SystemExit(main(*(Path(text) for text in sys.argv[1:4])))
