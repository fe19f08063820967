"""What clients of a history do while the service dies under them: submit, cancel, read a log. A thread each."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from tests.chaos import sources
from tests.chaos.parts import Parts
from tests.chaos.schedule import Submit

TIMEOUT_S = 3.0
PAUSE_S = 0.2


class Client(threading.Thread):
    """Repeats its calls at one control process after the other until they are answered. `wrong`: broken promises."""

    def __init__(self, parts: Parts, organization: str, at: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.parts, self.at, self.over = parts, at, over
        self.headers = {"authorization": f"Bearer {parts.tokens[organization]}"}
        self.wrong: list[str] = []

    def call(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer, refusals included; None: the history is over first."""
        while not self.over.is_set():
            url = self.parts.urls[self.at % len(self.parts.urls)]
            with suppress(httpx.TransportError), self._client(url) as client:
                answer = client.request(method, path, **more)
                if answer.status_code not in (429, 500, 502, 503, 504):
                    return answer
            self.at += 1
            self.over.wait(PAUSE_S)
        return None

    def _client(self, url: str) -> httpx.Client:
        return httpx.Client(base_url=url, headers=self.headers, timeout=TIMEOUT_S, trust_env=False, verify=False)


class Submitter(Client):
    """Sends one request until it is accepted, `times` times over; then it cancels what is to be cancelled."""

    def __init__(
        self, parts: Parts, submit: Submit, over: threading.Event, accepted: Callable[[Submitter], None]
    ) -> None:
        super().__init__(parts, submit.organization, submit.number, over)
        self.submit, self.accepted = submit, accepted
        self.build_id = ""

    def run(self) -> None:
        submit = self.submit
        body = {
            "name": submit.name,
            "tags": list(submit.tags),
            "noCache": submit.no_cache,
            "idempotencyKey": f"build-{submit.number}",
            "code": {"compile": sources.compiled(submit)},
        }
        for _ in range(submit.times):
            answer = self.call("POST", "/v1/ignite/builds", json=body)
            if answer is None:
                return
            if answer.status_code != 200:
                self.wrong.append(f"submit {submit.number} was refused: {answer.status_code} {answer.text[:300]}")
                return
            build_id = answer.json()["buildId"]
            if self.build_id not in ("", build_id):
                self.wrong.append(f"submit {submit.number} made two builds: {self.build_id} and {build_id}")
            self.build_id = build_id
        self.accepted(self)


class Canceller(Client):
    """Asks once its build is accepted; a build that has ended already refuses."""

    def __init__(self, parts: Parts, submitter: Submitter, over: threading.Event) -> None:
        super().__init__(parts, submitter.submit.organization, submitter.submit.number, over)
        self.submitter = submitter

    def run(self) -> None:
        self.submitter.join()
        if self.submitter.build_id:
            self.call("POST", f"/v1/ignite/builds/{self.submitter.build_id}/cancel", json={})


class Tail(Client):
    """Follows a log over all deaths: each sequence once, in order, then `eof`."""

    def __init__(self, parts: Parts, organization: str, build_id: str, over: threading.Event) -> None:
        super().__init__(parts, organization, random.randrange(4), over)
        self.build_id = build_id
        self.lines: list[tuple[int, str, str]] = []
        self.eof: tuple[int, str] | None = None

    def run(self) -> None:
        while self.eof is None and not self.over.is_set():
            url = self.parts.urls[self.at % len(self.parts.urls)]
            with suppress(httpx.TransportError), self._client(url) as client:
                self._read(client)
            self.at += 1
            time.sleep(PAUSE_S)

    def _read(self, client: httpx.Client) -> None:
        last = self.lines[-1][0] if self.lines else 0
        path = f"/v1/ignite/builds/{self.build_id}/logs/stream"
        with client.stream("GET", path, params={"fromStart": "true"}, headers={"last-event-id": str(last)}) as stream:
            name = ""
            for line in stream.iter_lines() if stream.status_code == 200 else ():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data" and name == "eof":
                    end = json.loads(value)
                    self.eof = (int(end["sequence"]), str(end.get("status", "")))
                    return
                elif key == "data":
                    entry = json.loads(value)
                    sequence = int(entry["sequence"])
                    if sequence != (self.lines[-1][0] if self.lines else 0) + 1:
                        self.wrong.append(f"log of {self.build_id}: {sequence} after {self.lines[-1:]}")
                    self.lines.append((sequence, entry.get("stream", ""), entry.get("line", "")))
