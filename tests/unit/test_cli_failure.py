"""The blocks of docs/cli.md, made from records: exact text."""

from __future__ import annotations

import pytest

from builder.cli.failure import cancelled, ended, failed, reference, succeeded
from builder.cli.refusal import refused
from builder.cli.stop import build_exit, refused_call, refused_here
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import EXIT_CANCELLED, EXIT_CODES, REASONS, BuildError
from tests.cli_fixtures import build, failed_build

WIDE = Look(columns=88)


def text(lines: tuple[str, ...]) -> str:
    return "\n".join(lines)


def test_dependency_not_found() -> None:
    failure = pb.Failure(
        reason="DependencyNotFound",
        error_class="user_code",
        message="uv pip install exited 1",
        where="requirements.txt:2  numpyy==1.2",
        said=(
            "error: No solution found when resolving dependencies",
            "  cause: Because numpyy was not found in the package registry and you require numpyy==1.2, we can"
            " conclude that your requirements are unsatisfiable.",
        ),
        next='Is "numpy" meant? If "numpyy" is private, name its index: docs/python.md#indexes',
        exit_code=1,
    )
    assert (
        text(failed(failed_build("c3n7r1yd5b6wq8ht2kzx", 1400, failure), WIDE))
        == """\
FAILED  DependencyNotFound  c3n7r1yd  1.4s
whose  your code (user_code): uv pip install exited 1
where  requirements.txt:2  numpyy==1.2
said   error: No solution found when resolving dependencies
         cause: Because numpyy was not found in the package registry and you require
       numpyy==1.2, we can conclude that your requirements are unsatisfiable.
log    ignite-builder logs c3n7r1yd --failed
next   Is "numpy" meant? If "numpyy" is private, name its index: docs/python.md#indexes"""
    )


def test_go_compile_error() -> None:
    failure = pb.Failure(
        reason="CompileFailed",
        error_class="user_code",
        message="go build exited 1",
        where="main.go:11:6  (first of 2)",
        said=("./main.go:11:6: declared and not used: total", "./main.go:15:14: undefined: totl"),
        next="Correct main.go, build again (modules are kept). By hand: go build ./...",
    )
    assert (
        text(failed(failed_build("p2v8k5wn0000000000aa", 2600, failure), WIDE))
        == """\
FAILED  CompileFailed  p2v8k5wn  2.6s
whose  your code (user_code): go build exited 1
where  main.go:11:6  (first of 2)
said   ./main.go:11:6: declared and not used: total
       ./main.go:15:14: undefined: totl
log    ignite-builder logs p2v8k5wn --failed
next   Correct main.go, build again (modules are kept). By hand: go build ./..."""
    )


def test_rust_compile_error_says_how_much_more_there_is() -> None:
    said = (
        "error[E0308]: mismatched types",
        " --> src/lib.rs:5:13",
        "  |",
        "5 |     Thumb { width }",
        "  |             ^^^^^ expected `u32`, found `u64`",
        *(f"more {n}" for n in range(5)),
    )
    failure = pb.Failure(
        reason="CompileFailed",
        error_class="user_code",
        message="cargo build exited 101",
        where="src/lib.rs:5:13",
        said=said,
        next="Correct src/lib.rs, build again (crates are kept). By hand: cargo check",
    )
    assert (
        text(failed(failed_build("w8f2h6zt0000000000aa", 5300, failure), WIDE))
        == """\
FAILED  CompileFailed  w8f2h6zt  5.3s
whose  your code (user_code): cargo build exited 101
where  src/lib.rs:5:13
said   error[E0308]: mismatched types
        --> src/lib.rs:5:13
         |
       5 |     Thumb { width }
         |             ^^^^^ expected `u32`, found `u64`
       … 5 more lines
log    ignite-builder logs w8f2h6zt --failed
next   Correct src/lib.rs, build again (crates are kept). By hand: cargo check"""
    )


def test_deno_type_error_wraps_the_words_of_the_tool() -> None:
    failure = pb.Failure(
        reason="CompileFailed",
        error_class="user_code",
        message="deno check exited 1",
        where="main.ts:4:17",
        said=(
            "TS2345 [ERROR]: Argument of type 'string | undefined' is not assignable to parameter of type 'number'.",
            "  Type 'undefined' is not assignable to type 'number'.",
            "  return resize(req.width);",
            "                ~~~~~~~~~",
            "    at main.ts:4:17",
        ),
        next="Correct main.ts, build again. By hand: deno check main.ts",
    )
    assert (
        text(failed(failed_build("t5j3d8ra0000000000aa", 1300, failure), WIDE))
        == """\
FAILED  CompileFailed  t5j3d8ra  1.3s
whose  your code (user_code): deno check exited 1
where  main.ts:4:17
said   TS2345 [ERROR]: Argument of type 'string | undefined' is not assignable to
       parameter of type 'number'.
         Type 'undefined' is not assignable to type 'number'.
         return resize(req.width);
                       ~~~~~~~~~
           at main.ts:4:17
log    ignite-builder logs t5j3d8ra --failed
next   Correct main.ts, build again. By hand: deno check main.ts"""
    )


def test_hostile_archive_is_the_requests_fault_and_has_no_log() -> None:
    failure = pb.Failure(
        reason="ArchiveUnsafe",
        error_class="client",
        message="the archive was refused whole, nothing of it was run",
        where='upload.tar.gz, entry 7: "../../etc/cron.d/\x1b[2Jx"',
        next="Every entry must stay below the archive's root. List them: tar -tf upload.tar.gz",
    )
    assert (
        text(failed(failed_build("h9q4n2vc0000000000aa", 200, failure), WIDE))
        == """\
FAILED  ArchiveUnsafe  h9q4n2vc  0.2s
whose  the request (client): the archive was refused whole, nothing of it was run
where  upload.tar.gz, entry 7: "../../etc/cron.d/\\x1b[2Jx"
next   Every entry must stay below the archive's root. List them: tar -tf upload.tar.gz"""
    )


def test_platform_failure_gives_the_command_that_tries_again() -> None:
    failure = pb.Failure(
        reason="RegistryUnavailable", error_class="platform", message="reg.example.com said 503 in push"
    )
    record = failed_build("k7m2xq9d4t1zv6wh5r3p", 74_000, failure, attempt=3)
    assert (
        text(failed(record, WIDE, "ignite-builder build hello-go/"))
        == """\
FAILED  RegistryUnavailable  k7m2xq9d  1m14s  after 3 attempts
whose  the platform (platform): reg.example.com said 503 in push
next   Nothing to change in your code. Try again later: ignite-builder build hello-go/"""
    )


def test_refusal_without_a_build() -> None:
    stop = refused_call(
        "INVALID_ARGUMENT",
        "go 1.19 is not in the catalog; it has 1.24, 1.26",
        {
            "reason": "UnknownRuntimeVersion",
            "errorClass": "client",
            "where": "--runtime-version",
            "hint": "Take one of these, or leave the flag out: go.mod:3 asks for 1.26",
        },
    )
    assert (
        text(refused(stop, WIDE))
        == """\
REFUSED  UnknownRuntimeVersion: go 1.19 is not in the catalog; it has 1.24, 1.26
whose  the request (client): --runtime-version
next   Take one of these, or leave the flag out: go.mod:3 asks for 1.26"""
    )
    assert stop.exit_code == 2


def test_success_cache_and_cancel() -> None:
    done = build(size_bytes=9_856_614, image_refs=["reg/acme/hello-go:latest", "reg/acme/hello-go@sha256:3b1f"])
    assert text(succeeded(done, WIDE)) == "SUCCEEDED  k7m2xq9d  21.0s  9.4 MiB\nnext   ignite-builder run k7m2xq9d"
    assert reference(done) == "reg/acme/hello-go@sha256:3b1f"
    again = build("m4t9c2ph0000000000aa", 300, size_bytes=9_856_614, from_cache_of="k7m2xq9d4t1zv6wh5r3p")
    assert succeeded(again, WIDE)[0] == "SUCCEEDED  m4t9c2ph  0.3s  9.4 MiB  from the cache"
    gone = build("x6d4b9qa0000000000aa", 42_100, status=pb.BUILD_STATUS_CANCELLED)
    assert cancelled(gone, WIDE) == "CANCELLED  x6d4b9qa  42.1s  nothing of it runs any more; its log is kept"
    assert ended(gone, WIDE) == (cancelled(gone, WIDE),)


def test_a_pipe_is_neither_cut_nor_wrapped() -> None:
    failure = pb.Failure(reason="StepFailed", error_class="user_code", message="m " * 100, said=("w " * 200,))
    lines = failed(failed_build("p2v8k5wn0000000000aa", 1, failure), Look())
    assert [row.split(" ")[0] for row in lines] == ["FAILED", "whose", "said", "log", "next"]


@pytest.mark.parametrize("columns", [60, 88, 120])
def test_no_row_of_wrapped_words_is_wider_than_the_terminal(columns: int) -> None:
    failure = pb.Failure(
        reason="StepFailed", error_class="user_code", message="word " * 60, said=("said " * 60,), next="next " * 60
    )
    rows = failed(failed_build("p2v8k5wn0000000000aa", 1, failure), Look(columns=columns))
    assert max(map(len, rows)) <= columns


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_its_exit_code_and_its_rows_in_order(reason: str) -> None:
    row = REASONS[reason]
    expected = EXIT_CANCELLED if reason == "Cancelled" else EXIT_CODES[row.error_class]
    assert build_exit("BUILD_STATUS_FAILED", reason, str(row.error_class)) == expected
    failure = pb.Failure(reason=reason, error_class=str(row.error_class), message="m", where="w", said=("s",), next="")
    rows = failed(failed_build("p2v8k5wn0000000000aa", 1, failure), Look())
    labels = [line[:7].strip() for line in rows[1:]]
    log = ["log"] if row.error_class == "user_code" else []
    assert labels == ["whose", "where", "said", *log, "next"]
    assert rows[0].startswith(f"FAILED  {reason}  ")
    assert rows[-1] == f"next   {row.hint}"


def test_exit_codes_of_ended_builds() -> None:
    assert build_exit("BUILD_STATUS_SUCCEEDED", "", "") == 0
    assert build_exit("BUILD_STATUS_CANCELLED", "Cancelled", "client") == 130
    assert build_exit("BUILD_STATUS_FAILED", "FromTheFuture", "user_code") == 1
    assert build_exit("BUILD_STATUS_FAILED", "FromTheFuture", "martian") == 75


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("INVALID_ARGUMENT", 2),
        ("UNAUTHENTICATED", 3),
        ("PERMISSION_DENIED", 4),
        ("NOT_FOUND", 5),
        ("ALREADY_EXISTS", 6),
        ("RESOURCE_EXHAUSTED", 7),
        ("DEADLINE_EXCEEDED", 8),
        ("UNAVAILABLE", 9),
        ("INTERNAL", 10),
        ("FAILED_PRECONDITION", 2),
        ("OUT_OF_RANGE", 2),
        ("UNIMPLEMENTED", 2),
        ("ABORTED", 9),
        ("SOMETHING_NEW", 10),
    ],
)
def test_exit_codes_of_refused_calls(code: str, expected: int) -> None:
    assert refused_call(code, "m", {}).exit_code == expected


def test_refusals_met_here_follow_the_same_table() -> None:
    assert refused_here(BuildError("ArchiveTooLarge", "m")).exit_code == 7
    assert refused_here(BuildError("InvalidRequest", "m")).exit_code == 2
    assert refused_here(BuildError("EntryPointMissing", "m")).exit_code == 1
    assert refused_here(BuildError("SandboxUnavailable", "m")).exit_code == 75
