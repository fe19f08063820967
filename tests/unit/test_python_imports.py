"""What a Python entry imports is looked up in the image before it is pushed, and nothing of it runs."""

from __future__ import annotations

import json
import runpy
import struct
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.pipelines import python
from builder.plan import Step

FILE = Path(__file__).resolve().parents[2] / "runtimes/python/build/check_and_compile.py"
SCRIPT: Any = SimpleNamespace(**runpy.run_path(str(FILE), run_name="check_and_compile"))
HANDLER = "def handler(payload, ctx):\n    return 'x'\n"
SO = sysconfig.get_config_var("EXT_SUFFIX")


def places(work: Path) -> dict[str, Path]:
    """Where the folders of the image are in a work folder."""
    return {"/app/src": work / "src", "/app/deps": work / "deps"}


class Check:
    """The check of a work folder; names below `deps/` are what the installer left, all others the source."""

    def __init__(self, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.work, self.capsys = work, capsys

    def lines(self, files: Mapping[str, str], mode: str = "handler") -> list[str]:
        """What it prints as its diagnosis; nothing where it passes."""
        for name, text in files.items():
            path = self.work / "out" / (name if name.startswith("deps/") else f"src/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        entry = "handler.py" if mode == "handler" else "main.py"
        source = self.work / "out/src"
        try:
            if mode == "handler":
                SCRIPT.check_handler(SCRIPT.check_source(source, entry))
            SCRIPT.check_imports(source, self.work / "out/deps", entry)
        except SystemExit:
            return self.capsys.readouterr().err.splitlines()
        return []

    def found(self, files: Mapping[str, str], mode: str = "handler") -> dict[str, Any]:
        diagnosis: dict[str, Any] = json.loads(self.lines(files, mode)[-1])
        return diagnosis


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """With the standard library alone on the path, as in the image."""
    monkeypatch.setattr(
        sys, "path", [sysconfig.get_path("stdlib"), str(Path(sysconfig.get_path("stdlib")) / "lib-dynload")]
    )
    return Check(tmp_path, capsys)


HONEST: Mapping[str, Mapping[str, str]] = {
    "try": {"handler.py": "try:\n    import ujson as json\nexcept ImportError:\n    import json\n"},
    "type checking": {"handler.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mypy_boto3\n"},
    "another platform": {"handler.py": "import sys\nif sys.platform == 'win32':\n    import winreg\n"},
    "suppress": {"handler.py": "from contextlib import suppress\nwith suppress(ImportError):\n    import orjson\n"},
    "in a function": {"handler.py": "def lazily():\n    import pandas\n"},
    "by name": {"handler.py": "import importlib\ndef load(): return importlib.import_module('absent')\n"},
    "only as a program": {"handler.py": "if __name__ == '__main__':\n    import pytest_cov\n"},
    "a loop": {"handler.py": "for name in ():\n    import absent\n"},
    "a namespace": {
        "handler.py": "import acme.one\nfrom acme.two import deep\n", "acme/one.py": "", "acme/two/deep.py": "",
    },
    "a namespace over both": {
        "handler.py": "import acme.own, acme.theirs\nfrom acme import theirs\n",
        "acme/own.py": "",
        "deps/acme/theirs/__init__.py": "",
    },
    "an extension": {"handler.py": "import fast\nfrom fast import loop\n", f"deps/fast{SO}": ""},
    "relative": {
        "handler.py": "import app.web\n", "app/__init__.py": "", "app/db.py": "",
        "app/web.py": "from . import db\nfrom .db import X\n",
    },
    "a name of a package": {"handler.py": "from app import anything\n", "app/__init__.py": "anything = 1\n"},
    "a package of others that is code": {
        "handler.py": "import six.moves.urllib\n", "deps/six/__init__.py": "import absent",
    },
    "below a try": {
        "handler.py": "try:\n    import accelerated\nexcept ImportError:\n    accelerated = None\n",
        "accelerated.py": "import numpy\n",
    },
    "a path of its own": {"handler.py": "import sys\nsys.path.insert(0, '/app/src/vendor')\nimport bundled\n",
                          "vendor/bundled.py": ""},
    "built in, frozen, of the SDK": {"handler.py": "import sys, time, zipimport, os.path, collections.abc, ignite\n"},
    "__getattr__ of a package": {
        "handler.py": "from app import lazy\n", "app/lazy.py": "import absent\n",
        "app/__init__.py": "def __getattr__(name): return 1\n",
    },
    "a class": {"handler.py": "class Names:\n    import json\n"},
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_import_passes(check: Check, name: str) -> None:
    files = dict(HONEST[name])
    files["handler.py"] += HANDLER
    assert check.lines(files) == []


@pytest.mark.parametrize(
    ("files", "where", "words"),
    [
        ({"handler.py": "import requests\n"}, "handler.py:1", "module requests, which handler.py imports"),
        ({"handler.py": "import os, yaml.nodes\n"}, "handler.py:1", "yaml.nodes"),
        ({"handler.py": "\nfrom app import db\n", "app/__init__.py": "", "app/db.py": "import p"}, "app/db.py:1", "p,"),
        ({"handler.py": "import app.absent\n", "app/__init__.py": ""}, "handler.py:1", "app.absent"),
        ({"handler.py": "from app.absent import name\n", "app/__init__.py": ""}, "handler.py:1", "app.absent"),
        ({"handler.py": "from acme import absent\n", "acme/one.py": ""}, "handler.py:1", "acme.absent"),
        ({"handler.py": "from . import helpers\n", "helpers.py": ""}, "handler.py:1", "relative to a package"),
        ({"handler.py": "class Names:\n    import absent\n"}, "handler.py:2", "absent"),
        ({"handler.py": "import fast\n", "deps/fast.cpython-37m-x86_64-linux-gnu.so": ""}, "handler.py:1", "fast"),
    ],
)  # fmt: skip
def test_an_import_that_nothing_provides_is_no_start(
    check: Check, files: dict[str, str], where: str, words: str
) -> None:
    diagnosis = check.found(files | {"handler.py": files["handler.py"] + HANDLER})
    assert (diagnosis["reason"], diagnosis["where"]) == ("StartFailed", where)
    assert words in diagnosis["message"]


@pytest.mark.parametrize("name", ["setup.cfg", "setup.py", "requirements-prod.txt"])
def test_a_manifest_that_is_not_read_is_named(check: Check, name: str) -> None:
    files = {"handler.py": "import requests\n" + HANDLER, name: ""}
    assert f"{name} is not read" in check.found(files)["next"]


def test_a_server_is_looked_up_from_its_own_entry(check: Check) -> None:
    diagnosis = check.found({"main.py": "import flask\n", "handler.py": "import absent\n"}, "server")
    assert diagnosis["where"] == "main.py:1" and "flask" in diagnosis["message"]


def test_nothing_of_the_source_runs(check: Check, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    files = {
        "handler.py": f"import app\nopen({str(mark)!r}, 'w')\n" + HANDLER,
        "app/__init__.py": f"open({str(mark)!r}, 'w')",
    }
    assert check.lines(files) == []
    assert not mark.exists()


@pytest.mark.parametrize(
    "handler", ["def handler(p, c):\n    yield b'a'\n", "async def handler(p, c):\n    x = yield\n"]
)
def test_a_generator_is_no_handler(check: Check, handler: str) -> None:
    diagnosis = check.found({"handler.py": handler})
    assert diagnosis["reason"] == "EntryPointMissing" and "generator" in diagnosis["message"]
    assert diagnosis["where"].startswith("handler.py:2")


def test_a_handler_may_use_generators(check: Check) -> None:
    text = "def handler(p, c):\n    def parts():\n        yield 1\n    return [*parts(), *(x for x in parts())]\n"
    assert check.lines({"handler.py": text}) == []


def test_the_pipeline_reads_what_the_check_found(check: Check) -> None:
    lines = check.lines({"handler.py": "import requests\n" + HANDLER})
    diagnosis = python.diagnose(Step(name="compile", argv=()), 1, lines)
    assert (diagnosis.reason, diagnosis.where) == ("StartFailed", "handler.py:1")
    assert diagnosis.said == ("handler.py:1: import requests",)


def test_a_package_of_the_source_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "deps").mkdir()
    package = tmp_path / "src" / "libs" / "acme"
    package.mkdir(parents=True)
    (package / "acme.py").write_text("")
    (tmp_path / "src" / "handler.py").write_text("import acme\ndef handler(p, c): ...\n")
    SCRIPT.check_imports(tmp_path / "src", tmp_path / "deps", "handler.py", ["libs/acme"])
    with pytest.raises(SystemExit):
        SCRIPT.check_imports(tmp_path / "src", tmp_path / "deps", "handler.py")


def compiled(path: Path, needed: str, runpath: str = "") -> None:
    """A shared object of linux/amd64 (elf(5)) that needs `lib<needed>.so.1` and does nothing."""
    names = b"\0" + f"lib{needed}.so.1".encode() + b"\0" + runpath.encode() + b"\0"
    entries = [(1, 1), (5, 0x1000), *([(29, names.index(b"\0", 1) + 1)] if runpath else []), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    at = 64 + 2 * 56
    load = struct.pack("<IIQQQQQQ", 1, 4, at + len(dynamic), 0x1000, 0, len(names), len(names), 1)
    part = struct.pack("<IIQQQQQQ", 2, 4, at, 0, 0, len(dynamic), len(dynamic), 8)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + load + part + dynamic + names)


def test_a_library_that_the_base_lacks_is_named_with_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deps = tmp_path / "deps"
    compiled(deps / "vision/_core.abi3.so", "absent")
    compiled(deps / "vision/optional.so", "other")
    compiled(deps / "vision/near.so", "near", "$ORIGIN/../vision.libs")
    (deps / "vision.libs").mkdir()
    (deps / "vision.libs/libnear.so.1").write_bytes(b"")
    (deps / "vision/__init__.py").write_text("from ._core import see\n")
    (deps / "vision-1.2.dist-info").mkdir()
    (deps / "vision-1.2.dist-info/RECORD").write_text("vision/_core.abi3.so,,\nvision/optional.so,,\n")
    compiled(deps / "vision.libs/libinner.so.1", "deep")
    compiled(deps / "vision/outer.so", "inner")
    missing = {path.name: names for path, names in SCRIPT.missing_libraries(deps).items()}
    assert missing == {
        "_core.abi3.so": ["libabsent.so.1"], "optional.so": ["libother.so.1"], "libinner.so.1": ["libdeep.so.1"],
        "outer.so": ["libdeep.so.1"],
    }  # fmt: skip
    SCRIPT.check_libraries(deps, {"elsewhere"})
    lines = capsys.readouterr().out
    assert "warning: vision 1.2 needs libabsent.so.1, libother.so.1, not in the image" in lines
    with pytest.raises(SystemExit):
        SCRIPT.check_libraries(deps, {"vision"})
    found = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (found["reason"], found["where"]) == ("StartFailed", "vision/_core.abi3.so")
    assert "vision 1.2 needs the shared library libabsent.so.1" in found["message"]


@pytest.mark.parametrize("size", [0, 10, 63, 64, 200, 4096])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x7f"])
def test_what_is_no_elf_file_needs_nothing(tmp_path: Path, size: int, fill: bytes) -> None:
    """Headers that lie about places and counts are read up to a bound, and end."""
    plain = Path(sys.executable).resolve().read_bytes()[:64] if sys.platform == "linux" else b""
    path = tmp_path / "x.so"
    path.write_bytes((plain + fill * size)[: max(size, 64)])
    SCRIPT.elf_needs(path)
    path.write_bytes(b"\x7fELF\x02\x01" + fill * size)
    assert SCRIPT.elf_needs(path) == ([], [])


@pytest.mark.parametrize(
    ("first", "mode", "words", "hint"),
    [
        ("#!/usr/bin/nowhere/env python3\n", 0o755, "names /usr/bin/nowhere/env in its first line", "python bin/web"),
        ("#!/nowhere/sh\n", 0o755, "names /nowhere/sh in its first line", "There is no shell in the image"),
        ("#!/bin/python3\r\n", 0o755, "ends as on Windows", "line ends of Unix"),
        (f"#!{sys.executable}\n", 0o644, "not marked as executable", "python bin/web"),
        ("import os\n", 0o755, "names no interpreter in its first line", ""),
    ],
)
def test_a_script_that_the_kernel_does_not_start_is_named_at_build_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, mode: int, words: str, hint: str
) -> None:
    script = tmp_path / "src/bin/web"
    script.parent.mkdir(parents=True)
    script.write_bytes(first.encode())
    script.chmod(mode)
    with pytest.raises(SystemExit):
        SCRIPT.check_program("bin/web", places(tmp_path))
    found = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (found["reason"], found["where"]) == ("StartFailed", "bin/web")
    assert words in found["message"] and hint in found["next"]


def test_a_script_that_the_kernel_starts_is_a_program(tmp_path: Path) -> None:
    """The interpreter may be one that the app brings."""
    (tmp_path / "src").mkdir()
    for name, first in (("own", f"#!{sys.executable} -u\n"), ("brought", "#!/app/deps/bin/runner\n")):
        (tmp_path / "src" / name).write_text(first)
        (tmp_path / "src" / name).chmod(0o755)
        SCRIPT.check_program(f"./{name}", places(tmp_path))
        SCRIPT.check_program(f"/app/src/{name}", places(tmp_path))
