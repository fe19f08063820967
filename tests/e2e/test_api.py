"""The API as its callers see it: a real `ignite-builder serve` over a real Redis; the tests play clients and nodes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from builder import embedded
from builder.api.client import services
from builder.api.routes import routes
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.private_redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture(scope="module")
def serve(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with serving(tmp_path_factory.mktemp("serve"), redis_url) as running:
        yield running


ROUTES = [route for service in services() for route in routes(service)]

# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/v1/ignite/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/ignite/builds/", 404, "NOT_FOUND"),
        ("DELETE", "/v1/ignite/builds", 405, "UNIMPLEMENTED"),
        ("POST", "/healthz", 405, "UNIMPLEMENTED"),
        ("GET", "/v1/ignite/builds", 401, "UNAUTHENTICATED"),
    ],
)
def test_a_path_or_method_that_is_none_answers_as_every_error_does(
    serve: Serve, method: str, path: str, status: int, code: str
) -> None:
    answer = serve.ask(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "details"}
    assert answer.headers["content-type"] == "application/json"


def test_the_wrong_method_names_all_that_the_path_takes(serve: Serve) -> None:
    answer = serve.ask("DELETE", "/v1/ignite/builds")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.json()["message"] == "/v1/ignite/builds takes GET, HEAD, POST, not DELETE"


def test_an_unforeseen_error_says_nothing_of_itself_but_how_to_find_it(serve: Serve) -> None:
    with sqlite3.connect(serve.data / "builder.db", timeout=20) as store:
        store.execute("alter table contexts rename to away")
        store.commit()
        try:
            answer = serve.ask("POST", "/v1/ignite/builds/contexts", "submit", content=b"source")
        finally:
            store.execute("alter table away rename to contexts")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert set(answer.json()) == {"code", "message", "details"}
    assert answer.json()["details"][0]["reason"] == "Internal"
    assert "contexts" not in answer.text
    mark = answer.json()["message"].split()[-1]
    line = next(line for line in serve.out.read_text().splitlines() if mark in line)
    assert "no such table: contexts" in line
