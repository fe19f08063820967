"""Recipes and mirrors of base images, as far as no package is needed."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.bases.bytecode import compile_bytecode
from builder.bases.debian import Ran, mirror_lines, missing_for_mmdebstrap
from builder.bases.make import build_base, furnish
from builder.bases.recipe import Bytecode, ImageRecipe, read_recipes
from builder.errors import BuildError
from builder.images.store import ImageStore

SHIPPED = Path(__file__).parent.parent.parent / "runtimes"
DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
# in between
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.test/debian
Suites: bookworm-backports
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/k.gpg] https://vendor.test/apt bookworm main
deb-src http://mirror.test/debian bookworm main
# deb http://mirror.test/debian bookworm main
deb [ arch=amd64 ] http://old.test/debian bookworm main # why
"""


def test_mirrors_are_the_machines_own() -> None:
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert mirror_lines({"debian.sources": DEB822}, "bookworm") == (
        f"deb {signed} http://mirror.test/debian bookworm main",
        f"deb {signed} http://mirror.test/debian bookworm-updates main",
        "deb http://mirror.test/debian-security bookworm-security main",
    )
    assert mirror_lines({"x.list": ONE_LINE}, "bookworm") == ("deb http://old.test/debian bookworm main",)


def test_another_suite_comes_from_the_same_mirrors() -> None:
    assert [line.split()[-3:] for line in mirror_lines({"debian.sources": DEB822}, "trixie")] == [
        ["http://mirror.test/debian", "trixie", "main"],
        ["http://mirror.test/debian", "trixie-updates", "main"],
        ["http://mirror.test/debian-security", "trixie-security", "main"],
    ]


def test_backports_come_with_the_suite_they_are_for() -> None:
    assert [line.split()[-3:-1] for line in mirror_lines({"debian.sources": DEB822}, "trixie-backports")] == [
        ["http://mirror.test/debian", "trixie"],
        ["http://mirror.test/debian", "trixie-backports"],
        ["http://mirror.test/debian", "trixie-updates"],
        ["http://mirror.test/debian-security", "trixie-security"],
    ]


def test_a_machine_without_debian_sources_leaves_it_to_mmdebstrap() -> None:
    assert mirror_lines({}, "bookworm") == ()
    assert mirror_lines({"u.list": "deb http://archive.test/ubuntu noble main"}, "bookworm") == ()


def test_without_mmdebstrap_the_package_is_named(tmp_path: Path) -> None:
    def absent(argv: Sequence[str], out: Path | None) -> Ran:
        raise FileNotFoundError(argv[0])

    store = ImageStore(tmp_path / "bases")
    with pytest.raises(BuildError) as caught:
        build_base(store, "go", SHIPPED / "go", apt=tmp_path, run=absent)
    assert caught.value.reason == "ToolchainUnavailable"
    assert "mmdebstrap" in caught.value.message and caught.value.next.endswith("apt-get install -y mmdebstrap")
    assert store.get("go") is None and store.names() == ()
    with pytest.raises(BuildError, match="ToolchainUnavailable"):
        store.rootfs("sha256:" + "0" * 64)


def test_what_mmdebstrap_said_is_passed_on(tmp_path: Path) -> None:
    def failing(argv: Sequence[str], out: Path | None) -> Ran:
        if argv[0] == "apt-config":
            return Ran(exit_code=0, out=b"false\n", err="")
        assert argv[0] == "mmdebstrap" and '--aptopt=Acquire::Check-Valid-Until "false"' in argv
        assert "--include=base-files,ca-certificates,tzdata" in argv
        return Ran(exit_code=25, out=b"", err="I: fine\nE: apt-get update failed\n")

    store = ImageStore(tmp_path / "bases")
    left, others = store.root / ".bases-go.build-k7m2" / "debs", store.root / ".bases-go-2.build-k7m2"
    left.mkdir(parents=True)
    others.mkdir()
    with pytest.raises(BuildError) as caught:
        build_base(store, "go", SHIPPED / "go", apt=tmp_path, run=failing)
    assert caught.value.reason == "PackageIndexUnavailable" and "apt-get update failed" in caught.value.message
    assert [path for path in store.root.iterdir() if ".build-" in path.name] == [others], "killed, or still at work"


def test_a_disk_that_is_full_is_no_trouble_of_the_package_index(tmp_path: Path) -> None:
    def full(argv: Sequence[str], out: Path | None) -> Ran:
        return Ran(exit_code=25, out=b"", err="E: dpkg: error: failed to write: No space left on device\n")

    def ours(argv: Sequence[str], out: Path | None) -> Ran:
        raise OSError(errno.ENOSPC, "No space left on device", "/node/bases/x")

    for run in (full, ours):
        with pytest.raises(BuildError) as caught:
            build_base(ImageStore(tmp_path / "bases"), "go", SHIPPED / "go", apt=tmp_path, run=run)
        assert (caught.value.reason, caught.value.error_class) == ("NodeDiskFull", "platform")


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int, *programs: str) -> None:
    monkeypatch.setattr("builder.bases.debian.os.geteuid", lambda: uid)
    monkeypatch.setattr("builder.bases.debian.shutil.which", lambda name: name if name in programs else None)


def test_a_user_without_uidmap_is_not_told_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(argv: Sequence[str], out: Path | None) -> Ran:
        return Ran(exit_code=25, out=b"", err="E: unable to pick chroot mode automatically\n")

    as_user(monkeypatch, 1000)
    with pytest.raises(BuildError) as caught:
        build_base(ImageStore(tmp_path / "bases"), "go", SHIPPED / "go", apt=tmp_path, run=refusing)
    assert caught.value.reason == "ToolchainUnavailable" and "newuidmap" in caught.value.message
    assert caught.value.next.endswith("apt-get install -y uidmap")


def test_what_mmdebstrap_needs_depends_on_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (tmp_path / "subuid", tmp_path / "subgid")
    as_user(monkeypatch, 0)
    assert missing_for_mmdebstrap(files) is None
    as_user(monkeypatch, 54321, "fakechroot")
    assert missing_for_mmdebstrap(files) is None
    as_user(monkeypatch, 54321, "newuidmap")
    files[0].write_text("54321:100000:65536\n")
    lack = missing_for_mmdebstrap(files)
    assert lack is not None and f"no row in {files[1]}" in lack.what and lack.mend.endswith("54321")
    files[1].write_text("somebody:100000:65536\n")
    assert missing_for_mmdebstrap(files) == lack
    files[1].write_text("54321:100000:65536\n")
    assert missing_for_mmdebstrap(files) is None


@pytest.mark.parametrize(("runtime", "name"), [("go", "go"), ("python", "python-3.11")])
def test_shipped_recipes_are_read(runtime: str, name: str) -> None:
    recipe = read_recipes(SHIPPED / runtime)[name]
    assert "nonroot:x:65532:65532" in dict(recipe.files)["etc/passwd"]
    assert dict(recipe.folders)["tmp"] == 0o1777


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[base]]\nname='x'\nsuite='s'\npackage=['a']", '"packages" meant'),
        ("[[base]]\nname='x'\nsuite='s'\npackages='a'", "wrong shape"),
        ("[[base]]\nname='x'\nsuite='s'", "packages is missing"),
        ("[[base]]\nname='../x'\nsuite='s'\npackages=['a']", "cannot name"),
        ("[[base]]\nname='x'\nsuite='s'\npackages=['a']\n[base.folders]\ntmp='9'", "octal"),
        ("[[base]]\nname='x'\nsuite='s'\npackages=['a']\nbytecode={program='p'}", "bytecode has program, script"),
        (
            "[[base]]\nname='x'\nsuite='s'\npackages=['a']\nbytecode={program='p',script='absent.py',folders=['f']}",
            "absent.py: No such file",
        ),
        ("[base]\nname='x'", "[[base]]"),
        ("= 1", "no TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "base.toml").write_text(text)
    with pytest.raises(BuildError) as caught:
        read_recipes(tmp_path)
    assert said in caught.value.message and "base.toml" in caught.value.where


def test_a_recipe_is_installed_furnished_and_stripped(tmp_path: Path) -> None:
    recipe = ImageRecipe(
        name="x",
        suite="s",
        packages=("a",),
        strip=("usr/share/doc", "*/__pycache__", "empty"),
        keep=("usr/share/doc/*/copyright",),
        ca_bundle="etc/ssl/all.crt",
        files=(("etc/passwd", "root"),),
        links=(("usr/bin/python3", "python3.11"),),
    )
    for name, text in {
        "usr/share/ca-certificates/mozilla/b.crt": "B",
        "usr/share/ca-certificates/mozilla/a.crt": "A\n",
        "usr/share/doc/a/copyright": "free",
        "usr/share/doc/a/changelog": "long",
        "usr/lib/p/__pycache__/x.pyc": "pyc",
        "empty/x": "",
        "usr/bin/python3.11": "elf",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    furnish(tmp_path, recipe)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()} == {
        "etc/passwd",
        "etc/ssl/all.crt",
        "usr/bin/python3",
        "usr/bin/python3.11",
        "usr/share/ca-certificates/mozilla/a.crt",
        "usr/share/ca-certificates/mozilla/b.crt",
        "usr/share/doc/a/copyright",
    }
    assert (tmp_path / "etc/ssl/all.crt").read_text() == "A\nB\n"
    assert not (tmp_path / "usr/lib/p/__pycache__").exists() and not (tmp_path / "empty").exists()


def test_the_recipe_is_in_its_digest() -> None:
    one = ImageRecipe(name="x", suite="s", packages=("a",))
    assert one.digest == ImageRecipe(name="x", suite="s", packages=("a",)).digest
    assert one.digest != ImageRecipe(name="x", suite="s", packages=("a",), strip=("b",)).digest


def test_the_script_is_in_the_digest_and_an_unused_key_is_not(tmp_path: Path) -> None:
    text = "[[base]]\nname='x'\nsuite='s'\npackages=['a']\n"
    (tmp_path / "script.py").write_text("one")
    (tmp_path / "base.toml").write_text(text)
    without = read_recipes(tmp_path)["x"]
    assert without.bytecode is None
    (tmp_path / "base.toml").write_text(text + "bytecode={program='bin/p',script='script.py',folders=['lib']}\n")
    first = read_recipes(tmp_path)["x"]
    assert first.bytecode == Bytecode(program="bin/p", script="one", folders=("lib",))
    (tmp_path / "script.py").write_text("two")
    assert len({without.digest, first.digest, read_recipes(tmp_path)["x"].digest}) == 3


def test_the_interpreter_of_the_base_sees_it_read_only_and_nothing_else(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    (rootfs / "usr/lib").mkdir(parents=True)
    (rootfs / "lib").symlink_to("usr/lib")
    seen: list[list[str]] = []

    def compiling(argv: Sequence[str], out: Path | None) -> Ran:
        seen.append(list(argv))
        (tmp_path / "out/usr/lib/__pycache__").mkdir(parents=True)
        (tmp_path / "out/usr/lib/__pycache__/a.pyc").write_bytes(b"code")
        return Ran(exit_code=0, out=b"", err="")

    bytecode = Bytecode(program="usr/bin/p", script="text", folders=("usr/lib",))
    compile_bytecode(rootfs, bytecode, tmp_path / "out", compiling)
    assert (rootfs / "usr/lib/__pycache__/a.pyc").read_bytes() == b"code" and (rootfs / "lib").is_symlink()
    (argv,) = seen
    options, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    assert command == ["/usr/bin/p", "-s", "-S", "-P", "-B", "-c", "text", "/out", "/usr/lib"]
    assert "--unshare-all" in options and "--clearenv" in options and "--share-net" not in options
    binds = [options[at + 1 : at + 3] for at, word in enumerate(options) if word in ("--bind", "--ro-bind")]
    assert binds == [[str(rootfs / "usr"), "/usr"], [str(tmp_path / "out"), "/out"]]
    assert options[options.index(str(rootfs / "usr")) - 1] == "--ro-bind"


def test_a_base_whose_library_is_not_compiled_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "rootfs/usr").mkdir(parents=True)
    bytecode = Bytecode(program="usr/bin/p", script="text", folders=("usr/lib",))

    def failing(argv: Sequence[str], out: Path | None) -> Ran:
        return Ran(exit_code=1, out=b"", err="no such library")

    def idle(argv: Sequence[str], out: Path | None) -> Ran:
        return Ran(exit_code=0, out=b"", err="")

    with pytest.raises(BuildError, match="Internal") as caught:
        compile_bytecode(tmp_path / "rootfs", bytecode, tmp_path / "one", failing)
    assert "no such library" in caught.value.message
    with pytest.raises(BuildError, match="Internal") as caught:
        compile_bytecode(tmp_path / "rootfs", bytecode, tmp_path / "two", idle)
    assert "compiled nothing" in caught.value.message
