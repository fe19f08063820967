"""A receiver of build reports: verifies the signature, applies each report once, and answers.

    REPORT_KEYS=KEY[,KEY] python3 report_receiver.py [HOST:PORT]

It needs the standard library alone. Each report that is applied is printed as one line. What a real receiver keeps in
its database is a dict here: the last sequence of each build.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

TOLERANCE_MS = 5 * 60 * 1000
"""How far the clocks of both sides may be apart; an older signature is a recorded one."""
MOST_BYTES = 1024 * 1024


def is_signed(header: str, body: bytes, keys: Sequence[str], now_ms: int) -> bool:
    """Whether `Ignite-Signature: t=<ms>,v1=<hex>[,v1=<hex>]` is of one of these keys, of this body and of now."""
    parts = [part.partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    found = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not times[0].isascii() or not times[0].isdigit() or len(times[0]) > 15:
        return False
    if abs(now_ms - int(times[0])) > TOLERANCE_MS:
        return False
    signed = times[0].encode() + b"." + body
    wanted = [hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in keys]
    return any(hmac.compare_digest(one.encode(), other.encode()) for one in wanted for other in found)


class Versions:
    """The last sequence of each build. A report that is repeated or late changes nothing."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._lock = Lock()

    def apply(self, report: dict[str, object]) -> bool:
        """Whether the report is news."""
        build, sequence = str(report["buildId"]), int(str(report["sequence"]))
        with self._lock:
            if sequence <= self._last.get(build, 0):
                return False
            self._last[build] = sequence
            return True


class Receiver(BaseHTTPRequestHandler):
    """POST of one report: 204 once it is applied, also when it was before; 401 for a signature that is none."""

    keys: Sequence[str] = ()
    versions = Versions()
    timeout = 10

    def do_POST(self) -> None:
        """Judge, apply, answer."""
        size = self.headers.get("content-length", "")
        if not size.isdigit() or int(size) > MOST_BYTES:
            return self._answer(413)
        body = self.rfile.read(int(size))
        if not is_signed(self.headers.get("ignite-signature", ""), body, self.keys, time.time_ns() // 1_000_000):
            return self._answer(401)
        report = json.loads(body)
        if self.versions.apply(report):
            labels = ",".join(f"{key}={value}" for key, value in sorted(report.get("labels", {}).items()))
            print(report["buildId"], report["sequence"], report["versionStatus"], labels or "-", flush=True)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Only reports are printed."""


def main(address: str) -> None:
    """Serve until it is stopped."""
    Receiver.keys = [key for key in os.environ.get("REPORT_KEYS", "").split(",") if key]
    if not Receiver.keys:
        sys.exit("REPORT_KEYS is empty: set it to the report_keys of the builder")
    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    print(f"listening on http://{host}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9480")
