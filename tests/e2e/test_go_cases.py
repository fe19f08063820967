"""Shapes of Go sources that are easily built wrong, end to end: what only a real `go` shows."""

from __future__ import annotations

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
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


SERVES = """\
package main

import (
	"fmt"
	"net/http"
	"os"

	"example.com/app/build"
)

var version string

func main() {
	page, err := os.ReadFile("templates/index.html")
	if err != nil {
		panic(err)
	}
	if got := fmt.Sprint(version, build.Commit, os.Args[1:]); len(os.Args) > 1 && got != "1.4.0it's 7f[serve --x=a b]" {
		panic(got)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"""
PAGES = {
    "go.mod": "module example.com/app\n\ngo 1.24\n", "main.go": SERVES, "templates/index.html": "<p>hi</p>",
    "build/b.go": "package build\n\nvar Commit string\n",
}  # fmt: skip


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
        ({"main.go": NEEDS_LIB.replace("example.com", "mine/inner"), "inner/lib/l.go": LIB["lib/l.go"]}, {}, "."),
        ({"go.mod": POINTER, "main.go": IGNORES_C, "vendor/github.com/mattn/go-pointer/slow.go": TWIN, **VENDORED},
         {}, "."),
    ],
    ids=["workspace", "workspace at the root", "workspace with the SDK", "replaced beside it", "entry", "tags",
         "old constraint", "toolchain", "no go.mod", "cgo with a twin"],
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


def test_files_stand_beside_the_binary_and_variables_and_words_reach_it(server: Server) -> None:
    arguments = {
        "files": "templates", "start": '["./app", "serve", "--x=a b"]', "start_check": "require",
        "ldflags_x": "main.version=1.4.0,example.com/app/build.Commit=it's 7f",
    }  # fmt: skip
    done = submitted(server, "gofiles", PAGES, arguments)
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, server.log(done.build_id).text
    assert done.start_check.status == pb.START_STATUS_LISTENS
    with run.started(server.embedded.settings, done) as app:
        assert httpx.get(app.url, timeout=120, trust_env=False).text == "<p>hi</p>"


def test_a_file_that_is_missing_at_the_start_is_named_with_the_way_to_put_it_there(server: Server) -> None:
    failure = submitted(server, "gonofiles", PAGES, {"start_check": "require"}).failure
    assert (failure.reason, failure.next) == (
        "StartFailed", "Put it there: --files templates. Or embed it in the program.",
    ), failure  # fmt: skip
    assert failure.message.endswith("; templates is in the source and not in the image")
    assert failure.said[0] == "panic: open templates/index.html: no such file or directory"
