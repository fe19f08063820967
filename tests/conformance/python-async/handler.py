"""The conformance app of the Python front, async (see ../README.md)."""

import asyncio
import sys

import ignite

running: list[object] = []


class NotAnException(BaseException):
    pass


async def handler(payload: bytes, ctx: dict) -> object:
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
        raise asyncio.CancelledError
    if request.path == "/not-an-exception":
        raise NotAnException("deliberately")
    if request.path == "/sleep":
        running.append(request)
        seen = len(running)
        await asyncio.sleep(int(request.query) / 1000)
        running.remove(request)
        return {"active": seen}
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "test": request.headers.get("x-test", ""),
    }
