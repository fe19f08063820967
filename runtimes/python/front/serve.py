"""The HTTP front of a Python handler, of handler.py or of another module. Standard library only; Python 3.11 or newer.

    serve.py [MODULE:ATTRIBUTE]

Listens on $PORT (80), answers GET /healthz once the handler is imported, gives every other request to
`handler(payload: bytes, ctx: dict)`. bytes are sent as they are, str as UTF-8, anything else as JSON; a raise is 500
with {error, type, traceback}. TERM stops accepting, finishes what is in flight, exits 0. At most
$IGNITE_MAX_CONCURRENCY handlers run at once (0: 64); the rest waits up to a minute, then gets 503.

The user's folders come by PYTHONPATH. They are off the path while the front imports what it needs itself, so that no
user's `logging.py` or `json.py` breaks it, and back before the handler is imported.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
USERS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and os.path.realpath(path) != HERE]
PLAIN = [path for path in sys.path if path not in USERS and os.path.realpath(path) != HERE]
sys.path[:] = [HERE, *PLAIN]

# ruff: noqa: E402  (the path comes first, see above)
import asyncio
import concurrent.futures
import contextvars
import importlib
import inspect
import json
import re
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import ignite

IMPORTER = importlib.__file__
STOPS = (signal.SIGTERM, signal.SIGINT)
BODY_LIMIT = 64 * 1024 * 1024
HEADER_LIMIT = 64 * 1024
IDLE_S = 75.0
BODY_S = 300.0
QUEUE_S = 60.0
ACCEPT_TURNS = 16  # accept, transport, task, bytes, request: a turn each, and room for an event loop with more
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
VERSION = re.compile(r"HTTP/1\.[0-9]")
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class BadRequest(Exception):
    """What the client sent is no HTTP request; the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Front:
    """One handler behind one listening socket."""

    def __init__(self, handler: Callable[..., Any], concurrency: int) -> None:
        self._handler = handler
        self._is_async = inspect.iscoroutinefunction(handler)
        self._slots = asyncio.Semaphore(concurrency)
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency, "handler")
        self._busy: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after the other."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer, task):
                pass
        except BadRequest as error:
            body = json.dumps({"error": str(error)}).encode()
            writer.write(head(error.status, "application/json", len(body), keep=False) + body)
            await linger(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            pass  # the client left or fell silent, or we drain: nobody is there to be answered
        finally:
            self._connections.discard(task)
            self._busy.discard(task)
            try:
                if writer.can_write_eof():
                    writer.write_eof()
                writer.close()
            except (OSError, RuntimeError):
                pass

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> bool:
        try:
            raw = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_S)
        except asyncio.LimitOverrunError:
            raise BadRequest(431, "the headers are larger than 64 KiB") from None
        except asyncio.IncompleteReadError:
            return False
        self._busy.add(task)
        method, target, version, headers = parse_head(raw)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await asyncio.wait_for(read_body(reader, headers), BODY_S)
        except asyncio.LimitOverrunError:
            raise BadRequest(400, "a chunk's size line is too long") from None
        path, query = split_target(target)
        request = ignite.Request(method=method, path=path or "/", query=query, headers=headers)
        if path == "/healthz" and method in ("GET", "HEAD"):
            status, kind, answer = 200, "text/plain; charset=utf-8", b"ok\n"
        else:
            status, kind, answer = await self._in_turn(request, body)
        connection = headers.get("connection", "").lower()
        keep = version == "HTTP/1.1" and "close" not in connection and not self.stopping.is_set()
        writer.write(head(status, kind, len(answer), keep) + (b"" if method == "HEAD" else answer))
        await writer.drain()
        self._busy.discard(task)
        return keep

    async def _in_turn(self, request: ignite.Request, payload: bytes) -> tuple[int, str, bytes]:
        try:
            await asyncio.wait_for(self._slots.acquire(), QUEUE_S)
        except TimeoutError:
            error = {"error": f"no handler became free within {QUEUE_S:.0f} s"}
            return 503, "application/json", json.dumps(error).encode()
        try:
            return await self._answer(request, payload)
        finally:
            self._slots.release()

    async def _answer(self, request: ignite.Request, payload: bytes) -> tuple[int, str, bytes]:
        names = ("execution_id", "function_id", "organization_id")
        ctx = {name: request.headers.get("x-ignite-" + name.replace("_", "-"), "") for name in names}
        token = ignite._current.set(request)
        try:
            if self._is_async:
                value, error = await awaited(self._handler(payload, ctx))
            else:
                context = contextvars.copy_context()
                loop = asyncio.get_running_loop()
                value, error = await loop.run_in_executor(self._pool, context.run, called, self._handler, payload, ctx)
                if error is None and inspect.isawaitable(value):
                    value, error = await awaited(value)
            if error is None:
                encoded, error = called(encode, value)
            return (200, *encoded) if error is None else failed(error)
        finally:
            ignite._current.reset(token)

    async def drain(self, server: asyncio.Server) -> None:
        """Stop accepting, let what is in flight finish, close idle connections.

        The event loop accepts a connection some turns before it starts its task. A server that is closed in between
        neither serves nor closes it: its client waits until the process ends. So the socket closes once these turns
        are over, and what such a connection has sent by then is in flight.
        """
        self.stopping.set()
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        server.close()
        for task in self._connections - self._busy:
            task.cancel()
        while self._busy:
            await asyncio.wait(list(self._busy), timeout=0.05)
            for task in self._connections - self._busy:
                task.cancel()


def called(function: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    """(value, error) of a call, whatever it raises: sys.exit() in a handler ends it, not the server.

    Handed back as a value: a future refuses StopIteration, so whoever waits for a handler that raised it waits forever.
    """
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error


async def awaited(value: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """`called` for what is awaited. A cancelled future inside the handler is its error; we may be cancelled too."""
    try:
        return await value, None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, error
    except BaseException as error:
        return None, error


def failed(error: BaseException) -> tuple[int, str, bytes]:
    """The 500 for what a handler raised; its traceback also into the log."""
    text = "".join(traceback.format_exception(error.with_traceback(users_part(error))))
    print(text, file=sys.stderr, flush=True)
    message, unsaid = called(str, error)
    body = {"error": "<exception str() failed>" if unsaid else message, "type": type(error).__name__, "traceback": text}
    return 500, "application/json", json.dumps(body).encode()


def users_part(error: BaseException) -> Any:
    """The traceback from the first frame that is not ours, the standard library's pool or its import machinery."""
    trace = error.__traceback__
    while trace and _is_frame_of_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace or error.__traceback__


def _is_frame_of_ours(name: str) -> bool:
    return (
        name.startswith("<frozen importlib") or os.path.basename(name) in ("serve.py", "thread.py") or name == IMPORTER
    )


def encode(value: Any) -> tuple[str, bytes]:
    """(content type, body) of what a handler returned."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "application/octet-stream", bytes(value)
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    return "application/json", json.dumps(value, allow_nan=False).encode()


def head(status: int, kind: str, length: int, keep: bool) -> bytes:
    """The status line and headers of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    connection = "keep-alive" if keep else "close"
    lines = (
        f"HTTP/1.1 {status} {phrase}",
        f"content-type: {kind}",
        f"content-length: {length}",
        f"connection: {connection}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def parse_head(raw: bytes) -> tuple[str, str, str, dict[str, str]]:
    """(method, target, version, headers) by RFC 9112; bytes are read as Latin-1. Raises `BadRequest`."""
    lines = raw[:-4].decode("latin-1").split("\r\n")
    if len(lines) > 1 and not lines[0]:
        lines = lines[1:]  # RFC 9112, 2.2: one empty line before the request line is forgiven
    parts = lines[0].split(" ")
    if (
        len(parts) != 3
        or not VERSION.fullmatch(parts[2])
        or not TOKEN.fullmatch(parts[0])
        or not parts[1].isprintable()
    ):
        raise BadRequest(400, "this is no HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
            raise BadRequest(400, "a header is malformed")
        name = name.lower()
        if name in headers and name in ("content-length", "transfer-encoding", "host"):
            raise BadRequest(400, f"{name} is given twice")
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return parts[0], parts[1], parts[2], headers


def split_target(target: str) -> tuple[str, str]:
    """(path, query without "?") of an origin-form or absolute-form target; `*` and an authority are the path "/"."""
    if "://" in target.split("?", 1)[0]:
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, _, query = target.partition("?")
    return (path if path.startswith("/") else "/"), query


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body by its length or chunks; both at once are refused (RFC 9112, 6.3). Raises `BadRequest`."""
    length, coding = headers.get("content-length"), headers.get("transfer-encoding", "").lower()
    if coding:
        if length is not None or coding != "chunked":
            raise BadRequest(400, "transfer-encoding takes chunked, without content-length")
        return await read_chunks(reader)
    if length is None:
        return b""
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise BadRequest(400, "content-length is no number")
    if int(length) > BODY_LIMIT:
        raise BadRequest(413, f"the body is larger than {BODY_LIMIT} bytes")
    return await reader.readexactly(int(length))


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: closing on unread bytes resets the connection, and the client may lose the answer."""
    try:
        writer.write_eof()
        async with asyncio.timeout(1):
            while await reader.read(65536):
                pass
    except (OSError, TimeoutError):
        pass


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body (RFC 9112, 7.1)."""
    body = bytearray()
    while True:
        line = (await reader.readuntil(b"\r\n"))[:-2].split(b";", 1)[0].strip()
        if not CHUNK_SIZE.fullmatch(line):
            raise BadRequest(400, "a chunk's size is no number")
        size = int(line, 16)
        if len(body) + size > BODY_LIMIT:
            raise BadRequest(413, f"the body is larger than {BODY_LIMIT} bytes")
        if size == 0:
            for _ in range(100):  # trailers are read and dropped
                if await reader.readuntil(b"\r\n") == b"\r\n":
                    return bytes(body)
            raise BadRequest(400, "too many trailers")
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest(400, "a chunk does not end where it says")


def imported(target: str) -> Callable[..., Any]:
    """The user's handler. What its import raises ends the program with the user's own frames alone."""
    module, _, name = target.partition(":")
    try:
        handler: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:
        traceback.print_exception(error.with_traceback(users_part(error)))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    return handler


def own_signals() -> None:
    """A process that the handler forks ends by a signal, as one of `multiprocessing` must, and wakes no loop here.

    One that comes before it has handlers of its own waits: ours would take it, and the process would go on.
    """
    masks = threading.local()

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def own() -> None:
        signal.set_wakeup_fd(-1)  # it is shared with this process, which would stop
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=own)


async def main() -> None:
    """Import the handler, listen, serve until TERM."""
    sys.path[:] = [*USERS, *PLAIN, HERE]
    handler = imported(sys.argv[1] if len(sys.argv) > 1 else "handler:handler")
    front = Front(handler, int(os.environ.get("IGNITE_MAX_CONCURRENCY") or 0) or 64)
    server = await asyncio.start_server(
        front.connection, "0.0.0.0", int(os.environ.get("PORT") or 80), limit=HEADER_LIMIT, backlog=512
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in STOPS:
        loop.add_signal_handler(number, stop.set)
    own_signals()
    await stop.wait()
    await front.drain(server)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # threads of a library must not hold a drained front back
