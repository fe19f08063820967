"""Shapes of Go sources that are easily built wrong, end to end: what only a real `go` shows."""

from __future__ import annotations

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import Server, tar_of

pytestmark = pytest.mark.e2e

MAIN = "package main\n\nfunc main() {}\n"
API = "module example.com/api\n\ngo 1.24\n"
NEEDS_LIB = 'package main\n\nimport "example.com/lib"\n\nfunc main() { println(lib.N) }\n'
NEEDS_SDK = 'package main\n\nimport _ "ignite"\n\nfunc main() {}\n'
LIB = {"lib/go.mod": "module example.com/lib\n\ngo 1.24\n", "lib/l.go": 'package lib\n\nconst N = "lib"\n'}
REPLACED = API + "\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ../lib\n"
POINTER = API + "\nrequire github.com/mattn/go-pointer v0.0.1\n"
NEEDS_C = 'package main\n\nimport "github.com/mattn/go-pointer"\n\nfunc main() { println(pointer.Save(1)) }\n'
IGNORES_C = 'package main\n\nimport _ "github.com/mattn/go-pointer"\n\nfunc main() {}\n'
TWIN = "//go:build !cgo\n\npackage pointer\n"
LISTED = {"vendor/modules.txt": "# github.com/mattn/go-pointer v0.0.1\n## explicit\ngithub.com/mattn/go-pointer\n"}
VENDORED = LISTED | {"vendor/github.com/mattn/go-pointer/p.go": 'package pointer\n\nimport "C"\n\nfunc Save(any) {}\n'}


def submitted(server: Server, name: str, files: dict[str, str], arguments: dict[str, str]) -> pb.Build:
    return server.wait(server.submit(name, tar_of(files), build_args=arguments))


@pytest.mark.parametrize(
    ("files", "arguments", "target"),
    [
        ({"go.work": "go 1.24\n\nuse (\n\t./api\n\t./lib\n)\n", "api/go.mod": API, "api/main.go": NEEDS_LIB, **LIB},
         {}, "./api"),
        ({"go.work": "go 1.24\n\nuse (\n\t.\n\t./lib\n)\n", "go.mod": API, "main.go": NEEDS_LIB, **LIB}, {}, "."),
        ({"go.work": "go 1.24\n\nuse .\n", "go.mod": API, "main.go": NEEDS_SDK},
         {}, "."),
        ({"api/go.mod": REPLACED, "api/main.go": NEEDS_LIB, **LIB}, {"sub_path": "api"}, "."),
        ({"go.mod": API, "a/main.go": MAIN, "b/main.go": MAIN}, {"entry": "./b"}, "./b"),
        ({"go.mod": API, "main.go": "//go:build prod\n\n" + MAIN}, {"tags": "prod"}, "."),
        ({"go.mod": "module example.com/app\n\ngo 1.16\n", "lib.go": "package app\n",
          "gen.go": "// +build ignore\n\n" + MAIN, "cmd/app/main.go": MAIN}, {}, "./cmd/app"),
        ({"go.mod": API + "\ntoolchain go1.99.1\n", "main.go": MAIN}, {}, "."),
        ({"go.mod": POINTER, "main.go": IGNORES_C, "vendor/github.com/mattn/go-pointer/slow.go": TWIN, **VENDORED},
         {}, "."),
    ],
    ids=["workspace", "workspace at the root", "workspace with the SDK", "replaced beside it", "entry", "tags",
         "old constraint", "toolchain", "cgo with a twin"],
)  # fmt: skip
def test_it_is_built(server: Server, files: dict[str, str], arguments: dict[str, str], target: str) -> None:
    done = submitted(server, "gocase", files, arguments)
    log = server.log(done.build_id).text
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, log
    assert f"entry package main in {target}: " in log
    if any(path.startswith("vendor/") for path in files):
        assert "warning: package pointer (github.com/mattn/go-pointer" in log


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"go.mod": POINTER, "main.go": NEEDS_C, "vendor/github.com/mattn/go-pointer/slow.go": TWIN, **VENDORED},
         ("CgoRefused", "main.go:5")),
        ({"go.mod": POINTER, "main.go": NEEDS_C, **VENDORED},
         ("CgoRefused", "go.mod  github.com/mattn/go-pointer")),
    ],
    ids=["undefined", "excluded"],
)  # fmt: skip
def test_cgo_of_a_dependency_is_named(server: Server, files: dict[str, str], expected: tuple[str, str]) -> None:
    failure = submitted(server, "gocgo", files, {}).failure
    assert (failure.reason, failure.where) == expected, failure
    assert failure.message.startswith('github.com/mattn/go-pointer v0.0.1 imports "C" in p.go')
    assert (failure.error_class, pb.BuildPhase.Name(failure.phase)) == ("user_code", "BUILD_PHASE_BUILD")
