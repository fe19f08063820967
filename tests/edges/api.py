"""Clients: tokens, scopes and organizations, and requests that are none."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, closing
from typing import Any

import httpx

from tests.build_fixtures import until
from tests.edges import probe
from tests.edges.world import BUILDS, MIB, WORKER, World, of_answer, same

WORKER_CALLS = ("claim", "heartbeat", "planned", "log", "finish", "hand-back")


# Another organization


@probe("404 NotFound")
def a_strangers_build(world: World) -> str:
    """Its record, log and cancel, by id, by the start of the id, in other spellings."""
    build = world.submit("acme")
    spelled = (build, build[:4], build.upper(), build + "%00", build + "%20", build[:-1] + "%25", "____", "%25", "*")
    tried = {one: world.refusal("GET", f"{BUILDS}/{one}", "evil") for one in spelled}
    tried |= {f"{one} log": world.refusal("GET", f"{BUILDS}/{one}/logs/stream", "evil") for one in (build, build[:4])}
    tried |= {f"{one} cancel": world.refusal("POST", f"{BUILDS}/{one}/cancel", "evil") for one in (build, build[:4])}
    assert world.get(build)["status"] == "BUILD_STATUS_PENDING"
    return same(tried)


@probe("404 SourceNotFound")
def a_strangers_upload(world: World) -> str:
    """Its id, and the digest of its bytes in three spellings."""
    upload = world.ask("POST", f"{BUILDS}/contexts", "acme", content=b"print('acme')\n").json()
    digest = upload["sha256"].removeprefix("sha256:")
    tried = {"contextId": world.create("evil", contextId=upload["contextId"])}
    refs = [{"contextId": upload["contextId"]}, {"sha256": digest}, {"sha256": f"sha256:{digest}"}]
    for ref in [*refs, {"sha256": digest.upper()}]:
        tried[str(ref)] = world.create("evil", code={"compile": {}}, sourceRef=ref)
    assert world.create("acme", contextId=upload["contextId"]) == "200"
    return same(tried)


@probe("403 PermissionDenied")
def another_organization_by_name(world: World) -> str:
    return same(
        {
            "body": world.create("evil", organizationName="acme", zippedCode="UEsDBA=="),
            "query": world.refusal("GET", f"{BUILDS}?organizationName=acme", "evil"),
            "upload": world.create("evil", organizationName="acme", contextId="x"),
        }
    )


@probe("only its own")
def a_strangers_cursor_and_filter(world: World) -> str:
    """The next page of acme's list, as evil; and names that a pattern would match."""
    mine = {world.submit("acme", "listed") for _ in range(3)}
    cursor = world.ask("GET", f"{BUILDS}?limit=1", "acme").json()["nextCursor"]
    pages = [world.ask("GET", f"{BUILDS}?{query}", "evil") for query in (f"cursor={cursor}", "name=%25", "limit=500")]
    assert all(page.status_code == 200 for page in pages), [page.text for page in pages]
    shown = {one["buildId"] for page in pages for one in page.json().get("builds", [])}
    return "only its own" if not shown & mine else f"shows {shown & mine}"


@probe("a build of its own")
def a_strangers_idempotency_key(world: World) -> str:
    first = world.submit("acme", idempotencyKey="release-1")
    second = world.submit("evil", idempotencyKey="release-1")
    return "a build of its own" if second != first and "acme" not in str(world.get(second, "evil")) else first


@probe("RepositoryForbidden or InvalidRequest")
def repositories_outside_of_the_prefix(world: World) -> str:
    named = (
        "acme/x", "evil-acme/x", "evil/../acme/x", "evil/./x", "/evil/x", "evil//x", "evil/x/", "EVIL/x", "evil/x\n",
        "evil/x:latest", "evil/x@sha256:0", "evil/%2e%2e/acme", "evil\\x", "evil/x ", "evil/\u0430", "evil", "",
        "evil/x/manifests/latest", "evil/blobs/uploads", "evil/_attempts", "registry.example/evil/x",
        "evil/" + "a" * 300,
    )  # fmt: skip
    tried = {one: world.create("evil", repository=one or " ", zippedCode="UEsDBA==") for one in named}
    tried |= {f"{one} out": world.create("evil", outputRepository=one or " ", zippedCode="UEsDBA==") for one in named}
    other = {one: got for one, got in tried.items() if got not in ("400 InvalidRequest", "403 RepositoryForbidden")}
    return str(other) if other else "RepositoryForbidden or InvalidRequest"


@probe("403 RepositoryForbidden")
def another_registry(world: World) -> str:
    named = ("evil.example", "127.0.0.1:1", world.registry + "@evil.example", "http://" + world.registry)
    return same({one: world.create("evil", registry=one, zippedCode="UEsDBA==") for one in named})


@probe("400 InvalidRequest")
def names_that_are_none(world: World) -> str:
    named = (
        "", " ", ".", "..", "../acme/x", "a/b", "A", "a\n", "a\x00", "-a", "a-", "a:b", "a@b", "\u202ea",
        "a" * 65, "a" * MIB,
    )  # fmt: skip
    return same({one[:20]: world.create("evil", name=one, zippedCode="UEsDBA==") for one in named})


@probe("400 InvalidRequest")
def tags_that_are_ours_or_none(world: World) -> str:
    named = (
        "build-x", "build-untag-1", "sha256-" + "0" * 64, "", "../x", "a/b", "a:b", "a b", "-x", ".x", "x\n", "x" * 129,
        "\u00e9", "x" * MIB,
    )  # fmt: skip
    tried = {one[:20]: world.create("evil", tags=[one], zippedCode="UEsDBA==") for one in named}
    return same(tried | {"10,000": world.create("evil", tags=["x"] * 10_000, zippedCode="UEsDBA==")})


@probe("400 InvalidRequest")
def times_that_are_none(world: World) -> str:
    seconds = ("3601", "18446744073709551615", "-1", "1e9", "18446744073709551616")
    tried: list[dict[str, Any]] = [{"timeoutSecs": value} for value in seconds]
    tried += [{"queueTimeoutSecs": "86401"}, {"priority": 2**31}, {"priority": "-2147483649"}]
    return same({str(one): world.create("evil", zippedCode="UEsDBA==", **one) for one in tried})


# Scopes


@probe("403 PermissionDenied")
def a_read_token_that_writes(world: World) -> str:
    build = world.submit("acme")
    tried = {
        "create": world.create("acme-read", zippedCode="UEsDBA=="),
        "cancel": world.refusal("POST", f"{BUILDS}/{build}/cancel", "acme-read"),
        "upload": world.refusal("POST", f"{BUILDS}/contexts", "acme-read", content=b"x"),
    }
    for who in ("acme-submit", "worker", "node-2", "operate"):
        tried[f"{who} reads"] = world.refusal("GET", f"{BUILDS}/{build}", who)
        tried[f"{who} follows"] = world.refusal("GET", f"{BUILDS}/{build}/logs/stream", who)
    return same(tried)


@probe("403 PermissionDenied")
def a_client_at_the_nodes_routes(world: World) -> str:
    build, claim = world.claimed()
    tried = {
        f"{who} {call}": world.refusal("POST", f"{WORKER}/{build}/{call}", who, json={"protocol": 1, "claim": claim})
        for who in ("acme", "acme-read", "operate")
        for call in WORKER_CALLS
    }
    tried["source"] = world.refusal("GET", f"{WORKER}/{build}/source?claim={claim}", "acme")
    tried["register"] = world.refusal("POST", "/v1/ignite/worker/nodes", "acme", json={"protocol": 1})
    return same(tried)


@probe("403 PermissionDenied")
def whoever_operates_without_the_scope(world: World) -> str:
    tried = {}
    for who in ("acme", "worker", "node-1", "node-2"):
        tried[f"{who} lists"] = world.refusal("GET", "/v1/ignite/nodes", who)
        for call in ("drain", "forget"):
            tried[f"{who} {call}"] = world.refusal("POST", f"/v1/ignite/nodes/node-1/{call}", who, json={})
    return same(tried)


@probe("401 Unauthenticated")
def tokens_in_other_places_and_forms(world: World) -> str:
    forms = (
        "t-acme",
        "Basic dC1hY21lOg==",
        "Bearer",
        "Bearer t-acm",
        "Bearer t-acme,t-evil",
        "Bearer t-acme\tx",
        "T-ACME",
    )
    tried = {one: of_answer(world.ask("GET", BUILDS, headers={"authorization": one})) for one in forms}
    tried["query"] = of_answer(world.ask("GET", f"{BUILDS}?access_token=t-acme"))
    tried["cookie"] = of_answer(world.ask("GET", BUILDS, headers={"cookie": "authorization=Bearer t-acme"}))
    twice = [("authorization", "Bearer nobody"), ("authorization", "Bearer t-acme")]
    answer = httpx.get(world.serve.url + BUILDS, headers=twice, trust_env=False, timeout=120)
    return same(tried | {"twice": of_answer(answer)})


# Bodies


@probe("403, unread")
def unfinished_bodies_without_the_scope(world: World) -> str:
    """60 MiB are announced at each of a node's routes, and none of it comes."""
    statuses = set()
    with ExitStack() as stack:
        for call in WORKER_CALLS * 3:
            one = stack.enter_context(closing(connected(world)))
            one.sendall(head(world, f"{WORKER}/abc/{call}", "acme-read", 60 * MIB) + b"{")
            statuses.add(int(one.recv(4096).split()[1]))
    return f"{statuses.pop()}, unread" if len(statuses) == 1 else str(statuses)


@probe("acme is served")
def unfinished_uploads(world: World) -> str:
    """As many as are let in by one organization; another one's upload goes through beside them."""
    with ExitStack() as stack:
        for _ in range(8):
            one = stack.enter_context(closing(connected(world)))
            one.sendall(head(world, f"{BUILDS}/contexts", "evil", 500 * MIB, "application/octet-stream") + b"x")
        answer = world.ask("POST", f"{BUILDS}/contexts", "acme", content=b"print(1)\n")

        def fifth() -> str:
            return of_answer(world.ask("POST", f"{BUILDS}/contexts", "evil", content=b"print(1)\n"))

        assert until(lambda: fifth() == "429 QuotaExceeded"), fifth()  # once the server has met those before it
    return "acme is served" if answer.status_code == 200 else answer.text


@probe("413 ArchiveTooLarge")
def a_body_beyond_the_limit(world: World) -> str:
    return world.refusal(
        "POST", BUILDS, "evil", content=b" " * (10 * MIB), headers={"content-type": "application/json"}
    )


@probe("400 InvalidRequest")
def requests_that_every_list_would_carry(world: World) -> str:
    """Megabytes beside the source: one page of a list would read hundreds of such records."""
    large = "x" * 2_000_000
    tried: list[dict[str, Any]] = [{"buildArgs": {"A": large}}, {"buildArgs": {large: "x"}}]
    tried += [{"platform": large}, {"idempotencyKey": large}]
    tried += [{"buildArgs": {f"A{number}": "x" * 1000 for number in range(2000)}}, {"name": large}]
    tried += [
        {"labels": {"a": large}},
        {"labels": {large: "a"}},
        {"labels": {f"l{number}": "x" for number in range(5000)}},
    ]
    verdicts = {f"{index}": world.create("evil", zippedCode="UEsDBA==", **one) for index, one in enumerate(tried)}
    return same({index: "400 InvalidRequest" if got.startswith("400") else got for index, got in verdicts.items()})


@probe("415 UnsupportedMediaType")
def bodies_of_another_kind(world: World) -> str:
    """Also what a form of a stranger's page can send."""
    kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml")
    tried = {one: world.refusal("POST", BUILDS, "evil", content=b"{}", headers={"content-type": one}) for one in kinds}
    for encoding in ("gzip", "deflate, gzip", "br", "identity, gzip"):
        for path in (BUILDS, f"{BUILDS}/contexts"):
            headers = {"content-encoding": encoding}
            tried[f"{encoding} {path}"] = world.refusal("POST", path, "evil", content=b"\x1f\x8b", headers=headers)
    return same(tried)


@probe("400 InvalidRequest")
def json_that_is_none(world: World) -> str:
    deep = 100_000
    bodies = {
        "arrays": b"[" * deep, "objects": b'{"a":' * deep, "closed": b"[" * deep + b"]" * deep, "empty": b"",
        "number": b'{"priority": ' + b"9" * deep + b"}", "float": b'{"priority": 1e999999999}',
        "nan": b'{"priority": NaN}',
        "twice": b'{"name": "a", "name": "b", "zippedCode": "UEsDBA=="}', "utf-16": '{"name": "a"}'.encode("utf-16"),
        "both spellings": b'{"name": "a", "zippedCode": "UEsDBA==", "zipped_code": "UEsDBA=="}', "list": b"[]",
        "unknown": b'{"name": "a", "zippedCode": "UEsDBA==", "__proto__": {}}', "bad utf-8": b'{"name": "\xff"}',
        "trailing": b'{"name": "a", "zippedCode": "UEsDBA=="}{"name": "b"}',
        "base64": b'{"name": "a", "zippedCode": "@@@@"}',
        "surrogate": b'{"name": "a", "zippedCode": "UEsDBA==", "idempotencyKey": "\\ud800"}',
    }  # fmt: skip
    headers = {"content-type": "application/json"}
    return same(
        {one: world.refusal("POST", BUILDS, "evil", content=body, headers=headers) for one, body in bodies.items()}
    )


@probe("answered, no 5xx")
def text_that_a_store_or_terminal_may_not_like(world: World) -> str:
    """NUL, controls, direction marks and huge values wherever text is free."""
    texts = (
        "\x00",
        "\x1b]52;c;x\x07",
        "\u202e",
        "\ufffe",
        "x" * 100_000,
        "'; drop table builds; --",
        "${jndi:ldap://x}",
    )
    got = set()
    for text in texts:
        got.add(world.create("evil", zippedCode="UEsDBA==", idempotencyKey=text))
        got.add(world.create("evil", zippedCode="UEsDBA==", buildArgs={text: text}))
        got.add(world.create("evil", zippedCode="UEsDBA==", dockerfile=text))
        got.add(of_answer(world.ask("GET", BUILDS, "evil", params={"name": text[:1000], "cursor": text[:1000]})))
    bad = {one for one in got if one[0] not in "24" and one[:3] != "501"}
    return str(bad) if bad else "answered, no 5xx"


# HTTP itself


def connected(world: World) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(world.serve.url).port or 0), 120)


def head(world: World, path: str, who: str, length: int, kind: str = "application/json") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer t-{who}", f"Content-Type: {kind}")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


@probe("others are answered, then it is 408")
def heads_without_an_end(world: World) -> str:
    """300 connections that begin a head; what others ask meanwhile; what the first is told in the end."""
    with ExitStack() as stack:
        held = [stack.enter_context(closing(connected(world))) for _ in range(300)]
        for one in held:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        meanwhile = world.ask("GET", "/healthz").status_code
        told = held[0].recv(4096)
        return f"{'others are answered' if meanwhile == 200 else meanwhile}, then it is {told[9:12].decode()}"


@probe("[400]")
def requests_that_are_none(world: World) -> str:
    tried = {
        "nothing": b"\r\n\r\n\r\n", "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 600,
        "no version": b"GET /healthz\r\n\r\n", "method": b"G@T /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        "colon": b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n", "nul": b"GET /healthz HTTP/1.1\r\nHost: x\x00\r\n\r\n",
        "head": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    }  # fmt: skip
    return same({name: str(world.raw(data)) for name, data in tried.items()})


@probe("one request each")
def requests_in_requests(world: World) -> str:
    """A second request that only one of two readers of HTTP would see; it would cancel a build of acme's."""
    build = world.submit("acme")
    inner = (
        f"POST {BUILDS}/{build}/cancel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t-acme\r\nContent-Length: 0\r\n\r\n"
    )
    first = f"POST {BUILDS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t-evil\r\n"
    length = f"Content-Length: {len(inner)}"
    heads = {
        "both": f"{length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "other coding": f"{length}\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "two lengths": f"{length}\r\nContent-Length: 0\r\n\r\n",
        "a list of lengths": f"Content-Length: {len(inner)}, 0\r\n\r\n",
        "sign": f"Content-Length: +{len(inner)}\r\n\r\n",
        "hex": f"Content-Length: 0x{len(inner):x}\r\n\r\n",
        "blank before the colon": f"Content-Length : {len(inner)}\r\n\r\n",
        "folded": f"X: y\r\n Content-Length: 0\r\n{length}\r\n\r\n",
        "chunk size": "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        "negative chunk": "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    }
    got = {name: world.raw((first + "Connection: close\r\n" + rest + inner).encode()) for name, rest in heads.items()}
    several = {name: statuses for name, statuses in got.items() if len(statuses) > 1 or any(s < 400 for s in statuses)}
    assert not world.get(build).get("cancelRequested") and world.get(build)["status"] == "BUILD_STATUS_PENDING", got
    return str(several) if several else "one request each"


@probe("404")
def paths_beside_the_routes(world: World) -> str:
    tried = (
        f"{BUILDS}/..%2f..%2fworker%2fnodes", f"/{BUILDS}", f"{BUILDS}/%2e%2e/worker/nodes",
        "/v1/ignite/builds/x/../../nodes",
        "/%2fetc/passwd", f"{BUILDS}/a%2fb", f"{BUILDS}/a/logs", f"{BUILDS};x=y",
        "/static/../../etc/passwd", "/docs", "/.git/config",
    )  # fmt: skip
    lines = {
        one: f"GET {one} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer t-evil\r\n\r\n"
        for one in tried
    }
    return same({one: str(world.raw(text.encode())[0]) for one, text in lines.items()})


@probe("refused, and goes on")
def an_upgrade_of_the_connection(world: World) -> str:
    answers = [
        world.ask("GET", BUILDS, "evil", headers={"connection": "upgrade", "upgrade": kind, **more})
        for kind, more in (("websocket", {"sec-websocket-key": "eA==", "sec-websocket-version": "13"}), ("h2c", {}))
    ]
    return "refused, and goes on" if all(one.status_code != 101 for one in answers) else json.dumps(answers)
