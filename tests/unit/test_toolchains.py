"""Finding a toolchain reads what toolchain.toml names and changes nothing; providing it has the effects."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.data import catalog_file, runtimes_dir
from builder.errors import BuildError, PlatformError
from builder.images.image import ImageConfig, build_image
from builder.images.store import ImageStore, images_of
from builder.local.machine import prepare, versions_here, why_unbuildable
from builder.pipelines import catalog as catalogs
from builder.plan import Toolchain
from builder.settings import Settings
from builder.toolchains import digests, packages
from builder.toolchains.copies import links
from builder.toolchains.digests import digest_of
from builder.toolchains.host import HostProvider
from builder.toolchains.provider import Toolchains
from builder.toolchains.providers import toolchains_of
from builder.toolchains.recipe import NpmPackage, read_recipe
from tests.cli_fixtures import run
from tests.oci_fixtures import make_layer, make_tree

RECIPE = """\
rootfs = "base"
[[program]]
command = "zig"
marker = "VERSION"
version = "zig(\\\\d+)"
mount = "/opt/ignite/toolchain/zig"
digest = ["VERSION"]
"""
SDK = '[[folder]]\npath = "sdk"\nmount = "/opt/ignite/sdk/zig"\n'
ROW = Toolchain(runtime="zig", version="1", target="", name="zig-1", base="zig")


def store_base(images: ImageStore, work: Path, name: str, text: str = "hello") -> str:
    """A base image of one file; its digest."""
    layer = make_layer(work / f"base-{text}", "base", {"greeting": text})
    return images.put(build_image(None, (layer,), ImageConfig(entrypoint=())), name).digest


@dataclass
class Node:
    """A machine with one toolchain: `runtimes/zig`, the program `zig/bin/zig`, the node's folder `node`."""

    root: Path

    def __post_init__(self) -> None:
        make_tree(self.root, {"runtimes/zig/toolchain.toml": RECIPE, "zig/bin/zig": "", "zig/VERSION": "zig1"})
        make_tree(self.root, {"runtimes/zig/sdk/main.zig": "fn"})
        self.digest = store_base(self.images, self.root, "zig")

    @property
    def images(self) -> ImageStore:
        return images_of(self.root / "node")

    def provider(self, runtimes: str = "runtimes") -> HostProvider:
        return HostProvider(
            folders=(self.root / runtimes,),
            copies=self.root / "node/toolchains",
            images=self.images,
            which=lambda name: str(self.root / f"{name}/bin/{name}"),
        )

    def recipe(self, text: str) -> None:
        (self.root / "runtimes/zig/toolchain.toml").write_text(text)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with the size and time of what is there."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path.relative_to(folder)): (info.st_size, info.st_mtime_ns) for path, info in found.items()}


@pytest.mark.parametrize(
    ("line", "path"), [('path = "bin"\n', ("/opt/ignite/toolchain/zig/bin",)), ("", ())], ids=["on the PATH", "not"]
)
def test_a_program_may_join_the_path(node: Node, line: str, path: tuple[str, ...]) -> None:
    node.recipe(RECIPE + line + SDK)
    found = node.provider().find(ROW)
    assert found.path == path
    assert [part.dest for part in found.parts] == ["/opt/ignite/toolchain/zig", "/opt/ignite/sdk/zig"]
    assert set(found.digests()) == {"base", "zig", "sdk sdk"}
    assert found.base is not None and found.base.name == "zig"
    assert found.root == found.base.digest == node.digest
    provided = node.provider().provide(found)
    assert [mount.dest for mount in provided.root.mounts] == [part.dest for part in found.parts]
    assert (provided.path, provided.base, provided.digests) == (path, found.base, found.digests())


def test_a_step_is_told_what_the_marker_has(node: Node) -> None:
    (node.root / "zig/VERSION").write_text("zig1\nrelease 1.2.3\n")
    node.recipe(RECIPE + 'env = { ZIG_VERSION = "release (\\\\S+)", ZIG_DATE = "date (\\\\S+)" }\n')
    found = node.provider().find(ROW)
    assert node.provider().provide(found).env == found.env == (("ZIG_VERSION", "1.2.3"),)
    before = found.digests()
    (node.root / "zig/VERSION").write_text("zig1\nrelease 1.2.40\n")
    found = node.provider().find(ROW)
    assert found.env == (("ZIG_VERSION", "1.2.40"),) and found.digests() != before, "the key has it"


def test_the_places_of_a_version_manager_go_before_the_path(node: Node) -> None:
    make_tree(node.root, {"many/0/VERSION": "zig2", "many/1/VERSION": "zig1", "many/2/VERSION": "zig1", "many/3/x": ""})
    node.recipe(RECIPE + f'places = ["{node.root}/none/*", "{node.root}/many/*"]\n')
    (part,) = node.provider().find(ROW).parts
    assert part.source == node.root / "many/1"
    node.recipe(RECIPE + f'places = ["{node.root}/many/[03]"]\n')
    (part,) = node.provider().find(ROW).parts
    assert part.source == node.root / "zig"


def test_a_root_may_be_an_image_of_its_own_beside_the_base(node: Node) -> None:
    node.recipe(RECIPE.replace('"base"', '"zig-build"', 1))
    with pytest.raises(BuildError, match="image zig-build, the root of its steps, is not on this node") as caught:
        node.provider().find(ROW)
    assert caught.value.next == "ignite-builder runtimes fetch zig-1"
    digest = store_base(node.images, node.root, "zig-build", "compilers")
    found = node.provider().find(ROW)
    assert found.base is not None and (found.root, found.base.digest) == (digest, node.digest)
    assert found.digests()["toolchain"] == digest
    rootfs = node.provider().provide(found).root.rootfs
    assert rootfs is not None and (rootfs / "app/greeting").read_text() == "compilers"


def test_another_toolchain_joins_the_root_of_steps_that_see_nothing(node: Node) -> None:
    """The first of those that the recipe names which the machine has, and only beside the image that links."""
    make_tree(node.root, {"runtimes/tin/toolchain.toml": RECIPE.replace("zig", "tin"), "tin/bin/tin": ""})
    make_tree(node.root, {"tin/VERSION": "tin7"})
    node.recipe('apart = "-build"\napart_with = ["tin-9", "tin-7"]\n' + RECIPE)
    assert "apart tin" not in node.provider().find(ROW).digests()
    store_base(node.images, node.root, "zig-build", "compilers")
    found = node.provider().find(ROW)
    assert found.digests()["apart tin"] == digest_of(node.root / "tin", ("VERSION",))
    provided = node.provider().provide(found)
    assert provided.apart is not None
    here, apart = ([mount.dest for mount in root.mounts] for root in (provided.root, provided.apart))
    assert (here, apart) == (["/opt/ignite/toolchain/zig"], [*here, "/opt/ignite/toolchain/tin"])
    (node.root / "tin/VERSION").write_text("tin8")
    assert "apart tin" not in node.provider().find(ROW).digests()


@pytest.mark.skipif(os.geteuid() != 0, reason="no root: a program that only root reaches is not there")
def test_only_the_folders_that_a_step_needs_are_copied(node: Node) -> None:
    node.root.chmod(0o700)
    make_tree(node.root, {"zig/share/doc": "much", "zig/bin/share/inner": ""})
    node.recipe(RECIPE.replace('"VERSION"]', '"bin/zig"]') + 'content = ["bin"]\n')
    provider = node.provider()
    (mount,) = provider.provide(provider.find(ROW)).root.mounts
    assert sorted(path.name for path in mount.source.iterdir()) == ["bin"]
    assert (mount.source / "bin/share/inner").is_file()


def test_go_finds_its_own_tools_on_the_path() -> None:
    assert 'path = "bin"' in (runtimes_dir() / "go/toolchain.toml").read_text()


def test_finding_changes_nothing_and_providing_unpacks_once(node: Node) -> None:
    toolchains, before = Toolchains(providers=(node.provider(),)), listing(node.root)
    assert toolchains.find(ROW).root == node.digest and toolchains.has(ROW)
    assert set(toolchains.available((ROW,))) == {"zig-1"}
    assert listing(node.root) == before
    rootfs = toolchains.provide(ROW).root.rootfs
    assert rootfs is not None and (rootfs / "app/greeting").read_text() == "hello"
    after = listing(node.root)
    assert toolchains.provide(ROW).root.rootfs == rootfs and listing(node.root) == after


def test_an_empty_root_unpacks_nothing(node: Node) -> None:
    node.recipe(RECIPE.replace('"base"', '""', 1))
    before = listing(node.root / "node/bases")
    provided = node.provider().provide(node.provider().find(ROW))
    assert provided.base is not None and provided.root.rootfs is None and provided.base.digest == node.digest
    assert listing(node.root / "node/bases") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="no root: a program that only root reaches is not there")
def test_what_the_build_user_cannot_reach_is_copied_when_it_is_provided(node: Node) -> None:
    node.root.chmod(0o700)
    node.recipe(RECIPE + SDK)
    provider = node.provider()
    found = provider.find(ROW)
    assert not (node.root / "node/toolchains").exists()
    first = [mount.source for mount in provider.provide(found).root.mounts]
    assert {path.parent for path in first} == {node.root / "node/toolchains"}
    assert (first[0] / "bin/zig").is_file() and (first[1] / "main.zig").read_text() == "fn"
    assert [mount.source for mount in provider.provide(found).root.mounts] == first
    changed = node.root / "runtimes/zig/sdk/main.zig"
    changed.write_text("fn changed")
    second = [mount.source for mount in provider.provide(provider.find(ROW)).root.mounts]
    assert second[0] == first[0] and (second[1] / "main.zig").read_text() == "fn changed"
    assert not [path for path in (node.root / "node/toolchains").iterdir() if path.name.startswith(".partial-")]


@pytest.mark.skipif(os.geteuid() != 0, reason="no root: a program that only root reaches is not there")
def test_a_copy_that_is_not_what_was_found_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.root.chmod(0o700)
    copytree = shutil.copytree

    def upgraded_meanwhile(source: Path, dest: Path, *args: Any, **flags: Any) -> None:
        copytree(source, dest, *args, **flags)
        (Path(dest) / "VERSION").write_text("zig1 patch 2")

    found = node.provider().find(ROW)
    monkeypatch.setattr("builder.toolchains.host.shutil.copytree", upgraded_meanwhile)
    with pytest.raises(BuildError, match="changed while it was copied"):
        node.provider().provide(found)
    assert list((node.root / "node/toolchains").iterdir()) == []


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed, a second after all of them were written."""
    now, hashed, names = time.time_ns, digests._hash, list[str]()

    def noted(root: Path, files: tuple[digests.File, ...]) -> str:
        names.extend(name for name, *_ in files)
        return hashed(root, files)

    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**9)
    monkeypatch.setattr(digests, "_hash", noted)
    return names


def replaced(file: Path, text: str) -> None:
    """Another file of the same time comes in the place of `file`, as rsync -t, tar and docker cp leave it."""
    before, fresh = file.stat(), file.with_name("fresh")
    fresh.write_text(text)
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.rename(file)


@pytest.mark.parametrize("names", [("compile", "none"), None], ids=["named", "all"])
def test_a_file_is_hashed_again_only_when_another_has_its_place(
    tmp_path: Path, reads: list[str], names: tuple[str, ...] | None
) -> None:
    compiler = tmp_path / "compile"
    compiler.write_text("one")
    first = digest_of(tmp_path, names)
    assert digest_of(tmp_path, names) == first and reads == ["compile"]
    replaced(compiler, "two")
    assert digest_of(tmp_path, names) != first and reads == ["compile"] * 2
    replaced(compiler, "one")
    assert digest_of(tmp_path, names) == first


def test_a_file_that_changed_a_moment_ago_is_hashed_each_time(tmp_path: Path) -> None:
    """A write in place within the same tick leaves the state as it was."""
    compiler, found = tmp_path / "compile", []
    for text in ("one", "two", "six"):
        compiler.write_text(text)
        os.utime(compiler, ns=(1, 1))
        found.append(digest_of(tmp_path, ("compile",)))
    assert len(set(found)) == 3


def test_what_is_hashed_for_longer_than_a_tick_is_not_known_of_a_file_that_changed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write in that tick leaves the state as it was, also while the file is hashed."""
    compiler, hashed = tmp_path / "compile", digests._hash
    compiler.write_text("one")
    at = compiler.stat().st_ctime_ns

    def slow(root: Path, files: tuple[digests.File, ...]) -> str:
        monkeypatch.setattr(time, "time_ns", lambda: at + 10**9)
        return hashed(root, files)

    monkeypatch.setattr(digests, "_hash", slow)
    monkeypatch.setattr(time, "time_ns", lambda: at + 1)
    digest_of(tmp_path, ("compile",))
    assert (str(tmp_path), ("compile",)) not in digests._known
    digest_of(tmp_path, ("compile",))
    assert (str(tmp_path), ("compile",)) in digests._known


def test_the_digest_of_a_folder_covers_names_and_contents_and_no_bytecode(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a/one": "1", "b": "2"})
    first = digest_of(tmp_path)
    assert first == digest_of(tmp_path, ("a/one", "b")), "the same files by name"
    make_tree(tmp_path, {"a/__pycache__/one.pyc": "code"})
    assert digest_of(tmp_path) == first
    (tmp_path / "a/one").rename(tmp_path / "a/uno")
    renamed = digest_of(tmp_path)
    make_tree(tmp_path, {"c": ""})
    assert len({first, renamed, digest_of(tmp_path)}) == 3


def test_a_recipe_is_parsed_again_only_when_its_file_changes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.toolchains.states.TICK_NS", 0)
    folders = (node.root / "nowhere", node.root / "runtimes")
    first = read_recipe(folders, "zig")
    assert read_recipe(folders, "zig") is first
    node.recipe(RECIPE + SDK)
    assert len(read_recipe(folders, "zig").folders) == 1
    with pytest.raises(BuildError, match="there is no runtimes/other"):
        read_recipe(folders, "other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("= 1", "Invalid"),
        ('[[program]]\ncommand = "zig"\n', "lacks the key 'mount'"),
        (RECIPE.replace("(", "[", 1), "unterminated"),
        ("program = 1\n", "not iterable"),
    ],
)
def test_a_damaged_recipe_is_a_missing_toolchain_that_names_the_file(node: Node, text: str, said: str) -> None:
    node.recipe(text)
    with pytest.raises(BuildError, match="ToolchainUnavailable") as caught:
        node.provider().find(ROW)
    assert said in caught.value.message and caught.value.where.endswith("zig/toolchain.toml")
    assert Toolchains(providers=(node.provider(),)).available((ROW,)) == {}


def test_an_image_is_read_again_only_when_the_index_changes(node: Node) -> None:
    images = node.images
    first = images.get("zig")
    assert images.get("zig") is first
    second = store_base(images, node.root, "zig", "changed")
    now, former = images.get("zig"), images.get("zig", node.digest)
    assert now is not None and now.digest == second != node.digest
    assert former == first, "by digest also after the name has moved on"
    assert images.get("zig", "sha256:" + "0" * 64) is None and images.get("other") is None
    assert (images.rootfs(node.digest) / "app/greeting").read_text() == "hello"
    assert (images.rootfs(second) / "app/greeting").read_text() == "changed"


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "../bases", ""])
def test_a_root_of_no_image_is_refused(node: Node, digest: str) -> None:
    with pytest.raises(BuildError, match="ToolchainUnavailable"):
        node.images.rootfs(digest)


def test_the_first_provider_that_finds_a_row_provides_it(node: Node) -> None:
    empty, own = node.provider("nowhere"), node.provider()
    both = Toolchains(providers=(empty, own))
    base = both.provide(ROW).base
    assert base is not None and base.digest == node.digest and both.has(ROW)
    wrong = Toolchain(runtime="zig", version="2", target="", name="zig-2", base="zig")
    with pytest.raises(BuildError, match="zig on this node is 1, 2 is needed"):
        Toolchains(providers=(own, empty)).find(wrong)
    assert not both.has(wrong) and set(both.available((ROW, wrong))) == {"zig-1"}


def test_a_row_without_its_base_is_there_and_not_found(node: Node) -> None:
    row = Toolchain(runtime="zig", version="1", target="", name="zig-1", base="other")
    toolchains = Toolchains(providers=(node.provider(),))
    assert toolchains.has(row)
    with pytest.raises(BuildError) as caught:
        toolchains.find(row)
    assert caught.value.next == "ignite-builder runtimes fetch zig-1"


def test_runtimes_and_doctor_write_nothing_and_unpack_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.local.doctor.sandbox.check", lambda: ())
    monkeypatch.setattr("builder.local.doctor.sandbox.lacks_overlay", lambda folder: "")
    folder, data = tmp_path / "node", tmp_path / "data"
    images = images_of(folder)
    for row in catalogs.read(catalog_file("")).toolchains():
        if row.base and images.get(row.base) is None:
            store_base(images, tmp_path / row.base, row.base)
    data.mkdir()
    settings = Settings(node_dir=str(folder), data_dir=str(data))
    python = catalogs.read(catalog_file("")).find("python")
    before = listing(tmp_path)
    rows = json.loads(run("runtimes", "--json", settings=settings).out)["runtimes"]
    assert python.name in {row["name"] for row in rows if row["here"]}, "its root would be its base"
    assert python.name in run("doctor", settings=settings).out
    assert why_unbuildable(settings, python) is None
    assert listing(tmp_path) == before
    assert toolchains_of(settings).provide(python).root.rootfs is not None
    assert set(listing(tmp_path)) > set(before), "what they did not unpack"


class Answering:
    """A registry whose answer breaks off, and what a client of it is made with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int = 200, error: Exception | None = None) -> None:
        self.status, self.error = status, error
        self.made: list[dict[str, Any]] = []
        self.asked: list[httpx.Request] = []
        monkeypatch.setattr("builder.tls.new_client", self._client)

    def _client(self, **settings: Any) -> httpx.Client:
        self.made.append({name: value for name, value in settings.items() if name != "timeout"})
        return httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(self.status, content=self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        yield b"half"
        if self.error:
            raise self.error


DENO = Toolchain(runtime="deno", version="2.9", target="native", name="deno-2.9", base="")


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (200, httpx.RemoteProtocolError("peer closed connection"), "PackageIndexUnavailable"),
        (200, ConnectionResetError(), "PackageIndexUnavailable"),
        (200, OSError(errno.ENOSPC, "No space left on device"), "NodeDiskFull"),
        (200, None, "PackageIndexUnavailable"),
        (404, None, "PackageIndexUnavailable"),
    ],
)
def test_a_package_that_does_not_arrive_is_no_fault_of_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, error: Exception | None, reason: str
) -> None:
    Answering(monkeypatch, status, error)
    with pytest.raises(PlatformError) as caught:
        packages.fetch((runtimes_dir(),), tmp_path / "store", DENO, Settings())
    assert caught.value.reason == reason
    assert not list((tmp_path / "store").iterdir()), "nothing half is left"


@pytest.mark.parametrize("near", [False, True])
def test_a_package_comes_by_the_bundle_the_proxy_and_the_registry_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    answering = Answering(monkeypatch, 403)
    (package,) = read_recipe((runtimes_dir(),), "deno").packages
    settings = Settings(
        ca_bundle="/a/bundle",
        upstream_proxy="http://proxy.test:3128",
        no_proxy=(".near.test",),
        index_env={package.setting: f"https://me:word@npm.{'near' if near else 'far'}.test/all/"},
    )
    with pytest.raises(PlatformError) as caught:
        packages.fetch((runtimes_dir(),), tmp_path / "store", DENO, settings)
    assert answering.made == [{"ca_bundle": "/a/bundle", "proxy": "" if near else "http://proxy.test:3128"}]
    assert answering.asked[0].url.path.startswith(f"/all/{package.name}/-/")
    assert "word" not in caught.value.message and package.name in caught.value.message


def npm_package(path: Path, *members: tuple[str, bytes, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "" if kind == tarfile.REGTYPE else content.decode()
            tar.addfile(info, io.BytesIO(content))


def test_of_a_package_only_the_file_is_taken_and_what_is_none_is_its_own_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = NpmPackage(registry="", setting="", name="zig", file="package/zig", mount="/", releases={})
    archive, into = tmp_path / "a.tgz", tmp_path / "zig"

    def refused(words: str) -> None:
        with pytest.raises(BuildError, match=words) as caught:
            packages._extract(archive, wanted, into)
        assert caught.value.reason == "ToolchainUnavailable"

    npm_package(archive, ("package/zig", tarfile.REGTYPE, b"program"), ("package/x", tarfile.REGTYPE, b""))
    packages._extract(archive, wanted, into)
    assert into.read_bytes() == b"program" and into.stat().st_mode & 0o777 == 0o755
    whole = archive.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"no gzip", gzip.compress(b"no tar" * 200)):
        archive.write_bytes(damaged)
        refused("no package of npm")
    npm_package(archive, ("package/zig", tarfile.SYMTYPE, b"zig"))
    refused("no package of npm")
    npm_package(archive, ("package/x", tarfile.REGTYPE, b""))
    refused("has no file package/zig")
    npm_package(archive, ("package/zig", tarfile.REGTYPE, b"program"))
    monkeypatch.setattr(packages, "FILE_LIMIT", 6)
    refused("larger than 6 bytes")


def test_a_package_that_fills_the_disk_is_no_bug(tmp_path: Path) -> None:
    wanted = NpmPackage(registry="", setting="", name="zig", file="package/zig", mount="/", releases={})
    npm_package(tmp_path / "a.tgz", ("package/zig", tarfile.REGTYPE, b"x" * 100_000))
    with pytest.raises(PlatformError) as caught:
        packages._extract(tmp_path / "a.tgz", wanted, Path("/dev/full"))
    assert caught.value.reason == "NodeDiskFull"


def test_a_launcher_on_the_path_is_no_distribution(node: Node) -> None:
    make_tree(node.root, {"many/2/VERSION": "zig2"})
    (node.root / "zig/VERSION").unlink()
    with pytest.raises(BuildError, match="belongs to no distribution: no VERSION above it"):
        node.provider().find(ROW)
    node.recipe(RECIPE + f'places = ["{node.root}/many/*"]\n')
    with pytest.raises(BuildError) as caught:
        node.provider().find(ROW)
    program = node.root / "zig/bin/zig"
    assert caught.value.message == f"zig-1: zig 1 is neither in {node.root}/many/* nor above {program}"


def test_no_image_is_made_for_a_toolchain_whose_program_is_not_here(tmp_path: Path) -> None:
    settings, made = Settings(node_dir=str(tmp_path)), list[str]()
    row = catalogs.read(catalog_file("")).find("go")
    lacking = replace(row, version="1.0", name="go-1.0")
    with pytest.raises(BuildError, match=r"go-1\.0: ") as caught:
        prepare(settings, lacking, lambda: made.append("made"))
    assert caught.value.next == "ignite-builder runtimes fetch go-1.0"
    assert not made and not (tmp_path / "bases/layout/blobs").exists()


def test_a_default_that_is_not_here_gives_way_to_the_newest_of_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        def has(self, row: Toolchain) -> bool:
            return row.name in ("rust-1.82", "rust-1.93", "rust-1.97-wasm", "go-1.26", "python-3.11", "deno-2.7")

    monkeypatch.setattr("builder.local.machine.toolchains_of", lambda settings: Here())
    assert versions_here(Settings()) == {"rust": "1.93"}


def test_links_near_the_top_are_found_without_a_look_at_any_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bin/go", "pkg/include/deep/file", "src/fmt/print.go", "VERSION"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, leads_to in (
        ("api", "../elsewhere"),
        ("loop", "loop"),
        ("lib", "pkg/include"),
        ("src/.hidden", "/etc"),
        ("src/fmt/too-deep", "/etc"),
        ("pkg/include/inner", "file"),
    ):
        (tmp_path / name).symlink_to(leads_to)
    expected = [each for each in sorted((*tmp_path.glob("*"), *tmp_path.glob("*/*"))) if each.is_symlink()]
    names = [each.relative_to(tmp_path).as_posix() for each in expected]
    assert names == ["api", "lib", "lib/inner", "loop", "src/.hidden"]

    def looked(self: Path, *args: object, **named: object) -> os.stat_result:
        raise AssertionError(f"{self} was looked at")

    monkeypatch.setattr(Path, "lstat", looked)
    monkeypatch.setattr(Path, "stat", looked)
    assert links(tmp_path) == expected
