"""Regenerate what follows from the `.proto` files: `python -m builder.contract.generate [--check]`.

Writes `*_pb2.py` and `*_pb2.pyi` beside the protos, the route table of `docs/api.md` between its markers, and nothing
else. `--check` writes nothing, names each file that is stale and exits 1. Needs the development dependencies.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CHECKOUT = ROOT.parents[1]
API_PAGE = CHECKOUT / "docs" / "api.md"
BEGIN, END = "<!-- routes: generated -->", "<!-- routes: end -->"

# protoc names Python modules after the proto's path, which knows nothing of `builder.contract`: the import of a sibling
# and the module name the message classes carry (pickle and help() follow it) are rewritten.
_IMPORT = re.compile(r"^from dodil\.", re.MULTILINE)
_MODULE = re.compile(r"(, ')(dodil\.[\w.]+_pb2', _globals\))")


def generated(stubs: bool = True) -> Mapping[Path, str]:
    """What protoc makes of the protos now: absolute path in the checkout → text. Raises `RuntimeError` if it cannot.

    Without `stubs` it starts no process: protoc itself runs in this one, only its mypy plugin does not.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    protos = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "dodil").rglob("*.proto"))]
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "protoc",
            f"--proto_path={ROOT}",
            *(f"--proto_path={include}" for include in _includes()),
            f"--python_out={folder}",
            *((f"--plugin=protoc-gen-mypy={plugin}", f"--mypy_out=quiet:{folder}") if stubs else ()),
            *protos,
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed; what it says is above")
        made = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {ROOT / path.relative_to(folder): resolvable(path.read_text(encoding="utf-8")) for path in made}


def resolvable(code: str) -> str:
    """Generated code whose siblings are found below `builder.contract`."""
    return _MODULE.sub(r"\1builder.contract.\2", _IMPORT.sub("from builder.contract.dodil.", code))


def _includes() -> tuple[Path, ...]:
    """Folders with google/api and google/protobuf protos, of the installed packages."""
    api = importlib.util.find_spec("google.api.annotations_pb2")
    tools = importlib.util.find_spec("grpc_tools")
    if api is None or api.origin is None or tools is None or tools.origin is None:
        raise RuntimeError("googleapis-common-protos and grpcio-tools are needed: uv sync")
    return Path(api.origin).parents[2], Path(tools.origin).parent / "_proto"


def _with_table(page: str) -> str:
    """The page with a fresh table between its markers. Raises `ValueError` when a marker is missing."""
    from builder.contract.table import route_table  # reads the generated code, so only after that is written

    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{API_PAGE.name} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{route_table()}{END}{after}"


def _apply(wanted: Mapping[Path, str], check: bool) -> list[Path]:
    """The files that differ; written unless `check`."""
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale if not check else ():
        path.write_text(wanted[path], encoding="utf-8")
    return stale


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 1 when `--check` found something stale."""
    parser = argparse.ArgumentParser(prog="python -m builder.contract.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale")
    check = parser.parse_args(arguments).check
    stale = _apply(generated(), check)
    if API_PAGE.is_file() and not (check and stale):
        stale += _apply({API_PAGE: _with_table(API_PAGE.read_text(encoding="utf-8"))}, check)
    for path in stale:
        print(("stale: " if check else "written: ") + str(path.relative_to(CHECKOUT)))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
