"""The words of a start command where they run: a variable of theirs is replaced alike in every runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
from builder.sandbox.app import PORT
from tests.build_fixtures import Server, tar_gz_of

pytestmark = pytest.mark.e2e
GO = """\
package main

import (
	"encoding/json"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(os.Args[2:]) })
	panic(http.ListenAndServe(os.Args[1], nil))
}
"""
RUST = """\
use std::io::{Read, Write};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let said = format!("{:?}", &words[1..]);
    for connection in std::net::TcpListener::bind(&words[0]).unwrap().incoming() {
        let mut connection = connection.unwrap();
        let _ = connection.read(&mut [0; 4096]);
        let _ = write!(connection, "HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\n\\r\\n{said}", said.len());
    }
}
"""
DENO = """\
const [address, ...words] = Deno.args;
const [hostname, port] = address.split(":");
Deno.serve({ hostname, port: Number(port) }, () => Response.json(words));
"""
PYTHON = """\
import http.server, json, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps(sys.argv[2:]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

host, port = sys.argv[1].split(":")
http.server.HTTPServer((host, int(port)), Answer).serve_forever()
"""
RUNTIMES: dict[str, tuple[Mapping[str, str | bytes], list[str]]] = {
    "go": ({"go.mod": "module example.com/words\n\ngo 1.24\n", "main.go": GO}, ["./app"]),
    "rust": (
        {"Cargo.toml": '[package]\nname = "words"\nversion = "0.1.0"\nedition = "2021"\n', "src/main.rs": RUST},
        ["./app"],
    ),
    "deno": ({"main.ts": DENO}, ["deno", "run", "--allow-net", "main.ts"]),
    "python": ({"main.py": PYTHON}, ["python3.11", "main.py"]),
}
WORDS = {
    "${PORT}": str(PORT),
    "a$PORT-b": f"a{PORT}-b",
    "${NAME:-nobody}": "two words",
    "$EMPTY": "",
    "${EMPTY:-instead}": "instead",
    "${UNSET-an instead}": "an instead",
    "x$UNSET": "x",
    "$ $1 ${} $(PORT) ${NAME:?}": "$ $1 ${} $(PORT) ${NAME:?}",
    "gr\u00fc\u00df $NAME": "gr\u00fc\u00df two words",
}


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_variables_of_a_start_command_are_replaced_where_it_runs(server: Server, runtime: str) -> None:
    files, program = RUNTIMES[runtime]
    start = json.dumps([*program, "0.0.0.0:$PORT", *WORDS])
    build = server.wait(
        server.submit(
            f"words-{runtime}", tar_gz_of(files), runtime, build_args={"start": start, "start_check": "require"}
        )
    )
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, server.log(build.build_id).text)
    with run.started(server.embedded.settings, build, {"NAME": "two words", "EMPTY": ""}) as app:
        answer = httpx.get(app.url, timeout=120, trust_env=False)
    assert answer.json() == list(WORDS.values())


def test_what_a_launcher_cannot_start_is_named(server: Server) -> None:
    source = tar_gz_of({"main.ts": DENO})
    start = json.dumps(["nothing-here", "$PORT"])
    build = server.wait(server.submit("words-absent", source, "deno", build_args={"start": start}))
    assert build.failure.reason == "StartFailed", build
    assert "nothing-here: No such file or directory" in build.failure.message
