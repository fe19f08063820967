"""A Docker engine over the low-level client of the `docker` SDK: build, export, take away what a build left.

The SDK is an extra of the package and is loaded with the first engine. A stream of the engine blocks for as long as a
program of the build is silent, so it is read by a thread of its own, whose connection ends when the attempt must: the
engine then kills the build's container by itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from builder.errors import BuildError

ANSWER_S = 60
"""How long an engine may be silent about a call that is none of a build."""
SILENT_S = 3600
"""How long a program of a build may be silent; the time of the build ends before."""
LOOK_S = 0.1
"""Between two looks whether the attempt must stop."""
WAITING = 1000
"""Items of a stream that wait for their reader."""
GONE_S = 10.0
"""How long the engine may take to remove the containers of a build that was broken off."""
CHUNK = 1024 * 1024
ABOUT = 16 * CHUNK
"""Bytes of an archive beside its layers, at most."""
_NEXT = "Start the engine, or correct docker_host: unix:///var/run/docker.sock or tcp://HOST:PORT"
_INSTALL = "Install it: pip install 'ignite-builder[docker]'"

Check = Callable[[], None]
Item = TypeVar("Item")


class EngineRefused(Exception):
    """The engine answered with an error instead of a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Engine:
    """One engine; one build at a time."""

    def __init__(self, client: Any, host: str) -> None:
        self._client, self._host = client, host
        self._response: Any = None
        client.hooks["response"].append(self._answered)

    def _answered(self, response: Any, *_: object, **__: object) -> None:
        self._response = response

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def cpus(self) -> int:
        """The processors that the engine has; 0 where it does not name them. Raises `BuildError`."""
        with self._speaking():
            return int(self._client.info().get("NCPU") or 0)

    def version(self) -> str:
        """The engine's version. Raises `BuildError`."""
        with self._speaking():
            return str(self._client.version().get("Version", ""))

    def images(self) -> frozenset[str]:
        """The ids of all images, also of those without a name. Raises `BuildError`."""
        with self._speaking():
            return frozenset(str(one) for one in self._client.images(quiet=True, all=True))

    def build(self, context: BinaryIO, arguments: Mapping[str, Any], check: Check) -> Iterator[Mapping[str, Any]]:
        """The messages of a build of a context, a tar. `check` is asked all the time, and may raise to end it all.

        Raises `EngineRefused`, `BuildError` ToolchainUnavailable.
        """

        def stream() -> Iterable[Mapping[str, Any]]:
            found: Iterable[Mapping[str, Any]] = self._client.build(
                fileobj=context, custom_context=True, decode=True, timeout=SILENT_S, **arguments
            )
            return found

        yield from self._read(stream, check)

    def export(self, image: str, out: Path, limit: int, check: Check) -> None:
        """Write an image as a tar to `out`; `limit` is in bytes of its layers.

        Raises as `build`, `BuildError` ArtifactTooLarge, `OSError` of the disk, and what `check` raises.
        """
        left = limit + ABOUT
        with out.open("xb") as file:
            for data in self._read(lambda: self._client.get_image(image, chunk_size=CHUNK), check):
                if (left := left - len(data)) < 0:
                    raise BuildError("ArtifactTooLarge", f"the image has more than {limit} bytes", limit=limit)
                file.write(data)

    def was_out_of_memory(self, containers: Sequence[str], since: float) -> bool:
        """Whether the kernel ended a process of one of these containers, named by the start of its id, for memory."""
        try:
            with self._speaking():
                filters = {"type": ["container"], "event": ["oom"]}
                until = int(time.time()) + 1
                for event in self._client.events(since=int(since), until=until, filters=filters, decode=True):
                    if str(event.get("id", "")).startswith(tuple(containers)):
                        return True
        except (BuildError, EngineRefused):  # then the exit code has to do
            pass
        return False

    def take_away(
        self, tag: str, made: Sequence[str], before: frozenset[str], containers: Sequence[str]
    ) -> tuple[str, ...]:
        """Delete the image of this name, and those of `made` (starts of ids) that nobody else named and that were not
        there `before`. Waits until the engine has removed the build's containers. What stays, for the log.

        Raises `BuildError`.
        """
        left = [f"container {one}" for one in containers if not self._is_gone(one)]
        try:
            with self._speaking():
                self._client.remove_image(tag, noprune=True)
        except EngineRefused as refused:
            left += [f"image {tag}: {refused.message}"] if refused.status != 404 else []
        for one in reversed(tuple(dict.fromkeys(made))):
            try:
                with self._speaking():
                    found = self._client.inspect_image(one)
                    if found["Id"] in before or found.get("RepoTags") or found.get("RepoDigests"):
                        continue
                    self._client.remove_image(found["Id"], noprune=True)
            except EngineRefused as refused:
                if refused.status != 404:
                    left.append(f"image {one}: {refused.message}")
        return tuple(left)

    def _is_gone(self, container: str) -> bool:
        until = time.monotonic() + GONE_S
        while True:
            try:
                with self._speaking():
                    self._client.inspect_container(container)
            except EngineRefused as refused:
                return refused.status == 404
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_S)

    def _read(self, stream: Callable[[], Iterable[Item]], check: Check) -> Iterator[Item]:
        """The items of a stream of the engine, read by a thread, while `check` is asked."""
        items: queue.Queue[tuple[bool, Any]] = queue.Queue(WAITING)
        over = threading.Event()
        self._response = None

        def put(is_item: bool, value: object) -> None:
            while not over.is_set():
                with suppress(queue.Full):
                    items.put((is_item, value), timeout=LOOK_S)
                    return

        def read() -> None:
            try:
                with self._speaking():
                    found = stream()
                    for item in found if not over.is_set() else ():
                        put(True, item)
                        if over.is_set():
                            break
                put(False, None)
            except BaseException as error:
                put(False, error)
            finally:
                if over.is_set():
                    self._hang_up()

        thread = threading.Thread(target=read, name="engine", daemon=True)
        thread.start()
        try:
            while True:
                check()
                try:
                    is_item, value = items.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                if is_item:
                    yield value
                elif value is not None:
                    raise value
                else:
                    return
        finally:
            over.set()
            if thread.is_alive():
                self._hang_up()
                thread.join(1.0)

    def _hang_up(self) -> None:
        """End the connection of the last call, whoever reads from it."""
        if (response := self._response) is not None:
            with suppress(ValueError, RuntimeError, OSError, AttributeError):  # it has ended by itself
                response.raw.shutdown()
            with suppress(Exception):
                response.close()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """What the SDK raises as ours: `EngineRefused` for an answer, `BuildError` ToolchainUnavailable without one."""
        from docker.errors import APIError, DockerException, StreamParseError
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except APIError as error:
            raise EngineRefused(str(error.explanation or error), int(error.status_code or 0)) from None
        except (DockerException, StreamParseError, RequestException, HTTPError) as error:
            raise unreachable(self._host, error) from error


def connect(host: str) -> Engine:
    """The engine at `host`. Raises `BuildError` ToolchainUnavailable without the SDK, or without an answer."""
    try:
        from docker import APIClient
        from docker.errors import DockerException
    except ModuleNotFoundError:
        message = "docker_host names a Docker engine, and the package docker is not installed"
        raise BuildError("ToolchainUnavailable", message, where="docker_host", next=_INSTALL) from None
    try:
        client = APIClient(base_url=host, version="auto", timeout=ANSWER_S)
    except DockerException as error:
        raise unreachable(host, error) from error
    client.trust_env = False  # a proxy of the environment is not the way to an engine
    return Engine(client, host)


def unreachable(host: str, error: Exception) -> BuildError:
    """An engine that gives no answer, or breaks one off."""
    message = f"the Docker engine at {host} does not answer: {_cause(error)}"
    return BuildError("ToolchainUnavailable", message, where="docker_host", next=_NEXT)


def _cause(error: BaseException) -> str:
    """The words of the operating system behind an error of the SDK, where there are some."""
    each: BaseException | None = error
    for _ in range(20):
        if each is None:
            break
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
        each = each.__cause__ or each.__context__
    return str(error)[:200]
