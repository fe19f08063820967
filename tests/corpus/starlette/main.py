"""An ASGI application without a server of its own."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def readers(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.query_params['name']} has {request.path_params['count']:,} readers")


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"got": await request.json()})


async def count(request: Request) -> StreamingResponse:
    return StreamingResponse((f"{number}\n" for number in range(3)), media_type="text/plain")


app = Starlette(
    routes=[Route("/readers/{count:int}", readers), Route("/echo", echo, methods=["POST"]), Route("/count", count)]
)
