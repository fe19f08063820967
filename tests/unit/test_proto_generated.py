"""What is committed is what the protos give; imports resolve below `builder.contract`; the page's table is current."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from builder.contract import generate
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.contract.routes import NOT_YET, SOURCE_PATH, UPLOAD_PATH
from builder.contract.table import route_table


def test_generated_code_is_current() -> None:
    made = generate.generated(stubs=False)  # the stubs need a process; `generate --check` covers them
    assert len(made) == 3
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} is stale: make generate"


def test_each_proto_has_its_stub() -> None:
    for path in (generate.ROOT / "dodil").rglob("*.proto"):
        assert path.with_name(path.stem + "_pb2.pyi").is_file()


def test_the_page_is_current() -> None:
    page = generate.API_PAGE.read_text()
    assert generate.BEGIN + "\n" + route_table() + generate.END in page
    for name in NOT_YET:
        assert f"| {name} |" in page
    assert UPLOAD_PATH in page and SOURCE_PATH in page


def test_imports_and_module_names_resolve() -> None:
    code = "from dodil.ignite.v1 import x_pb2 as y\nf(DESCRIPTOR, 'dodil.ignite.v1.x_pb2', _globals)\n"
    assert generate.resolvable(code) == (
        "from builder.contract.dodil.ignite.v1 import x_pb2 as y\n"
        "f(DESCRIPTOR, 'builder.contract.dodil.ignite.v1.x_pb2', _globals)\n"
    )
    assert pb.CreateBuildRequest().code.DESCRIPTOR is common.CodeSource.DESCRIPTOR
    build = pb.Build(build_id="b", status=pb.BUILD_STATUS_RUNNING)
    assert pickle.loads(pickle.dumps(build)) == build


def test_check_names_what_is_stale_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = generate.ROOT / "dodil" / "ignite" / "v1" / "ignite_common_pb2.py"
    before = path.read_text()
    monkeypatch.setattr(generate, "generated", lambda: {path: before + "# other\n"})
    assert generate.main(["--check"]) == 1
    assert "stale: builder/contract/dodil/ignite/v1/ignite_common_pb2.py" in capsys.readouterr().out
    assert path.read_text() == before


def test_a_stale_page_is_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "api.md"
    page.parent.mkdir()
    page.write_text(f"before\n{generate.BEGIN}\nold\n{generate.END}\nafter\n")
    monkeypatch.setattr(generate, "generated", dict)
    monkeypatch.setattr(generate, "API_PAGE", page)
    monkeypatch.setattr(generate, "CHECKOUT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert generate.main([]) == 0
    assert page.read_text() == f"before\n{generate.BEGIN}\n{route_table()}{generate.END}\nafter\n"
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().out == "stale: docs/api.md\nwritten: docs/api.md\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks"):
        generate.main([])
