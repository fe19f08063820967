"""The Python compile step on its own: what it refuses, in which words, and that its bytecode is the same every time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e
BUILD = Path(__file__).resolve().parents[2] / "runtimes" / "python" / "build"
SCRIPT = BUILD / "check_and_compile.py"
NOTHING = "no-list.txt"
"""The installer's list: nothing to install, so that it cleans and compiles what is there."""
HANDLER = "def handler(payload, ctx):\n    return payload\n"


def compile_step(
    work: Path, files: dict[str, str], mode: str = "handler", deps: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the step over these files in a work folder of its own, behind the one that compiles packages."""
    (work / "out").mkdir(parents=True)
    for folder, contents in (("src", files), ("fetch/deps", deps or {})):
        for name, text in contents.items():
            path = work / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    env = {"PATH": os.defpath, "IGNITE_WORK": str(work)}
    if deps:
        installer = (sys.executable, "-I", "-B", str(BUILD / "install.py"))
        folder = str(work / "fetch/deps")
        subprocess.run((*installer, folder, "/app/deps", "uv", "--", NOTHING), env=env, timeout=120, check=True)
    argv = (sys.executable, "-I", "-B", str(SCRIPT), mode)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)


def diagnosis(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON line of a refusal."""
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


def digest(root: Path) -> dict[str, str]:
    """Path → sha256 of every file below."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_source_gives_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    files = {"handler.py": HANDLER} | {
        f"pkg/m{n}.py": f"NAME = 'pkg.m{n}'\nSET = {{'a', 'b', {n}}}\n" for n in range(20)
    }
    deps = {f"dep/d{n}.py": f"class D{n}:\n    names = frozenset(('x', 'y', 'dep'))\n" for n in range(20)}
    found = []
    for name in ("one", "another-much-longer-name"):
        work = tmp_path / name
        assert compile_step(work, files, deps=deps).returncode == 0
        found.append(digest(work / "out") | digest(work / "fetch"))
    assert found[0] == found[1]
    assert sum(name.endswith(".pyc") for name in found[0]) == 41


def test_bytecode_names_the_path_in_the_image_and_is_not_checked_against_times(tmp_path: Path) -> None:
    assert compile_step(tmp_path, {"handler.py": HANDLER}).returncode == 0
    (compiled,) = (tmp_path / "out" / "src" / "__pycache__").iterdir()
    data = compiled.read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01  # PEP 552: hash based, unchecked
    assert b"/app/src/handler.py" in data and str(tmp_path).encode() not in data


def test_a_syntax_error_is_told_with_its_place(tmp_path: Path) -> None:
    found = diagnosis(compile_step(tmp_path, {"handler.py": "def handler(payload, ctx):\n    return (1 +\n"}))
    assert (found["reason"], found["where"]) == ("CompileFailed", "handler.py:2:12")
    assert found["said"][-1] == "SyntaxError: '(' was never closed"


def test_an_error_that_only_compiling_shows_in_another_module(tmp_path: Path) -> None:
    done = compile_step(tmp_path, {"handler.py": "import lib.util\n" + HANDLER, "lib/util.py": "x = 1\nreturn x\n"})
    found = diagnosis(done)
    assert (found["reason"], found["where"]) == ("CompileFailed", "lib/util.py:2:1")
    assert found["said"] == ['File "lib/util.py", line 2', "  return x", "SyntaxError: 'return' outside function"]


BROKEN = "print 'for Python 2'\n"


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"handler.py": "import a\n", "a.py": "import b.c\n", "b/c.py": BROKEN}, "b/c.py"),
        ({"handler.py": "import b.c\n", "b/__init__.py": BROKEN, "b/c.py": ""}, "b/__init__.py"),
        ({"handler.py": "from b import c\n", "b/c.py": BROKEN}, "b/c.py"),
        ({"handler.py": "from b import *\n", "b/__init__.py": BROKEN}, "b/__init__.py"),
        (
            {"handler.py": "import b.c\n", "b/__init__.py": "", "b/c.py": "from . import d\n", "b/d.py": BROKEN},
            "b/d.py",
        ),
        ({"handler.py": "import b.c.d\n", "b/c/d.py": "from ..e import x\n", "b/e.py": BROKEN}, "b/e.py"),
        ({"handler.py": "import b\n", "b/__init__.py": "from .c import x\n", "b/c.py": BROKEN}, "b/c.py"),
        ({"handler.py": "def handler(payload, ctx):\n    import b\n", "b.py": BROKEN}, "b.py"),
        ({"main.py": "with open('x'):\n    import b\n", "b.py": BROKEN}, "b.py"),
        ({"main.py": "import a\n", "a.py": "import b, a\n", "b.py": "import a, main, os\n", "main.pyi": BROKEN}, ""),
    ],
)
def test_every_module_that_the_imports_lead_to_must_be_python(
    tmp_path: Path, files: dict[str, str], where: str
) -> None:
    mode = "handler" if "handler.py" in files else "server"
    done = compile_step(tmp_path, files, mode)
    if where:
        assert diagnosis(done)["where"].split(":")[0] == where
    else:
        assert done.returncode == 0, done.stderr


def test_a_file_that_nobody_imports_is_told_packaged_and_not_compiled(tmp_path: Path) -> None:
    conditional = "import sys\nif sys.version_info[0] == 2:\n    import old\ntry:\n    import older\nfinally: ...\n"
    files = {
        "handler.py": conditional + HANDLER,
        "{{cookie}}/t.py": "{{ x }} = 1 +\n",
        "old.py": BROKEN,
        "older.py": BROKEN,
        "deep.py": "x = " + "(" * 5000,
        "zero.py": "\0",
        "fine.py": "x = 1\n",
    }
    done = compile_step(tmp_path, files)
    assert done.returncode == 0, done.stderr
    told = sorted(line.split()[1] for line in done.stdout.splitlines() if line.startswith("warning: "))
    assert told == ["deep.py", "old.py", "older.py", "zero.py", "{{cookie}}/t.py"]
    out = tmp_path / "out" / "src"
    assert {name for name in files if (out / name).is_file()} == set(files)
    compiled = sorted(path.name.split(".")[0] for path in out.rglob("*.pyc"))
    assert compiled == ["fine", "handler"]


def test_many_such_files_do_not_fill_the_log(tmp_path: Path) -> None:
    done = compile_step(tmp_path, {"handler.py": HANDLER} | {f"{number}.py": BROKEN for number in range(50)})
    assert done.returncode == 0
    assert "warning: and 30 more files" in done.stdout
    assert len(done.stdout.splitlines()) == 22


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def main(): ...\n\ndef run(): ...\n", "handler.py defines main, run, but no handler"),
        ("import os\n", "handler.py defines no handler"),
        ("def outer():\n    def handler(payload, ctx): ...\n", "handler.py defines outer, but no handler"),
        (
            "def handler(event): ...\n",
            "handler is called with (payload, ctx), but is def handler(event)",
        ),
        (
            "def handler(payload, ctx, more): ...\n",
            "handler is called with (payload, ctx), but is def handler(payload, ctx, more)",
        ),
    ],
)
def test_a_missing_handler_is_told_with_what_there_is(tmp_path: Path, text: str, message: str) -> None:
    found = diagnosis(compile_step(tmp_path, {"handler.py": text}))
    assert (found["reason"], found["message"]) == ("EntryPointMissing", message)
    assert "def handler(payload, ctx)" in found["next"]


@pytest.mark.parametrize(
    "text",
    [
        "async def handler(payload, ctx): ...\n",
        "def handler(*arguments): ...\n",
        "def handler(payload, ctx=None, *, log=print): ...\n",
        "from app import handler\n",
        "from app import run as handler\n",
        "from app import *\n",
        "import functools\nhandler = functools.partial(print, 1)\n",
        "try:\n    from app import handler\nexcept ImportError:\n    handler = None\n",
        "if True:\n    def handler(payload, ctx): ...\n",
        "class Handler: ...\n\n(handler, other) = (Handler(), 1)\n",
        "def wrap(f): return f\n\n@wrap\ndef handler(payload): ...\n",
    ],
)
def test_every_way_to_define_a_handler_is_taken(tmp_path: Path, text: str) -> None:
    done = compile_step(tmp_path, {"handler.py": text, "app.py": "def run(payload): ...\n\nhandler = run\n"})
    assert done.returncode == 0, done.stderr


def test_a_server_needs_no_handler(tmp_path: Path) -> None:
    assert compile_step(tmp_path, {"main.py": "print('my own')\n"}, mode="server").returncode == 0


def test_broken_files_of_a_dependency_do_not_matter(tmp_path: Path) -> None:
    deps = {"dep/good.py": "x = 1\n", "dep/template.py": "{{ cookie }} = \n"}
    assert compile_step(tmp_path, {"handler.py": HANDLER}, deps=deps).returncode == 0
    assert [path.name.split(".")[0] for path in (tmp_path / "fetch/deps/dep/__pycache__").iterdir()] == ["good"]


def test_packages_are_read_and_not_written_by_the_check(tmp_path: Path) -> None:
    """They are shown read-only, to the builds of all that have the same lock."""
    deps = {"dep/__init__.py": "x = 1\n", "dep-1.dist-info/RECORD": "dep/__init__.py,,\n"}
    assert compile_step(tmp_path / "one", {"handler.py": "import dep\n" + HANDLER}, deps=deps).returncode == 0
    again = tmp_path / "two"
    (again / "fetch").mkdir(parents=True)
    shutil.copytree(tmp_path / "one/fetch/deps", again / "fetch/deps")
    before = digest(again / "fetch")
    assert compile_step(again, {"handler.py": "import dep\n" + HANDLER}).returncode == 0
    assert digest(again / "fetch") == before


def test_bytecode_that_a_full_disk_takes_none_of_fails_the_step(tmp_path: Path) -> None:
    """What is compiled in part would be stored for later builds."""
    deps = {"dep/good.py": "x = 1\n", "dep/__pycache__/good.txt": ""}
    target = Path(importlib.util.cache_from_source(str(tmp_path / "fetch/deps/dep/good.py")))
    target.parent.mkdir(parents=True)
    target.symlink_to("/dev/full")
    with pytest.raises(subprocess.CalledProcessError):
        compile_step(tmp_path, {"handler.py": HANDLER}, deps=deps)


def test_what_others_compiled_before_does_not_travel(tmp_path: Path) -> None:
    compiled = importlib.util.cache_from_source("handler.py")  # of the Python that runs the step here
    files = {"handler.py": HANDLER, compiled: "old", "data.txt": "kept"}
    assert compile_step(tmp_path, files).returncode == 0
    out = digest(tmp_path / "out" / "src")
    assert "data.txt" in out
    assert out[compiled] != hashlib.sha256(b"old").hexdigest()
