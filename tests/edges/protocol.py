"""The worker's protocol, by a token that is genuine: what a node that lies can make of builds that it does not own."""

from __future__ import annotations

from typing import Any

from tests.build_fixtures import until
from tests.edges import probe
from tests.edges.world import BUILDS, ENDED, LOG_BYTES, WORKER, World, of_answer, of_record, same

CALLS: dict[str, dict[str, Any]] = {
    "Heartbeat": {},
    "Planned": {"key": "k", "codeHash": "sha256:0", "runtime": "script"},
    "AppendLog": {"firstIndex": 0, "lines": [{"line": "forged"}]},
    "Finish": {"failure": {"reason": "CompileFailed", "message": "forged"}},
    "HandBack": {"reason": "lost"},
}
"""RPC → fields beside build and claim."""


def is_stale(answer: dict[str, object]) -> str:
    stale = answer.get("stale") or answer.get("verdict") == "PLANNED_STALE"
    return "stale" if stale else str(answer)


@probe("stale")
def writes_for_a_build_that_nobody_claimed(world: World) -> str:
    build = world.submit()
    tried = {
        f"{rpc} {claim}": is_stale(world.call(rpc, build, claim=claim, **fields).json())
        for rpc, fields in CALLS.items()
        for claim in (0, 1, -1, 2**62)
    }
    found = world.get(build)
    assert (found["status"], found.get("logLines")) == ("BUILD_STATUS_PENDING", None), found
    return same(tried)


@probe("stale")
def writes_under_a_wrong_claim(world: World) -> str:
    build, claim = world.claimed()
    tried = {
        f"{rpc} {wrong}": is_stale(world.call(rpc, build, claim=wrong, **fields).json())
        for rpc, fields in CALLS.items()
        for wrong in (claim - 1, claim + 1, -claim, 2**63 - 1)
    }
    assert world.get(build)["status"] == "BUILD_STATUS_RUNNING"
    return same(tried)


@probe("stale")
def writes_for_another_nodes_build(world: World) -> str:
    """The claim is right, the token is of node-1."""
    build, claim = world.claimed()
    tried = {
        rpc: is_stale(world.call(rpc, build, "node-1", claim=claim, **fields).json()) for rpc, fields in CALLS.items()
    }
    assert world.get(build)["status"] == "BUILD_STATUS_RUNNING"
    return same(tried)


@probe("stale")
def writes_after_the_end(world: World) -> str:
    """All but a repeated finish, which is answered with the record and changes nothing."""
    build, claim = world.claimed()
    assert world.fail(build, claim)["status"] == "BUILD_STATUS_FAILED"
    before = world.get(build)
    success = {"digest": "sha256:" + "0" * 64, "reference": "x", "sizeBytes": "1"}
    again = world.call("Finish", build, claim=claim, success=success).json()
    tried = {
        rpc: is_stale(world.call(rpc, build, claim=claim, **CALLS[rpc]).json()) for rpc in CALLS if rpc != "Finish"
    }
    assert world.get(build) == before and again == {"status": "BUILD_STATUS_FAILED"}, again
    return same(tried)


@probe("404 NotFound")
def the_source_of_a_build_that_is_not_owned(world: World) -> str:
    """Without a claim, under another one, by another node, after the end."""
    build, (owned, claim) = world.submit(), world.claimed()
    get = "GET"
    tried = {
        "unclaimed": world.refusal(get, f"{WORKER}/{build}/source?claim=0", "node-2"),
        "wrong": world.refusal(get, f"{WORKER}/{owned}/source?claim={claim + 1}", "node-2"),
        "another node": world.refusal(get, f"{WORKER}/{owned}/source?claim={claim}", "node-1"),
        "traversal": world.refusal(get, f"{WORKER}/..%2f{owned}/source?claim={claim}", "node-2"),
    }
    assert world.ask(get, f"{WORKER}/{owned}/source?claim={claim}", "node-2").status_code == 200
    world.fail(owned, claim)
    return same(tried | {"ended": world.refusal(get, f"{WORKER}/{owned}/source?claim={claim}", "node-2")})


@probe("403 PermissionDenied")
def another_nodes_name(world: World) -> str:
    return same(
        {
            "register": of_answer(world.register(nodeId="node-1")),
            "claim": of_answer(world.call("ClaimBuild", world.submit(), nodeId="node-1", nonce="n")),
        }
    )


@probe("400 InvalidRequest")
def registrations_that_are_none(world: World) -> str:
    named = ("", "a/b", "../x", "a\n", "\x1b[0m", "\u202ex", "-x", "x" * 201)
    tried = {one: of_answer(world.register("worker", nodeId=one)) for one in named}
    tried |= {f"{count} slots": of_answer(world.register(slots=count)) for count in (4097, 2**32 - 1)}
    tried["queues"] = of_answer(world.register(queues=[f"q{number}" for number in range(1001)]))
    tried["toolchains"] = of_answer(world.register(toolchains={f"t{number}": "d" for number in range(1001)}))
    tried["a name"] = of_answer(world.register(queues=["q" * 1_000_000]))
    return same(
        tried | {"nonce": of_answer(world.call("ClaimBuild", world.submit(), nodeId="node-2", nonce="n" * 201))}
    )


@probe("not granted")
def builds_that_a_node_may_not_claim(world: World) -> str:
    """A build of a queue that it does not read, one of another owner, and one that is not there."""
    owned, _ = world.claimed()
    scripted = world.script("claimed", "import time; time.sleep(0)\nopen('/work/out/server.py', 'w')\n")
    tried = {}
    for build in (owned, scripted, "k7m2xq9d4t1zv6wh5r00"):
        answer = world.call("ClaimBuild", build, nodeId="node-2", nonce="other").json()
        tried[build] = "granted" if answer.get("granted") else "not granted"
    return same(tried)


@probe("200, then 400")
def another_version_of_the_protocol(world: World) -> str:
    return f"{world.register().status_code}, then {world.register(protocol=2).status_code}"


@probe("text and nothing that acts")
def controls_in_lines(world: World) -> str:
    """ESC, OSC, C1, NUL, CR and direction marks, sent by the node itself."""
    build, claim = world.claimed()
    texts = [
        "\x1b[31mred",
        "\x1b]52;c;eA==\x07",
        "\x9b31m",
        "\x00",
        "a\rb",
        "\u202eabc\u2066",
        "\x1bPq\x1b\\",
        "\x7f\x08",
    ]
    world.lines(build, claim, texts)
    world.fail(build, claim, len(texts))
    stored = "".join(line.get("line", "") for line in world.log(build))
    found = sorted({f"{ord(c):#x}" for c in stored if not c.isprintable()})
    return str(found) if found else "text and nothing that acts"


@probe("dense")
def indexes_and_sequences_of_its_own(world: World) -> str:
    """A hole, a negative index, a batch sent twice, sequences that the node names, lines in a finish that are any
    of these: the log stays dense."""
    build, claim = world.claimed()
    assert world.lines(build, claim, ["x"], first=7) == {}
    world.lines(build, claim, ["a", "b", "c"], sequence="999", eof=True, omitted="5")
    world.lines(build, claim, ["a", "b", "c", "d"])
    world.lines(build, claim, ["lost"], first=-(2**62))
    world.lines(build, claim, ["e"], first=2**62)
    assert world.fail(build, claim, 2**62).get("logIncomplete")
    last = [{"line": text, "stream": "LOG_STREAM_STDOUT", "sequence": "999"} for text in "def"]
    for first, count in ((5, 8), (3, 7), (-(2**62), 5), (2**62, 5)):
        assert world.fail(build, claim, count, firstIndex=str(first), lines=last).get("logIncomplete")
    for _ in range(2):
        world.fail(build, claim, -5, firstIndex="3", lines=last)
    log = world.log(build)
    assert [line["line"] for line in log[:6]] == ["a", "b", "c", "d", "e", "f"], log
    return "dense" if [int(line["sequence"]) for line in log] == list(range(1, len(log) + 1)) else str(log)


@probe("cut at the limit")
def a_flood_of_lines(world: World) -> str:
    """Ten times the limit, empty lines that cost nothing, and a last line of a megabyte."""
    build, claim = world.claimed()
    kept = 0
    for batch in (["x" * 16_000] * 40, [""] * 20_000, ["z" * 1000] * 500, ["y" * 1_000_000]):
        kept = int(world.lines(build, claim, batch, first=kept)["keptUntilIndex"])
    world.fail(build, claim, kept)
    size = sum(len(line.get("line", "")) for line in world.log(build))
    return "cut at the limit" if size < 5 * LOG_BYTES else f"{size} bytes"


@probe("no more than has passed")
def a_wait_without_end(world: World) -> str:
    """A number that no sum holds, and one before the beginning."""
    build, claim = world.claimed()
    for waited in (2**63 - 1, -(2**63)):
        assert world.call("Heartbeat", build, claim=claim, waitedMs=str(waited)).status_code == 200
        (kept,) = world.row(build, "waited_ms")
        if not 0 <= kept <= 120_000:
            return str(kept)
    assert world.ask("GET", "/readyz").status_code == 200
    return "no more than has passed"


@probe("shown and ended")
def times_beyond_the_calendar(world: World) -> str:
    build, claim = world.claimed()
    never = str(2**63 - 1)
    world.lines(build, claim, ["x"], timestampMs=never)
    phase = {"phase": "BUILD_PHASE_PLAN", "status": "PHASE_STATUS_SUCCEEDED", "startedAtMs": never, "endedAtMs": never}
    world.fail(build, claim, 1, phases=[phase])
    last = 253_402_300_799_999
    times = [int(line["timestampMs"]) for line in world.log(build)]
    times += [int(one["startedAtMs"]) for one in world.get(build)["phases"]]
    return "shown and ended" if max(times) <= last else str(max(times))


@probe("refused at once")
def an_artifact_that_cannot_be_one(world: World) -> str:
    """Digests and materials that are none; the answer says so, and no registry is asked."""
    digest = "sha256:" + "0" * 64
    successes: list[dict[str, object]] = [
        {"digest": each}
        for each in ("", "latest", "sha256:zz", digest.upper(), digest + "\n", "../" + digest, "sha512:0")
    ]
    named = [
        {"name": "x\x1b[0m", "digest": digest},
        {"name": "", "digest": digest},
        {"name": "n" * 5000, "digest": digest},
    ]
    named += [{"name": "x", "digest": each} for each in ("", "nonsense", digest.upper(), "h1:x")]
    successes += [{"digest": digest, "materials": [each]} for each in named]
    successes.append({"digest": digest, "materials": [{"name": "x", "digest": digest}] * 10_001})
    tried = {}
    for index, success in enumerate(successes):
        build, claim = world.claimed()
        answer = world.call("Finish", build, claim=claim, success=success).json()
        tried[str(index)] = "refused at once" if answer.get("refusedBecause") else str(answer)
        assert world.ask("POST", f"{BUILDS}/{build}/cancel", "acme").status_code == 200
    return same(tried)


@probe("FAILED Internal platform")
def an_artifact_of_another_repository(world: World) -> str:
    """A manifest that there is, with an invented reference and size: no tag of the attempt points at it."""
    honest = world.honest
    evil = "registry.example/victim/app@" + honest["imageDigest"]
    success = {"digest": honest["imageDigest"], "reference": evil, "sizeBytes": "1"}
    build, claim = world.claimed()
    while world.get(build)["status"] not in ENDED:
        world.call("Finish", build, claim=claim, success=success)
        assert until(lambda: world.get(build)["status"] in ENDED or world.takes(build)), world.get(build)
        claim = int(world.get(build)["claim"])
    found = world.get(build)
    return of_record(found) if "victim" not in str(found) and "imageDigest" not in found else str(found)


@probe("a short text that acts on nothing")
def words_of_a_failure(world: World) -> str:
    """Long texts, controls and a thousand lines of the tool: all of it would be in each answer of the record."""
    build, claim = world.claimed()
    text = "\x1b]52;c;eA==\x07\u202e\x00" + "x" * 20_000
    words = {name: text * 20 for name in ("message", "where", "next")}
    world.fail(build, claim, failure={"reason": "CompileFailed", "said": [text] * 1000, **words})
    failure = world.get(build)["failure"]
    shown = "".join([failure["message"], failure["where"], failure["next"], *failure["said"]])
    if not shown.isprintable() or len(shown) > 500_000:
        return f"{len(shown)} characters, {sorted({ascii(c) for c in shown if not c.isprintable()})}"
    return "a short text that acts on nothing"


@probe("FAILED Internal platform")
def a_reason_of_its_own(world: World) -> str:
    """It counts as ours, so the build is tried again, and ends with a word that readers know."""
    build, claim = world.claimed()
    while world.get(build)["status"] not in ENDED:
        world.fail(build, claim, failure={"reason": "AllIsWell", "message": "m", "errorClass": "nobody"})
        assert until(lambda: world.get(build)["status"] in ENDED or world.takes(build)), world.get(build)
        claim = int(world.get(build)["claim"])
    return of_record(world.get(build))


@probe("CANCELLED Cancelled client")
def an_owner_that_does_not_hear_a_cancel(world: World) -> str:
    """A finish with success, after a cancel was asked for."""
    build, claim = world.claimed()
    assert world.ask("POST", f"{BUILDS}/{build}/cancel", "acme").status_code == 200
    success = {"digest": "sha256:" + "0" * 64, "reference": "x", "sizeBytes": "1"}
    world.call("Finish", build, claim=claim, success=success)
    return of_record(world.get(build))
