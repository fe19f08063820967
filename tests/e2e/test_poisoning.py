"""A hostile build of an organization, before an honest one that pins by hash: the honest artifact stays the same.

On two nodes. The attacker has every step of the product that runs code of the source, and every cache that one may see.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import IDNA_HANDLER, Server, zip_of
from tests.e2e.conftest import ROOT, Start

pytestmark = pytest.mark.e2e
PIN = "946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
PINNED = {"handler.py": IDNA_HANDLER, "requirements.txt": f"idna==3.10 --hash=sha256:{PIN}\n"}
CACHES = "wheels go-modules uv-index results go-build go-mod"

BACKEND = {
    "pkg/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n',
    "pkg/back.py": "raise SystemExit('CODE OF THE SOURCE RAN')\n",
}
PROJECT = '[project]\nname = "a"\nversion = "1"\ndependencies = ["evil"]\n'
ROADS = {
    "an editable source": {"pyproject.toml": PROJECT + '[tool.uv.sources]\nevil = {path = "pkg", editable = true}\n'},
    "a member of a workspace": {
        "pyproject.toml": PROJECT
        + '[tool.uv.sources]\nevil = {workspace = true}\n[tool.uv.workspace]\nmembers = ["pkg"]\n'
    },
    "an include by variable": {
        "requirements.txt": "-r ${HOME}/../src/evil.txt\n",
        "src/evil.txt": "idna\n",
        "evil.txt": "-e /work/src/pkg\n",
    },
    "an include by URL": {
        "requirements.txt": "-r file:///work/src/evil.txt\n",
        "file:/work/src/evil.txt": "idna\n",
        "evil.txt": "-e /work/src/pkg\n",
    },
}
PLANT = """
import json, os, pathlib, subprocess
seen, planted = [], []
for root in ("/cache", "/work/download"):
    for folder, folders, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            seen.append(path)
            for attempt in (
                lambda: open(path, "ab").write(b"evil"),
                lambda: (os.chmod(path, 0o666), open(path, "r+b").write(b"evil")),
                lambda: os.unlink(path),
                lambda: os.rename(path, path + ".old"),
                lambda: (os.link(path, "/work/out/linked"), open("/work/out/linked", "ab").write(b"evil")),
            ):
                try:
                    attempt()
                    planted.append(path)
                except OSError:
                    pass
        try:
            open(os.path.join(folder, "evil"), "w").close()
            planted.append(folder)
        except OSError:
            pass
out = pathlib.Path("/work/out")
(out / "server.py").write_text("import http.server, os\\n"
    "http.server.HTTPServer(('', int(os.environ['PORT'])), http.server.BaseHTTPRequestHandler).serve_forever()\\n")
inside = [path for path in planted if not path.startswith("/work/download")]
print("FOUND " + json.dumps([len(seen), inside]))
"""


@pytest.fixture(scope="module")
def nodes(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two nodes with empty caches, which build shipped runtimes and scripts."""
    folder = tmp_path_factory.mktemp("catalog")
    rows = [(ROOT / "runtimes/catalog.toml").read_text(), (ROOT / "tests/data/catalog.toml").read_text()]
    (folder / "catalog.toml").write_text("\n".join(rows))
    shutil.copytree(ROOT / "tests/data/script", folder / "script")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        flags = {"pipelines": ("tests.pipeline_script",), "catalog": str(folder / "catalog.toml"), "slots": 1}
        first, second = (stack.enter_context(start(**flags)) for _ in range(2))
        yield first, second


def digest(server: Server, name: str, files: dict[str, str]) -> str:
    """The artifact of a build that no cache of whole builds answers."""
    return server.build(name, zip_of(files), no_cache=True).image_digest


def test_a_hash_pinned_build_is_the_same_after_an_attack_as_before(nodes: tuple[Server, Server]) -> None:
    before = {digest(node, "honest", PINNED) for node in nodes}
    assert len(before) == 1, "both nodes make the same"
    for node in nodes:
        for road, files in ROADS.items():
            done = node.wait(node.submit("evil", zip_of({"handler.py": IDNA_HANDLER, **BACKEND, **files})))
            assert (done.status, done.failure.reason) == (pb.BUILD_STATUS_FAILED, "ManifestInvalid"), road
            assert "CODE OF THE SOURCE RAN" not in node.log(done.build_id).text
        planting = zip_of({"build.py": PLANT, "caches": CACHES})
        done = node.build("evil-script", planting, no_cache=True)
        (line,) = [line for line in node.log(done.build_id).text.splitlines() if line.startswith("FOUND ")]
        count, planted = json.loads(line.removeprefix("FOUND "))
        assert count > 0, "the attacker sees what honest builds downloaded"
        assert planted == []
    after = {digest(node, "honest-later", PINNED) for node in nodes}
    assert after == before


def test_what_was_downloaded_is_the_nodes_and_named_by_its_digest(nodes: tuple[Server, Server]) -> None:
    for node in nodes:
        caches = Path(node.embedded.settings.node_dir) / "caches" / node.embedded.settings.organization
        wheels = [path for path in (caches / "wheels").rglob("*") if path.is_file()]
        assert [path.parent.name for path in wheels] == [PIN]
        owned = {path.stat().st_uid for path in (caches / "wheels", *wheels)}
        assert owned == {0}
