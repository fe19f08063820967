"""A component's outer shape, read from hostile bytes; its artifact; what both sides require of it."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import BinaryIO

import pytest

from builder import sandbox
from builder.attempt.desk import Desk
from builder.attest.artifact import ArtifactRefused, check_config, described
from builder.errors import BuildError, PlatformError
from builder.images.component import (
    COMPONENT,
    MODULE,
    MOST_NAMES,
    Component,
    Malformed,
    read_component,
    require_servable,
)
from builder.images.destination import Manifest
from builder.images.image import Image, canonical, digest_of
from builder.images.layout import Layout
from builder.images.store import pull
from builder.images.wasm import component_image, component_layer
from builder.pipelines.catalog import Catalog
from builder.settings import Settings
from builder.toolchains import wasmtime
from builder.toolchains.fetch import Fetched
from builder.toolchains.wasmtime import Host, host_of
from tests.cli_fixtures import run
from tests.component_fixtures import HANDLER, TYPES, component, imports, number, section


def opened(data: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.seek(0)
    return file


def read(data: bytes) -> Component:
    with opened(data) as file:
        return read_component(file)


def test_imports_and_exports_are_read_in_their_order_around_whatever_else_there_is() -> None:
    names = ("wasi:io/streams@0.2.6", TYPES)
    nested = section(4, component()) + section(7, b"\0" * 70_000)
    found = read(component(names, (HANDLER, "wasi:cli/run@0.2.6")) + nested + imports("wasi:clocks/wall-clock@0.2.0"))
    assert found.imports == (*names, "wasi:clocks/wall-clock@0.2.0")
    assert found.exports == (HANDLER, "wasi:cli/run@0.2.6")


@pytest.mark.parametrize(
    ("description", "what"),
    [
        (b"\x00\x11\x00", "a core module"),
        (b"\x01\x00", "a function"),
        (b"\x03\x00\x05", "a type that equals one"),
        (b"\x03\x01", "a resource"),
        (b"\x04\x00", "a component"),
    ],
)
def test_every_description_of_an_import_has_its_length(description: bytes, what: str) -> None:
    body = b"\x02" + b"\0\x01a" + description + b"\0\x01b\x05\0"
    assert read(COMPONENT + section(10, body)).imports == ("a", "b"), what


def test_an_export_of_the_core_has_one_byte_more() -> None:
    body = b"\x02" + b"\0\x01a" + b"\x00\x11\x00\x00" + b"\0\x01b" + b"\x01\x07\x00"
    assert read(COMPONENT + section(11, body)).exports == ("a", "b")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no WebAssembly at all"),
        (b"#!/bin/sh\n", "no WebAssembly at all"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "an executable of a machine"),
        (MODULE + section(0, b"\0"), "a core module, not a component"),
        (COMPONENT + b"\x0d\x00", "unknown section 13"),
        (COMPONENT + b"\x0a", "ends within its section"),
        (COMPONENT + b"\x0a\x80\x80\x80\x80\x80\x00", "more than 32 bits"),
        (COMPONENT + b"\x0a\xff\xff\xff\xff\x1f", "more than 32 bits"),
        (COMPONENT + b"\x0a\x7f\x00", "ends behind the file"),
        (COMPONENT + section(1, b"\x7fELF" + bytes(64)), "holds no WebAssembly"),
        (COMPONENT + section(1, COMPONENT), "holds no WebAssembly"),
        (COMPONENT + section(4, MODULE), "holds no WebAssembly"),
        (COMPONENT + section(10, number(MOST_NAMES + 1)), f"{MOST_NAMES + 1} names"),
        (COMPONENT + section(10, b"\x01\0\xff\x7f"), "name of 16383 bytes"),
        (COMPONENT + section(10, b"\x01\0\x05ab"), "ends within"),
        (COMPONENT + section(10, b"\x01\0\x02\xff\xfe\x05\0"), "no text"),
        (COMPONENT + section(10, b"\x01\x07\x01a\x05\0"), "unknown form of name 7"),
        (COMPONENT + section(10, b"\x01\0\x01a\x09\0"), "unknown description 9"),
        (COMPONENT + section(10, b"\x01\0\x01a\x05\0\0"), "bytes behind the names"),
    ],
)
def test_what_is_no_component_is_named(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        read(data)


def test_damaged_bytes_end_in_an_answer_or_in_malformed() -> None:
    chance, whole = random.Random(8), component((TYPES,) * 20)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(bytes(data[: chance.randint(0, len(data))]))
        except Malformed as error:
            assert str(error).isprintable()


def test_many_empty_sections_are_bounded() -> None:
    with pytest.raises(Malformed, match="more than 100000 sections"):
        read(COMPONENT + b"\0\0" * 100_001)


def test_a_component_of_the_proxy_world_can_be_served() -> None:
    require_servable(read(component((TYPES, "wasi:cli/stdout@0.2.0", "wasi:sockets/tcp@0.2.6"))), "app.wasm")


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (Component(imports=(), exports=()), "exports nothing"),
        (Component(imports=(), exports=("wasi:cli/run@0.2.6",)), "exports wasi:cli/run@0.2.6"),
        (
            Component(imports=(), exports=("wasi:http/incoming-handler@0.3.0",)),
            "exports wasi:http/incoming-handler@0.3",
        ),
        (Component(imports=("env",), exports=(HANDLER,)), "offers: env"),
        (Component(imports=("wasi:nn/tensor@0.2.0",), exports=(HANDLER,)), "offers: wasi:nn/tensor@0.2.0"),
        (Component(imports=("wasi:http/types@0.3.0",), exports=(HANDLER,)), "offers: wasi:http/types@0.3.0"),
        (Component(imports=("wasi:http/types@0.2.4\x1b",), exports=(HANDLER,)), r"0\.2\.4\\x1b"),
        (Component(imports=tuple(f"x:y/z{n}" for n in range(9)), exports=(HANDLER,)), "x:y/z5 and 3 more"),
    ],
)
def test_what_no_host_of_wasi_0_2_serves_is_named(found: Component, named: str) -> None:
    with pytest.raises(BuildError, match=named) as refused:
        require_servable(found, "/work/out/app.wasm")
    assert refused.value.reason == "StartFailed" and refused.value.where == "/work/out/app.wasm"


# The artifact


def artifact(folder: Path, data: bytes) -> Image:
    source = folder / "app.wasm"
    source.write_bytes(data)
    return component_image(component_layer(source, folder / "layer.wasm", below=folder), read(data))


def test_the_artifact_has_the_layout_of_cncf_and_pinned_bytes(tmp_path: Path) -> None:
    data = component()
    image = artifact(tmp_path, data)
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    assert manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json"
    assert [(each["mediaType"], each["digest"], each["size"]) for each in manifest["layers"]] == [
        ("application/wasm", digest_of(data), len(data))
    ]
    assert config == {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [digest_of(data)],
        "component": {"imports": [TYPES], "exports": [HANDLER]},
    }
    assert image.digest == digest_of(image.manifest)
    # Whoever changes this changes the digest of every component.
    assert image.digest == "sha256:0eb1979c6ca62658a794a4531d348f3767196231eb9e3ba8b2ae9c267a1d23bc"


def test_the_artifact_goes_out_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    data = component()
    layout = Layout(tmp_path / "layout")
    pushed = layout.push(artifact(tmp_path, data), "acme/hello", "v1")
    assert pull(layout, "acme/hello", pushed.digest, tmp_path) is None
    assert (tmp_path / "component.wasm").read_bytes() == data


def test_a_link_or_a_folder_is_no_component(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(component())
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    for name, why in (("link", "left no component"), ("folder", "left no"), ("none", "left no component")):
        with pytest.raises(BuildError, match=why) as refused:
            component_layer(tmp_path / name, tmp_path / "out", below=tmp_path)
        assert refused.value.reason == "StepFailed"


def test_a_component_above_the_limit_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "app.wasm").write_bytes(component())
    with pytest.raises(BuildError) as refused:
        component_layer(tmp_path / "app.wasm", tmp_path / "out", below=tmp_path, limit=100)
    assert refused.value.reason == "ArtifactTooLarge"


# What the control side checks


def checked(manifest: dict[str, object], config: dict[str, object]) -> None:
    body = canonical(manifest)
    found = described(Manifest(media_type=str(manifest["mediaType"]), body=body, digest=digest_of(body)))
    check_config(canonical(config), found, digest_of(body))


def test_the_control_side_takes_a_component(tmp_path: Path) -> None:
    image = artifact(tmp_path, component())
    checked(json.loads(image.manifest), json.loads(image.config))
    found = described(Manifest(media_type=image.media_type, body=image.manifest, digest=image.digest))
    assert found.size_bytes == image.size_bytes and found.component == image.layers[0].digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"os": "linux"}, "is for"),
        ({"architecture": "amd64"}, "is for"),
        ({"layerDigests": []}, "names other layers"),
        ({"layerDigests": ["sha256:" + "0" * 64]}, "names other layers"),
        ({"component": None}, "does not say"),
        ({"component": {"imports": [], "exports": "all"}}, "does not say"),
        ({"component": {"imports": [1], "exports": [HANDLER]}}, "does not say"),
        ({"component": {"imports": ["env"], "exports": [HANDLER]}}, "imports what no host"),
        ({"component": {"imports": [], "exports": []}}, "cannot be served"),
    ],
)
def test_the_control_side_refuses_another_config(tmp_path: Path, change: dict[str, object], why: str) -> None:
    image = artifact(tmp_path, component())
    with pytest.raises(ArtifactRefused, match=why):
        checked(json.loads(image.manifest), json.loads(image.config) | change)


def test_the_control_side_refuses_a_component_of_several_layers_or_of_another_type(tmp_path: Path) -> None:
    manifest = json.loads(artifact(tmp_path, component()).manifest)
    (layer,) = manifest["layers"]
    for layers in ([], [layer, layer], [layer | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}]):
        with pytest.raises(ArtifactRefused, match="not one layer of the type application/wasm"):
            checked(manifest | {"layers": layers}, {})


# On the node


def desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A reader's desk, which stands in the work folder."""
    (folder / "out").mkdir()
    monkeypatch.chdir(folder)
    return Desk((), Catalog(rows=()), lambda path: None, None)


def test_a_reader_answers_what_a_component_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = desk(tmp_path, monkeypatch)
    (tmp_path / "out/app.wasm").write_bytes(component())
    assert reader.component("out/app.wasm") == Component(imports=(TYPES,), exports=(HANDLER,))


@pytest.mark.parametrize(
    ("left", "reason", "why"),
    [
        (b"\x7fELF" + bytes(60), "StartFailed", "the build left an executable of a machine at /work/out/app.wasm"),
        (component(to=()), "StartFailed", "exports nothing"),
        (None, "StepFailed", "left no component"),
    ],
)
def test_a_reader_refuses_what_cannot_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes | None, reason: str, why: str
) -> None:
    reader = desk(tmp_path, monkeypatch)
    if left is not None:
        (tmp_path / "out/app.wasm").write_bytes(left)
    with pytest.raises(BuildError, match=why) as refused:
        reader.component("out/app.wasm")
    assert refused.value.reason == reason and refused.value.next


def test_a_reader_follows_no_link_to_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = desk(tmp_path, monkeypatch)
    (tmp_path / "real.wasm").write_bytes(component())
    (tmp_path / "out/app.wasm").symlink_to("../real.wasm")
    (tmp_path / "out/folder").mkdir()
    for path in ("out/app.wasm", "out/folder"):
        with pytest.raises(BuildError) as refused:
            reader.component(path)
        assert refused.value.reason == "StepFailed"


def test_a_machine_without_wasmtime_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as refused:
        host_of(tmp_path, uid=1, gid=1, which=lambda name: None)
    assert refused.value.reason == "ToolchainUnavailable"
    assert refused.value.next == "ignite-builder runtimes fetch wasmtime"


def test_the_machines_own_wasmtime_goes_before_a_fetched_one(tmp_path: Path) -> None:
    own, fetched = tmp_path / "own/wasmtime", wasmtime.WHEEL.place(tmp_path / "node/toolchains")
    for program in (own, fetched):
        program.parent.mkdir(parents=True)
        program.write_bytes(b"")
    node = tmp_path / "node"
    assert wasmtime.program_here(node, lambda name: None) == fetched
    assert wasmtime.program_here(node, lambda name: str(own)) == own
    assert wasmtime.unit_of(fetched, node) == f"toolchains/{fetched.parent.name}"
    assert wasmtime.unit_of(own, node) == ""


def test_a_toolchain_for_components_brings_it_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "builder.toolchains.fetch.fetch", lambda settings, row, **_: Fetched(row=row, images=(), where="image")
    )
    monkeypatch.setattr(wasmtime, "find_program", lambda name: "/usr/bin/wasmtime")
    for name, more in (("rust-1.97-wasm", ["wasmtime"]), ("rust-1.97", []), ("go-1.26", [])):
        ran = run("runtimes", "fetch", name, "--json", settings=Settings(node_dir=str(tmp_path)))
        assert [each["toolchain"] for each in json.loads(ran.out)["fetched"]] == [name, *more]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_toolchain_is_reported_although_what_serves_its_components_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    def fail(*_: object) -> str:
        raise PlatformError("PackageIndexUnavailable", "the index does not answer")

    monkeypatch.setattr(
        "builder.toolchains.fetch.fetch", lambda settings, row, **_: Fetched(row=row, images=(), where="image")
    )
    monkeypatch.setattr(wasmtime, "fetch", fail)
    ran = run("runtimes", "fetch", "rust-1.97-wasm", *more, settings=Settings(node_dir=str(tmp_path)))
    assert ran.code == 75 and "the index does not answer" in ran.err
    if more:
        said = json.loads(ran.out)
        assert said["reason"] == "PackageIndexUnavailable"
        assert [each["toolchain"] for each in said["fetched"]] == ["rust-1.97-wasm"]
    else:
        assert [line.split()[:2] for line in ran.out.splitlines()[1:]] == [["rust-1.97-wasm", "image"]]


def test_a_server_lends_a_component_its_variables_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "wasmtime"
    program.write_bytes(b"")
    host = Host(program=program, folder=tmp_path, uid=1, gid=1)
    command, root = host.serving(tmp_path / "code.cwasm", tmp_path, {"B": "2", "A": "x y"})
    assert [word for word in command.argv if word.startswith("--env")] == ["--env=A=x y", "--env=B=2"]
    assert not any(word.startswith(("--dir", "-Sinherit")) for word in command.argv)
    assert command.env == {"HOME": "/tmp"}
    assert not any(mount.writable for mount in root.mounts)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "holes", "nothing"])
def test_machine_code_is_a_file_or_there_is_none(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler reads hostile bytes; what it leaves is looked at as what a build leaves."""
    program, component = tmp_path / "bin/wasmtime", tmp_path / "app.wasm"
    program.parent.mkdir()
    program.write_bytes(b"")
    component.write_bytes(b"")

    def run(command: sandbox.Command, *_: object, **__: object) -> sandbox.Result:
        left = command.work / "component.cwasm"
        if kind == "pipe":
            os.mkfifo(left)
        elif kind == "link":
            left.symlink_to("/etc/passwd")
        elif kind == "folder":
            left.mkdir()
        elif kind == "holes":
            with left.open("wb") as out:
                out.truncate(wasmtime.COMPILE_DISK + 1)
        return sandbox.Result(
            exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
        )

    monkeypatch.setattr(sandbox, "run", run)
    host = Host(program=program, folder=tmp_path / "components", uid=1, gid=1)
    with pytest.raises(PlatformError, match="left no machine code"):
        host.compiled(component)
    assert not list((tmp_path / "components").iterdir())
