"""Toolchains out of images: what is found, where plans find it, what is refused. Needs no package."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder import config
from builder.attempt.planned import bind
from builder.attempt.uses import unused
from builder.bases.debian import DebianPackage
from builder.bases.make import _check_versions, made_from, make_image
from builder.bases.recipe import TOOLCHAIN_FILE, ImageRecipe, read_recipes
from builder.data import catalog_file, runtimes_dir
from builder.errors import BuildError
from builder.images import public
from builder.images.image import CONFIG_TYPE, Image, ImageConfig, build_image, canonical, descriptor
from builder.images.layer import write_layer
from builder.images.layout import Layout
from builder.images.public import DOCKER_API, fetch_public, parse
from builder.images.store import ImageStore, images_of, toolchain_images_of
from builder.pipelines import catalog as catalogs
from builder.plan import Plan, Toolchain
from builder.toolchains.fetch import can_fetch
from builder.toolchains.host import MOST_MARKER, HostProvider
from builder.toolchains.image import ImageProvider
from builder.toolchains.provider import LENT, Toolchains
from builder.toolchains.providers import fetching
from tests.attempt_fixtures import attempt_at
from tests.oci_fixtures import make_layer, make_tree

TOOLCHAIN = """\
rootfs = ""
[[program]]
command = "zig"
marker = "VERSION"
version = "zig(\\\\d+)"
mount = "/opt/ignite/toolchain/zig"
path = "bin"
[[folder]]
path = "sdk"
mount = "/opt/ignite/sdk/zig"
"""
DEBIAN = """\
[[image]]
name = "zig-2"
toolchains = ["zig-2", "zig-2-wasm"]
suite = "trixie"
packages = ["zig"]
at = { "/opt/ignite/toolchain/zig" = "usr/lib/zig-*" }
"""
PUBLIC = '[[image]]\nname = "zig-2"\nreference = "example.test/zig:2"\n'
ROW = Toolchain(runtime="zig", version="2", target="", name="zig-2", base="zig")
ENV = (("PATH", "/usr/local/zig/bin:/usr/bin"), ("ZIG_HOME", "/z"), ("HOME", "/root"))


@dataclass
class Node:
    """A machine without zig: its recipes, its node's folder, and an image of zig as somebody made it."""

    root: Path
    recipe: str = DEBIAN

    def __post_init__(self) -> None:
        make_tree(
            self.root / "runtimes/zig",
            {"toolchain.toml": TOOLCHAIN, TOOLCHAIN_FILE: self.recipe, "sdk/main.zig": "fn"},
        )
        layer = make_layer(self.root, "base", {"greeting": "hello"})
        images_of(self.root / "node").put(build_image(None, (layer,), ImageConfig(entrypoint=())), "zig")

    @property
    def provider(self) -> ImageProvider:
        return ImageProvider(
            folders=(self.root / "runtimes",),
            copies=self.root / "node/toolchains",
            images=toolchain_images_of(self.root / "node"),
            bases=images_of(self.root / "node"),
        )

    @property
    def toolchains(self) -> Toolchains:
        images = images_of(self.root / "node")
        host = HostProvider(
            folders=(self.root / "runtimes",), copies=self.root / "copies", images=images, which=lambda name: None
        )
        return Toolchains(providers=(host, self.provider))

    def image(self, files: dict[str, str | bytes]) -> Image:
        tree = make_tree(self.root / "tree", files)
        (tree / "usr/bin").mkdir(parents=True, exist_ok=True)
        layer = write_layer([(tree, "/")], self.root / "zig.tar.gz")
        return build_image(None, (layer,), ImageConfig(entrypoint=(), env=ENV))

    def store(self, files: dict[str, str | bytes]) -> str:
        """Put an image of zig there as `make_image` does; its digest."""
        recipe = self.provider.recipe(ROW)
        assert recipe is not None
        return toolchain_images_of(self.root / "node").put(self.image(files), recipe.name, recipe.digest).digest


DEBIAN_FILES: dict[str, str | bytes] = {"usr/lib/zig-2/bin/zig": "", "usr/lib/zig-2/VERSION": "zig2"}
PUBLIC_FILES: dict[str, str | bytes] = {"usr/local/zig/bin/zig": "", "usr/local/zig/VERSION": "zig2"}


@pytest.mark.parametrize("recipe", [DEBIAN.replace('["zig"]', '["gcc", "zig"]'), DEBIAN])
def test_a_build_with_c_takes_the_image_that_has_a_compiler(tmp_path: Path, recipe: str) -> None:
    """The machine's own toolchain goes before an image, but for a step that names a C compiler."""
    node = Node(tmp_path, recipe)
    digest = node.store(DEBIAN_FILES)
    make_tree(tmp_path, {"own/bin/zig": "", "own/VERSION": "zig2"})
    (host, images) = node.toolchains.providers
    own = replace(cast(HostProvider, host), which=lambda name: str(tmp_path / f"own/bin/{name}"))
    toolchains = Toolchains(providers=(own, images))
    assert "toolchain" not in toolchains.provide(ROW).digests
    with_c = toolchains.provide(ROW, compiles_c=True).digests
    assert with_c.get("toolchain") == (digest if "gcc" in recipe else None)


def test_the_root_of_the_image_is_the_root_and_its_programs_are_where_plans_expect_them(tmp_path: Path) -> None:
    node = Node(tmp_path)
    digest = node.store(DEBIAN_FILES)
    found = node.toolchains.find(ROW)
    assert found.root == digest and found.where == f"image {digest[7:19]}"
    assert found.digests()["toolchain"] == digest and set(found.digests()) == {"base", "toolchain", "sdk sdk"}
    provided = node.toolchains.provide(ROW)
    rootfs = provided.root.rootfs
    assert rootfs is not None and (rootfs / "usr/lib/zig-2/bin/zig").is_file()
    program, sdk = provided.root.mounts
    assert (str(program.source), program.dest) == (f"{rootfs}/usr/lib/zig-2", "/opt/ignite/toolchain/zig")
    assert sdk.dest == "/opt/ignite/sdk/zig" and (sdk.source / "main.zig").read_text() == "fn"
    assert provided.path[0] == "/opt/ignite/toolchain/zig/bin"
    assert provided.env == (("ZIG_HOME", "/z"),), "HOME and PATH are a step's own"
    assert node.toolchains.available((ROW, replace(ROW, name="zig-2-wasm", target="wasm"))).keys() == {
        "zig-2",
        "zig-2-wasm",
    }


def test_what_an_image_lacks_of_this_machine_is_named_and_not_the_machines_own_toolchain(tmp_path: Path) -> None:
    """The image is there, so that to have the toolchain itself is no way out that anybody needs."""
    node = Node(tmp_path)
    own = '[[program]]\ncommand = "linker-of-nobody"\nmount = "/opt/l"\ntarget = "wasm"\ninstall = "Install it."\n'
    (tmp_path / "runtimes/zig/toolchain.toml").write_text(TOOLCHAIN + own)
    node.store(DEBIAN_FILES)
    with pytest.raises(BuildError, match="ToolchainUnavailable") as caught:
        node.toolchains.find(replace(ROW, name="zig-2-wasm", target="wasm"))
    error = caught.value
    assert error.message == "zig-2-wasm: linker-of-nobody is not on the PATH of this node"
    assert (error.where, error.next) == ("linker-of-nobody", "Install it.")


def test_another_image_is_another_key(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.store(DEBIAN_FILES)
    before = node.toolchains.find(ROW).digests()
    node.store({**DEBIAN_FILES, "usr/lib/zig-2/patched": "1"})
    after = node.toolchains.find(ROW).digests()
    assert {name for name in before if before[name] != after[name]} == {"toolchain"}


def test_a_public_image_is_looked_through_by_its_own_path(tmp_path: Path) -> None:
    node = Node(tmp_path, PUBLIC)
    node.store(PUBLIC_FILES)
    (program, *_) = node.toolchains.provide(ROW).root.mounts
    assert program.dest == "/opt/ignite/toolchain/zig" and str(program.source).endswith("/usr/local/zig")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"usr/local/zig/bin/zig": "", "usr/local/zig/VERSION": "zig3"}, "has zig 3, 2 is needed"),
        ({"usr/local/zig/bin/zig": ""}, "has no VERSION above zig"),
        ({"usr/local/zig/VERSION": "zig2"}, "has no zig on its PATH"),
    ],
)
def test_an_image_without_the_toolchain_is_refused(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    node = Node(tmp_path, PUBLIC)
    node.store(files)
    with pytest.raises(BuildError, match=message) as caught:
        node.toolchains.provide(ROW)
    assert caught.value.reason == "ToolchainUnavailable"
    assert caught.value.next == "ignite-builder runtimes fetch zig-2"


def test_a_link_of_an_image_never_leads_to_a_file_of_the_host(tmp_path: Path) -> None:
    node = Node(tmp_path, PUBLIC)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/VERSION").write_text("zig2")
    tree = make_tree(tmp_path / "tree", PUBLIC_FILES)
    (tree / "usr/local/zig/VERSION").unlink()
    (tree / "usr/local/zig/VERSION").symlink_to(tmp_path / "outside/VERSION")
    (tree / "usr/local/zig/src").symlink_to(tmp_path / "outside")
    node.store({})
    with pytest.raises(BuildError, match=r"has no VERSION above zig"):
        node.toolchains.provide(ROW)


def test_links_that_leave_a_distribution_lead_to_the_image(tmp_path: Path) -> None:
    """As Debian separates them: /usr/lib/zig-2/src leads to ../../share/zig-2/src."""
    node = Node(tmp_path)
    tree = make_tree(tmp_path / "tree", {**DEBIAN_FILES, "usr/share/zig-2/src/std.zig": "std"})
    (tree / "usr/lib/zig-2/src").symlink_to("../../share/zig-2/src")
    (tree / "usr/lib/zig-2/host").symlink_to("../../../../../../../../etc")
    node.store({})
    (node.root / "link").symlink_to(node.root / "node")  # a node's folder may be behind a link
    provider = replace(node.provider, images=toolchain_images_of(node.root / "link"))
    mounts = provider.provide(provider.find(ROW)).root.mounts
    (source,) = (mount.source for mount in mounts if mount.dest == "/opt/ignite/share/zig-2/src")
    assert (source / "std.zig").read_text() == "std"
    assert not [mount for mount in mounts if mount.source == Path("/etc")]


def test_a_recipe_that_changed_asks_for_a_new_image(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert not node.provider.has(ROW)
    node.store(DEBIAN_FILES)
    assert node.provider.has(ROW)
    (tmp_path / "runtimes/zig" / TOOLCHAIN_FILE).write_text(DEBIAN.replace('["zig"]', '["zig", "lld"]'))
    assert not node.provider.has(ROW)
    with pytest.raises(BuildError) as caught:
        node.toolchains.find(ROW)
    assert caught.value.message == "zig-2: zig is not on the PATH of this node"
    assert caught.value.next == "ignite-builder runtimes fetch zig-2"


@pytest.mark.parametrize("kind", ["a program", "a folder", "nothing", "a link in a circle"])
def test_what_lies_beside_an_operators_catalog_need_not_be_a_runtime(tmp_path: Path, kind: str) -> None:
    """A catalog in /usr/local/bin has the program `deno` beside it, one in a home the folder `go`."""
    node = Node(tmp_path)
    own = tmp_path / "bin"
    own.mkdir()
    if kind == "a program":
        (own / "zig").write_text("elf")
    elif kind == "a folder":
        (own / "zig").mkdir()
    elif kind == "a link in a circle":
        (own / "zig").symlink_to("zig")
    recipe = replace(node.provider, folders=(own, *node.provider.folders)).recipe(ROW)
    assert recipe is not None and recipe.name == "zig-2"


def test_a_file_that_a_recipe_names_counts_whenever_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr("builder.toolchains.states.time.time_ns", lambda: now() + 10**9)
    node = Node(tmp_path)
    folder = tmp_path / "runtimes/zig"
    names = '[image.bytecode]\nprogram = "usr/bin/zig"\nscript = "warm.py"\nfolders = ["usr/lib"]\n'
    (folder / TOOLCHAIN_FILE).write_text(f"{DEBIAN}{names}")
    digests = []
    for text in ("one", "two"):
        (folder / "warm.py").write_text(text)
        recipe = node.provider.recipe(ROW)
        assert recipe is not None
        digests.append(recipe.digest)
    assert digests[0] != digests[1]


def test_what_a_suite_has_must_be_what_the_recipe_is_for() -> None:
    recipe = ImageRecipe(name="zig-2", suite="sid", packages=("zig",), versions=(("zig", "2."),))
    _check_versions(recipe, (DebianPackage(name="zig", version="2.1-3", path=Path("x")),))
    with pytest.raises(BuildError, match=r"sid has zig 3\.0-1, the recipe is for 2\."):
        _check_versions(recipe, (DebianPackage(name="zig", version="3.0-1", path=Path("x")),))
    with pytest.raises(BuildError, match="sid has zig no more"):
        _check_versions(recipe, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name="x"\nreference="a/b"\npackages=["c"]', "packages is for images of packages, not for a reference"),
        ('name="x"\nsuite="s"\npackages=["p"]\nat=["q"]', "at has the wrong shape"),
        ('name="x"\nsuite="s"\npackages=["p"]\ntoolchain=["q"]', 'no key of a recipe; is "toolchains" meant?'),
    ],
)
def test_a_wrong_recipe_of_an_image_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / TOOLCHAIN_FILE).write_text(f"[[image]]\n{text}\n")
    with pytest.raises(BuildError) as caught:
        read_recipes(tmp_path, TOOLCHAIN_FILE)
    assert message in caught.value.message and caught.value.where.endswith("image 1")


def test_every_shipped_image_serves_a_row_of_the_catalog() -> None:
    names = {row.name for row in catalogs.read(catalog_file("")).toolchains()}
    served = [
        name
        for folder in runtimes_dir().iterdir()
        if (folder / TOOLCHAIN_FILE).is_file()
        for recipe in read_recipes(folder, TOOLCHAIN_FILE).values()
        for name in recipe.toolchains or (recipe.name,)
    ]
    assert set(served) <= names and len(served) == len(set(served))


def test_a_build_fetches_only_where_the_setting_says_so(tmp_path: Path) -> None:
    settings = config.load({"node_dir": str(tmp_path)}).settings
    assert fetching(settings) is None
    assert fetching(settings.replace(**{"fetch_toolchains": True})) is not None
    rows = {row.name: row for row in catalogs.read(catalog_file("")).toolchains()}
    assert can_fetch(settings, rows["go-1.24"])
    assert not can_fetch(settings, replace(rows["go-1.24"], base="of-nobody")), "there is no recipe of its base"
    assert list(tmp_path.iterdir()) == []


# -- public images ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("golang", "docker.io/library/golang:latest"),
        ("rust:1.82-bookworm", "docker.io/library/rust:1.82-bookworm"),
        ("denoland/deno:2.0.0", "docker.io/denoland/deno:2.0.0"),
        ("ghcr.io/astral-sh/uv:0.9", "ghcr.io/astral-sh/uv:0.9"),
        ("localhost:5000/a/b@sha256:" + "0" * 64, "localhost:5000/a/b@sha256:" + "0" * 64),
        ("localhost/x:1@sha256:" + "a" * 64, "localhost/x:1@sha256:" + "a" * 64),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize("text", ["", "UPPER", "a b", "x:", "x@sha256:12", "../x", "x/../y", "h.io/"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    if text == "x:":
        assert parse(text).tag == "latest"
        return
    with pytest.raises(BuildError, match="is no reference of an image"):
        parse(text)


def docker_form(image: Image) -> Image:
    """The same image in Docker's media types, as public registries still serve most."""
    value = json.loads(image.manifest)
    value["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    value["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in value["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    body = canonical(value)
    named = descriptor(value["mediaType"], body)
    return replace(image, manifest=body, digest=named["digest"], media_type=value["mediaType"])


def registry_with(root: Path, image: Image, *, index: bool = True) -> Layout:
    """A registry of one image, behind an index of two platforms as a public one is."""
    layout = Layout(root / "registry")
    layout.push(image, "library/zig", None if index else "2")
    if index:
        entry = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
        arm = {**entry, "digest": "sha256:" + "1" * 64, "platform": {"os": "linux", "architecture": "arm64"}}
        amd = {**entry, "platform": {"os": "linux", "architecture": "amd64"}}
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        body = canonical({"schemaVersion": 2, "mediaType": kind, "manifests": [arm, amd]})
        named = descriptor(kind, body)
        layout.push(replace(image, manifest=body, digest=named["digest"], media_type=kind), "library/zig", "2")
    return layout


@pytest.mark.parametrize("index", [True, False], ids=["an index", "one manifest"])
def test_a_public_image_is_fetched_verified_and_pinned(tmp_path: Path, index: bool) -> None:
    node = Node(tmp_path, PUBLIC.replace("example.test/zig:2", "zig:2"))
    image = docker_form(node.image(PUBLIC_FILES))
    layout = registry_with(tmp_path, image, index=index)
    hosts: list[str] = []
    lines: list[str] = []

    def connect(host: str) -> Layout:
        hosts.append(host)
        return layout

    recipe = node.provider.recipe(ROW)
    assert recipe is not None
    images = toolchain_images_of(tmp_path / "node")

    def made(refresh: bool = False) -> str:
        return make_image(
            images,
            recipe,
            refresh=refresh,
            fetch=lambda text, work, progress: fetch_public(text, work, progress, connect),
            progress=lines.append,
        ).digest

    assert made() == image.digest and set(hosts) == {DOCKER_API}
    assert lines[-1] == f"docker.io/library/zig:2 is {image.digest}"
    assert node.toolchains.find(ROW).root == image.digest
    rootfs = node.toolchains.provide(ROW).root.rootfs
    assert rootfs is not None and (rootfs / "usr/local/zig/VERSION").read_text() == "zig2"
    moved = docker_form(node.image({**PUBLIC_FILES, "usr/local/zig/patch": "1"}))
    registry_with(tmp_path, moved, index=index)
    hosts.clear()
    assert made() == image.digest and hosts == [], "what the tag points at now is nobody's business"
    assert made(refresh=True) == moved.digest
    stored = made_from(images, recipe)
    assert stored is not None and stored.digest == moved.digest
    assert all(layer.media_type.startswith("application/vnd.oci.") for layer in stored.layers)


def test_a_recipe_puts_links_over_a_public_image(tmp_path: Path) -> None:
    """Plans start an interpreter where Debian has it; a public image may have it elsewhere."""
    node = Node(
        tmp_path, PUBLIC.replace("example.test/zig:2", "zig:2") + 'links = { "usr/bin/zig" = "/usr/local/x" }\n'
    )
    layout = registry_with(tmp_path, docker_form(node.image(PUBLIC_FILES)))
    recipe, images = node.provider.recipe(ROW), toolchain_images_of(tmp_path / "node")
    assert recipe is not None

    def fetch(text: str, work: Path, progress: Callable[[str], None]) -> Image:
        return fetch_public(text, work, progress, lambda host: layout)

    digests = [make_image(images, recipe, refresh=True, fetch=fetch).digest for _ in range(2)]
    assert digests[0] == digests[1], "the same image and recipe give the same digest"
    rootfs = images.rootfs(digests[0])
    assert os.readlink(rootfs / "usr/bin/zig") == "/usr/local/x" and (rootfs / "usr/local/zig/VERSION").is_file()
    assert dict(node.provider.provide(node.provider.find(ROW)).env)["ZIG_HOME"] == "/z"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [{"mediaType": "x/zstd", "digest": "sha256:" + "0" * 64, "size": 1}]}, "has a x/zstd"),
        ({"layers": [{"mediaType": "x", "digest": "../../etc/passwd", "size": 1}]}, "no sha256 digest"),
        ({"layers": 7}, "lacks a part"),
        ({"config": {}}, "lacks a part"),
        ({"layers": []}, "does not fit its layers"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    image = Node(tmp_path).image(PUBLIC_FILES)
    body = canonical(json.loads(image.manifest) | change)
    hostile = replace(image, manifest=body, digest=descriptor("x", body)["digest"])
    layout = registry_with(tmp_path, hostile, index=False)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(BuildError, match=message) as caught:
        fetch_public("zig:2", work, lambda line: None, lambda host: layout)
    assert caught.value.reason == "ToolchainUnavailable"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"os": "linux", "architecture": "arm64"}, "is for linux/arm64, not for linux/amd64"),
        ({"config": {"Env": [7]}}, "no text"),
        ({"config": {"Env": "PATH=/"}}, "no text"),
        ({"config": [7]}, "no text"),
        ({"history": [7]}, "does not fit its layers"),
        ({"padding": "x" * (8 << 20)}, "config of more than"),
    ],
)
def test_a_config_that_the_store_could_not_read_is_refused(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    """One manifest without an index names its platform nowhere else."""
    image = Node(tmp_path).image(PUBLIC_FILES)
    made = canonical({**json.loads(image.config), **config})
    manifest = json.loads(image.manifest)
    manifest["config"] = descriptor(manifest["config"]["mediaType"], made)
    body = canonical(manifest)
    hostile = replace(image, manifest=body, config=made, digest=descriptor("x", body)["digest"])
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(BuildError, match=message) as caught:
        fetch_public("zig:2", work, lambda line: None, lambda host: registry_with(tmp_path, hostile, index=False))
    assert caught.value.reason == "ToolchainUnavailable"


@pytest.mark.parametrize("manifests", [None, 7, [7], [{"platform": None}]], ids=str)
def test_an_index_of_another_shape_is_for_no_platform(tmp_path: Path, manifests: object) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    body = canonical({"manifests": manifests})
    image = replace(Node(tmp_path).image({}), manifest=body, digest=descriptor(kind, body)["digest"], media_type=kind)
    layout = Layout(tmp_path / "registry")
    layout.push(image, "library/zig", "4")
    with pytest.raises(BuildError, match="is for nothing, not for linux/amd64"):
        fetch_public("zig:4", tmp_path, lambda line: None, lambda host: layout)


def test_an_image_that_is_not_there_or_for_another_platform_is_named(tmp_path: Path) -> None:
    layout = registry_with(tmp_path, Node(tmp_path).image(PUBLIC_FILES))
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(BuildError, match=r"docker.io/library/zig:3 is not there"):
        fetch_public("zig:3", work, lambda line: None, lambda host: layout)
    body = canonical({"manifests": [{"platform": {"os": "linux", "architecture": "s390x"}}]})
    kind = "application/vnd.oci.image.index.v1+json"
    image = replace(Node(tmp_path).image({}), manifest=body, digest=descriptor(kind, body)["digest"], media_type=kind)
    layout.push(image, "library/zig", "4")
    with pytest.raises(BuildError, match="is for linux/s390x, not for linux/amd64"):
        fetch_public("zig:4", work, lambda line: None, lambda host: layout)


# -- in a build ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("allowed", [True, False], ids=["fetch_toolchains", "as it comes"])
def test_a_toolchain_that_is_lacking_is_fetched_by_the_build_only_where_it_may(tmp_path: Path, allowed: bool) -> None:
    node = Node(tmp_path)
    plan = cast(Plan, SimpleNamespace(toolchain=ROW, compiles_c=False))

    def fetch(row: Toolchain, progress: Callable[[str], None]) -> None:
        progress(f"fetching {row.name}")
        node.store(DEBIAN_FILES)

    work = tmp_path / "attempt"
    work.mkdir()
    attempt = attempt_at(work, toolchains=node.toolchains, fetch=fetch if allowed else None)
    if not allowed:
        with pytest.raises(BuildError) as caught:
            bind(attempt, plan, ())
        assert caught.value.next == "ignite-builder runtimes fetch zig-2"
        return
    bound = bind(attempt, plan, ())
    assert dict(bound.materials)["toolchain"] == bound.toolchain.digests["toolchain"]
    why, line = (each.text for each in attempt.log.spool.batch(10))
    assert line == "fetching zig-2" and why.startswith("zig-2: zig is not on the PATH of this node; it is fetched now")
    attempt.leave()


def program(loader: str) -> bytes:
    """A program of linux/amd64 (elf(5)) that the program `loader` loads."""
    name = loader.encode() + b"\0"
    part = struct.pack("<IIQQQQQQ", 3, 4, 64 + 56, 0, 0, len(name), len(name), 1)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    return head + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 64, 64, 0, 0, 64, 56, 1, 0, 0, 0) + part + name


TIN = 'rootfs = "base"\napart = "-build"\napart_with = ["zig-3", "zig-2"]\n'
TIN_ROW = Toolchain(runtime="tin", version="1", target="", name="tin-1", base="tin")
LENT_FILES: dict[str, str | bytes] = {
    "usr/lib/zig-2/bin/zig": program("/lib64/ld.so.2"),
    "usr/lib/zig-2/bin/fmt": "#!x\n",
    "usr/lib/zig-2/VERSION": "zig2",
    "usr/lib64/ld.so.2": "",
    "usr/lib/x/libz.so": "",
}


class Tin:
    """A node with the runtime tin, whose packages may need zig; zig is of an image alone."""

    def __init__(self, root: Path) -> None:
        self.node = Node(root)
        lent = TOOLCHAIN.replace('path = "bin"\n', 'path = "bin"\nlent = ["bin/zig", "bin/fmt"]\n')
        make_tree(root / "runtimes", {"tin/toolchain.toml": TIN, "zig/toolchain.toml": lent})
        for name, text in (("tin", "runs"), ("tin-build", "compiles")):
            layer = make_layer(root / name, "base", {"greeting": text})
            self.images.put(build_image(None, (layer,), ImageConfig(entrypoint=())), name)

    @property
    def images(self) -> ImageStore:
        return images_of(self.node.root / "node")

    def host(self, which: Callable[[str], str | None] = lambda name: None) -> HostProvider:
        root = self.node.root
        return HostProvider(
            folders=(root / "runtimes",), copies=root / "copies", images=self.images, which=which,
            lender=self.node.provider,
        )  # fmt: skip


def test_an_image_lends_its_programs_to_the_root_of_steps_apart(tmp_path: Path) -> None:
    """By its own loader and libraries, which nothing that they start is told of; the digest is in the key."""
    tin = Tin(tmp_path)
    assert LENT not in tin.host().find(TIN_ROW).digests(), "there is no image of zig"
    make_tree(tmp_path / "tree", LENT_FILES)
    (tmp_path / "tree/lib64").symlink_to("usr/lib64")
    layer = write_layer([(tmp_path / "tree", "/")], tmp_path / "zig.tar.gz")
    recipe = tin.node.provider.recipe(ROW)
    assert recipe is not None
    image = build_image(None, (layer,), ImageConfig(entrypoint=(), env=ENV))
    digest = toolchain_images_of(tmp_path / "node").put(image, recipe.name, recipe.digest).digest
    found = tin.host().find(TIN_ROW)
    assert found.digests()[LENT] == digest
    provided = tin.host().provide(found)
    assert provided.apart is not None and provided.root.mounts == ()
    assert provided.apart.rootfs is not None and (provided.apart.rootfs / "app/greeting").read_text() == "compiles"
    root, programs = provided.apart.mounts
    assert (root.dest, programs.dest) == ("/opt/ignite/lent/zig-2", "/opt/ignite/toolchain/zig")
    assert (programs.source / "bin/zig").read_text() == (
        "#!/bin/sh\nexec /opt/ignite/lent/zig-2/usr/lib64/ld.so.2 --library-path "
        "/opt/ignite/lent/zig-2/usr/lib64:/opt/ignite/lent/zig-2/usr/lib "
        '/opt/ignite/lent/zig-2/usr/lib/zig-2/bin/zig "$@"\n'
    )
    assert (programs.source / "bin/fmt").read_text() == (
        '#!/bin/sh\nexec /opt/ignite/lent/zig-2/usr/lib/zig-2/bin/fmt "$@"\n'
    )
    assert programs.source.stat().st_mode & 0o777 == (programs.source / "bin/zig").stat().st_mode & 0o777 == 0o755
    assert tin.host().provide(found) == provided, "nothing is written twice"
    own = tmp_path / "own"
    make_tree(own, {"bin/zig": "", "VERSION": "zig2"})
    host = tin.host(lambda name: str(own / f"bin/{name}"))
    assert LENT not in host.find(TIN_ROW).digests() and "apart zig" in host.find(TIN_ROW).digests()


def test_a_build_uses_the_image_that_lends(tmp_path: Path) -> None:
    """The disk budget leaves it, its root and the written programs."""
    tin = Tin(tmp_path)
    digest = tin.node.store(LENT_FILES)
    attempt = attempt_at(tmp_path / "node", toolchains=Toolchains(providers=(tin.host(),)))
    bind(attempt, cast(Plan, SimpleNamespace(toolchain=TIN_ROW, compiles_c=False)), ())
    for unit in (f"images/{digest}", f"roots/{digest.removeprefix('sha256:')}"):
        with unused(tmp_path / "node", unit) as free:
            assert not free, unit


def test_an_image_without_a_lent_program_is_refused_by_name(tmp_path: Path) -> None:
    tin = Tin(tmp_path)
    tin.node.store({name: data for name, data in LENT_FILES.items() if not name.endswith("fmt")})
    with pytest.raises(BuildError, match="zig-2: its toolchain image has no fmt where its recipe says") as caught:
        tin.host().provide(tin.host().find(TIN_ROW))
    assert caught.value.next == "ignite-builder runtimes fetch zig-2"


def test_links_of_an_image_that_lead_nowhere_are_the_images_fault(tmp_path: Path) -> None:
    """What they led to after so many would be looked for on the host."""
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    marker = rootfs / "usr/lib/zig-2/VERSION"
    marker.unlink()
    marker.symlink_to("VERSION")
    with pytest.raises(BuildError, match="lead nowhere at /usr/lib/zig-2/VERSION") as caught:
        node.provider.programs(ROW, rootfs)
    assert caught.value.reason == "ToolchainUnavailable"


def test_a_link_near_the_top_that_leads_nowhere_is_no_mount(tmp_path: Path) -> None:
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    (rootfs / "usr/lib/zig-2/loop").symlink_to("loop")
    (rootfs / "usr/lib/zig-2/share").symlink_to("../../share")
    (rootfs / "usr/share").mkdir()
    assert [mount.dest for mount in node.provider.programs(ROW, rootfs)] == [
        "/opt/ignite/toolchain/zig",
        "/opt/ignite/share",
    ]


def test_a_pattern_is_looked_for_inside_the_image(tmp_path: Path) -> None:
    """A link that begins with `/` leads to a folder of this machine for whoever follows it here."""
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    elsewhere = make_tree(tmp_path / "host", {"zig-8/VERSION": "", "zig-9/VERSION": ""})
    (rootfs / "usr/lib").rename(rootfs / "usr/lib64")
    (rootfs / "usr/lib").symlink_to("/usr/lib64")
    (mount,) = node.provider.programs(ROW, rootfs)
    assert mount.source == rootfs / "usr/lib64/zig-2"
    (rootfs / "usr/lib").unlink()
    (rootfs / "usr/lib").symlink_to(elsewhere)
    with pytest.raises(BuildError, match="0 places of its toolchain image match usr/lib/zig"):
        node.provider.programs(ROW, rootfs)
    (rootfs / "usr/lib").unlink()
    (rootfs / "usr/lib").symlink_to("lib")
    with pytest.raises(BuildError, match="lead nowhere"):
        node.provider.programs(ROW, rootfs)


def test_no_folder_of_this_machine_is_looked_through_for_links(tmp_path: Path) -> None:
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    host = make_tree(tmp_path / "host", {"x": ""})
    (host / "share").symlink_to("../../share")
    (rootfs / "usr/share").mkdir()
    (rootfs / "usr/lib/zig-2/led").symlink_to(host)
    assert [mount.dest for mount in node.provider.programs(ROW, rootfs)] == ["/opt/ignite/toolchain/zig"]
    (rootfs / "usr/lib/zig-2/within").symlink_to("bin")
    (rootfs / "usr/lib/zig-2/bin/share").symlink_to("../../../share")
    dests = [mount.dest for mount in node.provider.programs(ROW, rootfs)]
    assert "/opt/ignite/share" in dests


def test_the_version_is_in_the_first_bytes_of_a_marker(tmp_path: Path) -> None:
    """Whoever made the image made the file, of any size."""
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    marker = rootfs / "usr/lib/zig-2/VERSION"
    with marker.open("wb") as file:
        file.seek(MOST_MARKER)
        file.write(b"zig2")
    with pytest.raises(BuildError, match="of an unknown version"):
        node.provider.programs(ROW, rootfs)


@pytest.mark.parametrize("env", [["=1"], ["A=\0"], [1]])
def test_a_public_image_with_a_variable_that_no_step_can_have_is_refused(env: list[Any]) -> None:
    value = {"os": "linux", "architecture": "amd64", "config": {"Env": env}}
    body = canonical(value)
    source = SimpleNamespace(open_blob=lambda repository, digest: iter([body]))
    with pytest.raises(BuildError, match="or has no name") as caught:
        public._config(parse("example.test/zig:2"), cast(Any, source), {"digest": "", "size": len(body)})
    assert caught.value.reason == "ToolchainUnavailable"


@pytest.mark.parametrize("kind", ["text/\x1b[2J", "x" * 100_000])
def test_a_kind_of_layer_is_shown_in_one_line(kind: str) -> None:
    named = {"digest": "sha256:" + "0" * 64, "size": 1}
    value = {"config": {**named, "mediaType": CONFIG_TYPE}, "layers": [{**named, "mediaType": kind}]}
    with pytest.raises(BuildError, match=r"tar and tar\+gzip can be unpacked") as caught:
        public._described(parse("example.test/zig:2"), value)
    assert caught.value.message.isprintable() and len(caught.value.message) < 400


@pytest.mark.parametrize("place", ["", "proc", "dev", "tmp", "work", "tmp/deep"])
def test_no_link_of_an_image_takes_the_place_of_what_is_ours(tmp_path: Path, place: str) -> None:
    """A folder of the image would be mounted over /proc, /tmp, or all of the root."""
    node = Node(tmp_path)
    rootfs = node.provider.images.rootfs(node.store(DEBIAN_FILES))
    (rootfs / place).mkdir(parents=True, exist_ok=True)
    (rootfs / "usr/lib/zig-2/led").symlink_to(f"../../../../{place}")
    assert [mount.dest for mount in node.provider.programs(ROW, rootfs)] == ["/opt/ignite/toolchain/zig"]
