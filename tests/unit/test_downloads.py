"""The rule of steps and caches, over the plans of every runtime, and what the node takes out of a private folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import indexes, pipelines, sandbox
from builder.attempt import downloads, running
from builder.attempt.attempt import Attempt
from builder.attempt.planned import Bound
from builder.attempt.steps import StepResult
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.plan import Access, Cache, Network, Plan, Sees, Step, WantedFile
from builder.source.tree import DictTree, DirTree
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import attempt_at
from tests.golden.update import examples, files_of

CATALOG = catalog.read(Path(__file__).resolve().parents[2] / "runtimes/catalog.toml")
WRITE = (Cache(name="x", access=Access.WRITE),)
DATA = b"a wheel"
HEX = hashlib.sha256(DATA).hexdigest()
WHEEL = WantedFile(cache="wheels", source="x.whl", path=f"{HEX}/x.whl", digest=f"sha256:{HEX}", package="pkg:pypi/x@1")
LIMIT = 1 << 20
FOLDERS_OF_Y = [".ignite-proxy", "a.example", "y", "@v"]


def plans() -> dict[str, Plan]:
    """The plan of each example, and of sources that resolve, pin or constrain in other ways."""
    sources = {folder.name: files_of(folder) for folder in examples() if (folder / "plan.json").exists()}
    sources |= {
        "go without go.sum": {"go.mod": "module x\n\ngo 1.24\n", "main.go": 'package main\nimport _ "a.example/y"\n'},
        "deno without deno.lock": {"main.ts": 'import "npm:ms@2"', "package.json": '{"dependencies": {"a": "^1"}}'},
        "constraints": {"handler.py": "", "requirements.txt": "-c pins.txt\nidna\n", "pins.txt": "idna<4\n"},
    }
    sources["go with cgo"] = sources["go without go.sum"]
    made = {}
    for name, files in sources.items():
        tree, request = DictTree(files), PlanRequest(build_args={"cgo": "1"} if name.endswith("cgo") else {})
        made[name] = pipelines.plan(pipelines.detect(tree), tree, request, CATALOG)
    return made


@pytest.mark.parametrize(("name", "plan"), plans().items(), ids=plans())
def test_no_code_of_the_source_meets_a_network_or_a_shared_writable_cache(name: str, plan: Plan) -> None:
    for step in plan.steps:
        if step.network is not Network.NONE:
            assert step.sees is Sees.STUBS and not step.runs_source, step
            assert f"{step.cwd}/".startswith("/work/fetch/"), step
            assert not any("/work/src" in text for text in (*step.argv, *(value for _, value in step.env))), step
        if step.runs_source:
            assert all(cache.access in (Access.READ, Access.OVERLAY) for cache in step.caches), step


def test_what_runs_code_of_the_source_may_write_a_cache_only_for_itself() -> None:
    lent = Step(name="x", argv=("x",), caches=(Cache(name="x", access=Access.OVERLAY),))
    assert lent.runs_source
    with pytest.raises(ValueError, match="writes a cache"):
        Step(name="x", argv=("x",), caches=(*lent.caches, *WRITE))
    with pytest.raises(ValueError, match="a result that more than its stubs decides"):
        Step(
            name="x", argv=("x",), sees=Sees.STUBS, runs_source=False, cwd="/work/fetch", caches=lent.caches,
            result="/work/out/x",
        )  # fmt: skip
    (compiled,) = (step for step in plans()["go with cgo"].steps if step.runs_source)
    assert {cache.name for cache in compiled.caches if cache.access is Access.OVERLAY} == {"go-build", "go-mod"}


def test_no_cache_is_both_downloaded_by_some_step_and_written_by_another() -> None:
    mounted = {(cache.name, cache.access) for plan in plans().values() for step in plan.steps for cache in step.caches}
    verified = {name for name, access in mounted if access is Access.DOWNLOAD}
    assert verified == {"wheels", "go-modules", "npm", "crates", "crates-sdk"}
    assert not {name for name, access in mounted if access is Access.WRITE} & verified


def test_what_a_fetch_step_sees_of_a_source_is_what_we_wrote_or_a_lock() -> None:
    for name, plan in plans().items():
        assert {copy.path.rpartition("/")[2] for copy in plan.copies} <= {
            "Cargo.lock",
            "go.mod",
            "go.sum",
            "go.work",
            "go.work.sum",
            "uv.lock",
            "deno.lock",
        }, name
        for stub in plan.stubs:
            assert not any(word in stub.content for word in ("${", "://", "-e ", "-r ")), (name, stub)


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ("has a network", {"network": Network.INDEX}),
        ("has a network", {"network": Network.INDEX, "runs_source": False}),
        ("runs no code", {"sees": Sees.STUBS, "cwd": "/work/fetch"}),
        ("starts elsewhere", {"sees": Sees.STUBS, "runs_source": False}),
        ("has a network", {"network": Network.INDEX, "sees": Sees.APART}),
        ("nobody's to promise", {"sees": Sees.APART, "runs_source": False}),
        ("writes a cache", {"sees": Sees.APART, "caches": WRITE}),
        ("writes a cache", {"caches": WRITE}),
        ("writes a cache", {"caches": (Cache(name="x", access=Access.DOWNLOAD),)}),
    ],
)
def test_a_step_that_breaks_the_rule_cannot_be_made(words: str, step: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=words):
        Step(name="s", argv=("x",), **step)


def test_a_step_of_stubs_never_stands_behind_one_of_the_source() -> None:
    plan = plans()["python-numpy"]
    with pytest.raises(ValueError, match="stands behind"):
        replace(plan, steps=(plan.steps[-1], *plan.steps[:-1]))


def taken(tmp_path: Path, wanted: WantedFile = WHEEL, limit: int = LIMIT) -> Path:
    """What lies in the shared cache after the node has looked at the private folder."""
    (tmp_path / "store").mkdir(exist_ok=True)
    downloads.take(tmp_path / "private", tmp_path / "store", wanted, limit=limit)
    return tmp_path / "store" / wanted.path


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/x.whl").write_bytes(DATA)
    return tmp_path / "private"


def test_a_file_with_the_right_digest_is_kept_and_nobody_else_can_write_it(tmp_path: Path, private: Path) -> None:
    kept = taken(tmp_path)
    assert kept.read_bytes() == DATA and kept.stat().st_mode & 0o777 == 0o444
    (private / "x.whl").write_bytes(b"changed later")
    assert kept.read_bytes() == DATA
    assert kept.stat().st_nlink == 1


def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, private: Path) -> None:
    (private / "x.whl").write_bytes(DATA + b"!")
    with pytest.raises(BuildError, match="arrived with the digest") as caught:
        taken(tmp_path)
    assert caught.value.reason == "PackageIndexUnavailable"
    assert list((tmp_path / "store").iterdir()) == []


def test_a_star_is_the_one_folder_that_is_there(tmp_path: Path, private: Path) -> None:
    starred = replace(WHEEL, source="cache/*/x.whl")
    (private / "cache").mkdir()
    with pytest.raises(BuildError, match="did not arrive"):
        taken(tmp_path, starred)
    (private / "cache/index-0123").mkdir()
    (private / "cache/index-0123/x.whl").write_bytes(DATA)
    assert taken(tmp_path, starred).read_bytes() == DATA
    (private / "cache/another").mkdir()
    with pytest.raises(BuildError, match="did not arrive"):
        taken(tmp_path, starred)


def test_a_star_that_is_a_link_leads_nowhere(tmp_path: Path, private: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x.whl").write_bytes(DATA)
    (private / "cache").mkdir()
    (private / "cache/index").symlink_to(tmp_path / "outside")
    with pytest.raises(BuildError, match="did not arrive"):
        taken(tmp_path, replace(WHEEL, source="cache/*/x.whl"))


def link_to_file(private: Path, outside: Path) -> None:
    (private / "x.whl").symlink_to(outside / "x.whl")


def link_to_folder(private: Path, outside: Path) -> None:
    (private / "sub").symlink_to(outside)


def fifo(private: Path, outside: Path) -> None:
    os.mkfifo(private / "x.whl")


def folder(private: Path, outside: Path) -> None:
    (private / "x.whl").mkdir()


def nothing(private: Path, outside: Path) -> None:
    pass


@pytest.mark.parametrize("leave", [link_to_file, link_to_folder, fifo, folder, nothing])
def test_only_a_file_of_its_own_is_taken(tmp_path: Path, private: Path, leave: Callable[[Path, Path], None]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (private / "x.whl").rename(outside / "x.whl")
    leave(private, outside)
    wanted = replace(WHEEL, source="sub/x.whl") if leave is link_to_folder else WHEEL
    with pytest.raises(BuildError, match="did not arrive"):
        taken(tmp_path, wanted)
    assert list((tmp_path / "store").iterdir()) == []
    taken(tmp_path, replace(wanted, optional=True))
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "a//b", ".", "", "a\0b", "a" * 256, "a/./b"])
@pytest.mark.parametrize("end", ["source", "path"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, private: Path, path: str, end: str) -> None:
    change: dict[str, Any] = {end: path}
    with pytest.raises(BuildError, match="names no file"):
        taken(tmp_path, replace(WHEEL, **change))


def test_a_file_above_the_limit_is_given_up_before_it_is_whole(tmp_path: Path, private: Path) -> None:
    os.truncate(private / "x.whl", 1 << 40)
    with pytest.raises(BuildError) as caught:
        taken(tmp_path, limit=4 << 20)
    assert caught.value.reason == "DiskQuotaExceeded" and caught.value.peak <= 5 << 20
    assert list((tmp_path / "store").iterdir()) == []


def module_zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return out.getvalue()


MODULE_FILES = {
    "a.example/y@v1.0.0/go.mod": b"module a.example/y\n",
    "a.example/y@v1.0.0/y.go": b"package y\n",
}
# As `go mod download` has it: sums of files, sorted, in one more sum.
MODULE_H1 = "h1:TTqu7BnGsf6GLk1hzLpn062exiuAbBECDds0KO0f5vQ="
MOD_H1 = "h1:inTQF63fu6xVjcf2UwR50Fj6UPZ1OkEEGNzf9Tck2Lo="


def test_a_module_is_taken_by_its_h1(tmp_path: Path, private: Path) -> None:
    (private / "y.zip").write_bytes(module_zip(MODULE_FILES))
    (private / "y.mod").write_bytes(MODULE_FILES["a.example/y@v1.0.0/go.mod"])
    for source, digest in (("y.zip", MODULE_H1), ("y.mod", MOD_H1)):
        taken(tmp_path, WantedFile(cache="go-modules", source=source, path=source, digest=digest))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["y.mod", "y.zip"]


@pytest.mark.parametrize(
    "data",
    [
        module_zip(MODULE_FILES | {"a.example/y@v1.0.0/more.go": b"package y\n"}),
        module_zip(MODULE_FILES | {"a.example/y@v1.0.0/y.go": b"package z\n"}),
        module_zip(MODULE_FILES)[:-30],
        module_zip(dict.fromkeys(("a", "b"), b"\0" * LIMIT)),
        b"no zip",
    ],
    ids=["one more file", "another file", "cut off", "a bomb", "no zip"],
)
def test_another_zip_is_not_the_module(tmp_path: Path, private: Path, data: bytes) -> None:
    (private / "y.zip").write_bytes(data)
    with pytest.raises(BuildError, match="arrived with the digest"):
        taken(tmp_path, WantedFile(cache="go-modules", source="y.zip", path="y.zip", digest=MODULE_H1))


def test_a_download_is_left_out_when_the_cache_has_all_of_it(tmp_path: Path) -> None:
    plan = plans()["python-numpy"]
    (download,) = [step for step in plan.steps if downloads.cache_of(step)]
    attempt = attempt_at(tmp_path, known=pipelines.PIPELINES)
    fetch, private = attempt.work / "fetch", attempt.work / "download/wheels"
    for made in (fetch, private, attempt.source):
        made.mkdir(parents=True)
    (fetch / "requirements.txt").write_text("idna==3.10\n")
    assert downloads.left_out(attempt, plan, download) is None, "nothing is resolved yet"
    file = "idna-3.10-py3-none-any.whl"
    url = f"https://files.example/{file}"
    package = '[[packages]]\nname = "idna"\nversion = "3.10"\n'
    (fetch / "pylock.toml").write_text(f'{package}wheels = [{{ url = "{url}", hashes = {{ sha256 = "{HEX}" }} }}]\n')
    assert downloads.left_out(attempt, plan, download) is None, "it was read before, and no step ran since"
    assert not (fetch / "install.txt").exists()
    attempt.named = None  # as a step that ran leaves it
    assert downloads.left_out(attempt, plan, download) is None
    (private / HEX).mkdir()
    (private / HEX / file).write_bytes(DATA)
    idna = (("pkg:pypi/idna@3.10", f"sha256:{HEX}"),)
    assert downloads.keep(attempt, plan, download) == idna
    assert not private.exists()
    assert downloads.left_out(attempt, plan, download) == idna
    assert (fetch / "install.txt").read_text() == f"--find-links ${{WHEELS}}/{HEX}\nidna==3.10 --hash=sha256:{HEX}\n"
    assert downloads.keep(attempt, plan, download) == idna


def test_a_step_reaches_another_index_only_while_the_cache_lacks_a_file_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans()["python-numpy"]
    (download,) = [step for step in plan.steps if downloads.cache_of(step)]
    attempt = attempt_at(tmp_path, known=pipelines.PIPELINES)
    fetch, private, other = attempt.work / "fetch", attempt.work / "download/wheels", "b" * 64
    for made in (fetch, private / HEX, attempt.source):
        made.mkdir(parents=True)
    (fetch / "requirements.txt").write_text("top==1\n")
    source = f'sdist = {{ url = "https://files.example/top-1.tar.gz", hashes = {{ sha256 = "{other}" }} }}'
    (fetch / "pylock.toml").write_text(f'[[packages]]\nname = "top"\nversion = "1"\n{source}\n')
    (fetch / "pylock.build-0.toml").write_text("packages = []\n")
    listed: dict[str, object] = {"name": "top", "version": "1", "lock": "pylock.build-0.toml"}
    (fetch / "sdists.json").write_text(json.dumps([listed]))
    assert downloads.other_indexes(attempt, plan, download) == frozenset(), "nothing of it is Rust"
    (fetch / "sdists.json").write_text(json.dumps([listed | {"crates": [["itoa", "1.0.0", HEX]]}]))
    attempt.named = None
    assert downloads.other_indexes(attempt, plan, download) == {"crates"}
    reached: list[tuple[str, ...]] = []

    def execute(attempt: Attempt, toolchain: Provided, step: Step) -> StepResult:
        reached.append(tuple(row.host for row in toolchain.indexes.hosts))
        raise InterruptedError

    monkeypatch.setattr(running, "execute_step", execute)
    toolchain = Provided(base=None, root=sandbox.Root(), digests={}, indexes=indexes.shipped()["python"])
    bound = Bound(plan=plan, toolchain=toolchain, materials=())
    for step in plan.steps:
        if step.network is not Network.NONE:
            with pytest.raises(InterruptedError):
                running.run_step(attempt, bound, step, ())
    assert reached == [("pypi.org",), ("pypi.org", "index.crates.io", "static.crates.io")]
    assert not any(downloads.other_indexes(attempt, plan, step) for step in plan.steps if step != download)
    (private / HEX / "itoa-1.0.0.crate").write_bytes(DATA)
    found = pipelines.fetched(plan, DirTree(fetch))
    assert found is not None
    (crate,) = (one for one in found.wanted if one.index)
    downloads.take(private, downloads.shared(attempt, "wheels"), crate, limit=LIMIT)
    assert downloads.other_indexes(attempt, plan, download) == frozenset()


def test_the_build_user_enters_what_the_node_makes_for_it_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans()["go-deps"]
    (download,) = [step for step in plan.steps if downloads.cache_of(step)]
    attempt = attempt_at(tmp_path, known=pipelines.PIPELINES)
    for made in (attempt.work / "fetch", attempt.source):
        made.mkdir(parents=True)
    for folder in ("fetch", "src"):
        (attempt.work / folder / "go.sum").write_text(f"a.example/y v1.0.0 {MODULE_H1}\n")
    chowned: list[str] = []
    monkeypatch.setattr(type(attempt), "chown_to_build_user", lambda self, name, folder: chowned.append(name))
    before = os.umask(0o077)
    try:
        downloads.left_out(attempt, plan, download)
    finally:
        os.umask(before)
    assert [name for name in chowned if name in FOLDERS_OF_Y] == FOLDERS_OF_Y
