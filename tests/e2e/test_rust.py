"""Rust, end to end: what is compiled, what it answers, what outlives a build, what a failure says."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import runtimes_dir
from builder.local import run
from tests.build_fixtures import CALLER, Files, Server, tar_gz_of

pytestmark = pytest.mark.e2e

SINGLE = """\
use ignite::{Context, IntoResponse, Json, Request, Result};
use serde_json::json;

#[ignite::main]
async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    if req.path() == "/panic" {
        panic!("deliberately");
    }
    if req.path() == "/stream" {
        ctx.stream().send("one,").await?;
        tokio::task::yield_now().await;
        ctx.stream().send("two,").await?;
    }
    Ok(Json(json!([req.query_param("x"), ctx.execution_id(), String::from_utf8_lossy(req.raw())])))
}
"""
SERVER = """\
use std::io::{Read, Write};
use std::{ffi::CStr, net::TcpListener};

fn main() {
    let zlib = unsafe { CStr::from_ptr(libz_sys::zlibVersion()) }.to_str().unwrap();
    let listener = TcpListener::bind(("0.0.0.0", std::env::var("PORT").unwrap().parse().unwrap())).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let _ = connection.read(&mut [0; 4096]);
        let body = format!("GREETING {} zlib {}", text::number(4), zlib.split('.').next().unwrap());
        let head = format!("HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\nconnection: close\\r\\n\\r\\n", body.len());
        let _ = connection.write_all((head + &body).as_bytes());
    }
}
"""
# As Rocket listens: by the variables of its own, and on loopback where there are none.
ROCKET = """\
use std::env::var;
use std::io::{Read, Write};
use std::net::TcpListener;

pub fn launch() {
    let address = var("ROCKET_ADDRESS").unwrap_or("127.0.0.1".into());
    let port = var("ROCKET_PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(8000);
    for connection in TcpListener::bind((address.as_str(), port)).unwrap().incoming() {
        let mut connection = connection.unwrap();
        let _ = connection.read(&mut [0; 4096]);
        let same = if var("ROCKET_PORT") == var("PORT") { "is" } else { "is not" };
        let body = format!("{address}, ROCKET_PORT {same} PORT");
        let head = format!("HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\nconnection: close\\r\\n\\r\\n", body.len());
        let _ = connection.write_all((head + &body).as_bytes());
    }
}
"""
TEXT = "pub fn number(n: usize) -> String {\n    itoa::Buffer::new().format(n).to_owned()\n}\n"
# Writes over every compiled crate that it finds, and tries the network and the caches.
EVIL = """\
use std::{fs, net, path::Path};

fn spoil(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            spoil(&path);
        } else if path.extension().is_some_and(|end| end == "rlib" || end == "rmeta") {
            fs::write(&path, b"spoilt").expect("the copy of this build is writable");
            println!("cargo:warning=spoilt {}", path.file_name().unwrap().to_string_lossy());
        }
    }
}

fn main() {
    assert!(net::TcpStream::connect("198.51.100.2:9").is_err());
    for entry in fs::read_dir("/cache").into_iter().flatten().flatten() {
        assert!(fs::write(entry.path().join("mine"), b"x").is_err(), "{:?} is writable", entry.path());
    }
    spoil(Path::new("/work/out/target/x86_64-unknown-linux-gnu"));
    panic!("spoilt all of it");
}
"""


def workspace(greeting: str, **more: str) -> Files:
    data = Path(__file__).resolve().parents[1] / "data" / "rust"
    return {
        "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\nresolver = "2"\n',
        "Cargo.lock": (data / "Cargo.lock").read_text(),
        "crates/api/Cargo.toml": (
            '[package]\nname = "api"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\n'
            'text = { path = "../text" }\n'
            'libz-sys = { version = "1", default-features = false, features = ["static"] }\n'
        ),
        "crates/api/src/main.rs": SERVER.replace("GREETING", greeting),
        "crates/text/Cargo.toml": (
            '[package]\nname = "text"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\nitoa = "1"\n'
        ),
        "crates/text/src/lib.rs": TEXT,
        **more,
    }


@contextmanager
def running(server: Server, build: pb.Build) -> Iterator[httpx.Client]:
    """A client of the artifact, run from the registry."""
    with (
        run.started(server.embedded.settings, build) as app,
        httpx.Client(base_url=app.url, headers=CALLER, timeout=120, trust_env=False) as client,
    ):
        yield client


def failed(server: Server, source: Files | str, **fields: object) -> pb.Failure:
    packed = source if isinstance(source, str) else tar_gz_of(source)
    build = server.wait(server.submit("failing", packed, "rust", **fields))
    assert build.status == pb.BUILD_STATUS_FAILED
    found: pb.Failure = build.failure
    return found


def test_a_single_file_answers_streams_and_survives_a_panic(server: Server) -> None:
    build = server.build("rustsingle", SINGLE, "rust")
    with running(server, build) as app:
        assert app.post("/?x=1", content="hello").json() == ["1", "e-1", "hello"]
        answer = app.post("/panic")
        assert (answer.status_code, answer.json()) == (500, {"error": "panic: deliberately"})
        assert app.post("/stream", content="").text == 'one,two,[null,"e-1",""]'


def test_a_member_with_c_code_is_built_and_what_its_build_script_spoils_ends_with_the_build(server: Server) -> None:
    arguments = {"entry": "api"}
    first = server.build("rustmember", tar_gz_of(workspace("hello")), "rust", build_args=arguments)
    with running(server, first) as app:
        assert app.get("/").text == "hello 4 zlib 1"
    evil = workspace("hello", **{"crates/text/build.rs": EVIL})
    failure = failed(server, evil, build_args=arguments)
    assert (failure.reason, failure.where) == ("CompileFailed", "crates/text/build.rs:21:5")
    # A package with a build script has another stub, and so its crates another result: both are whole.
    again = server.build("rustmember", tar_gz_of(workspace("again")), "rust", build_args=arguments)
    for step in ("unpack crates", "compile crates"):
        assert f"{step} is left out: the node has its result" in server.log(again.build_id).text
    with running(server, again) as app:
        assert app.get("/").text == "again 4 zlib 1"
    assert again.image_digest != first.image_digest
    harmless = workspace("still", **{"crates/text/build.rs": "fn main() {}\n"})
    later = server.build("rustmember", tar_gz_of(harmless), "rust", build_args=arguments)
    assert "compile crates is left out: the node has its result" in server.log(later.build_id).text
    with running(server, later) as app:
        assert app.get("/").text == "still 4 zlib 1"


def test_a_lock_that_does_not_fit_is_the_users(server: Server) -> None:
    files = dict(workspace("x"))
    files["crates/text/Cargo.toml"] = str(files["crates/text/Cargo.toml"]) + 'memchr = "2"\n'
    failure = failed(server, files, build_args={"entry": "api"})
    assert (failure.reason, failure.where) == ("LockOutdated", "Cargo.lock")
    assert "cargo update --workspace" in failure.next


def test_a_borrow_error_has_its_place(server: Server) -> None:
    source = 'fn main() {\n    let a = String::new();\n    drop(a);\n    println!("{a}");\n}\n'
    failure = failed(server, source)
    assert (failure.reason, failure.where) == ("CompileFailed", "main.rs:4:16")
    assert "borrow of moved value" in failure.message


def crate(folder: Path, name: str, *members: tuple[str, str | bytes]) -> str:
    """A line of the list, for a crate with these files (bytes) and links (text)."""
    with tarfile.open(folder / f"{name}.crate", "w:gz") as tar:
        for path, content in members:
            info = tarfile.TarInfo(path)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
    return f"{folder / name}.crate {name} 00\n"


def test_a_crate_is_unpacked_into_its_own_folder_and_no_other(tmp_path: Path) -> None:
    """What cargo refuses, too: files beside the folder of the crate, and links that a later one is written through."""
    aim = tmp_path / "aim"
    aim.mkdir()
    lines = (
        crate(tmp_path, "a-1.0.0", ("a-1.0.0/lib.rs", b"a"), ("a-1.0.0/out", str(aim)),
              ("a-1.0.0/.cargo-checksum.json", str(aim / "sum"))),
        crate(tmp_path, "b-1.0.0", ("b-1.0.0/lib.rs", b"b"), ("a-1.0.0/lib.rs", b"evil"), ("a-1.0.0/out/x", b"evil")),
    )  # fmt: skip
    (tmp_path / "list").write_text("".join(lines))
    script = runtimes_dir() / "rust/sdk/unpack.sh"
    subprocess.run(["/bin/sh", script, tmp_path / "list", tmp_path / "vendor"], check=True)
    assert [(tmp_path / f"vendor/{name}-1.0.0/lib.rs").read_text() for name in "ab"] == ["a", "b"]
    assert not list(aim.iterdir())


def test_a_program_of_rocket_listens_on_the_port_of_the_platform(server: Server) -> None:
    source = {
        "Cargo.toml": '[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\n'
        'rocket = { path = "rocket" }\n',
        "src/main.rs": "fn main() {\n    rocket::launch()\n}\n",
        "rocket/Cargo.toml": '[package]\nname = "rocket"\nversion = "0.5.0"\nedition = "2021"\n',
        "rocket/src/lib.rs": ROCKET,
    }
    with running(server, server.build("rocket", tar_gz_of(source), "rust")) as app:
        assert app.get("/").text == "0.0.0.0, ROCKET_PORT is PORT"
    beside = {"files": "run.sh", "start": '["./run.sh"]', "start_check": "require"}
    failure = failed(server, {**source, "run.sh": "#!/bin/absent\n"}, build_args=beside)
    assert failure.reason == "StartFailed" and failure.next.startswith("Mark /app/run.sh as executable")
    assert failure.message.startswith("there is no program that could be started: /app/run.sh: Permission denied")
    assert failure.said[0].startswith("ignite: cannot start /app/run.sh: ")
