"""The conformance app of the Python front, sync (see ../README.md)."""

import concurrent.futures
import sys
import threading
import time

import ignite

lock = threading.Lock()
running: list[object] = []


class NotAnException(BaseException):
    pass


def handler(payload: bytes, ctx: dict) -> object:
    request = ignite.request()
    if request.path == "/echo":
        return payload
    if request.path == "/ctx":
        return ctx
    if request.path == "/fail":
        raise ValueError("deliberately")
    if request.path == "/panic":
        sys.exit("deliberately")
    if request.path == "/stop-iteration":
        next(iter(()))
    if request.path == "/cancelled":
        raise concurrent.futures.CancelledError
    if request.path == "/not-an-exception":
        raise NotAnException("deliberately")
    if request.path == "/sleep":
        return sleep(int(request.query))
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "test": request.headers.get("x-test", ""),
    }


def sleep(milliseconds: int) -> dict:
    mine = object()
    with lock:
        running.append(mine)
        seen = len(running)
    time.sleep(milliseconds / 1000)
    with lock:
        running.remove(mine)
    return {"active": seen}
