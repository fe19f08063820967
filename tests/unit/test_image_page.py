"""docs/image-builds.md names every reason that an image build ends with, and every option of its request."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as build
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.errors import REASONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/image-builds.md").read_text(encoding="utf-8")
FOLDERS = ("kube", "kaniko", "buildpacks", "dockerfile", "engine", "strategies", "watcher", "git", "source")
FILES = (
    "attempt/canonical.py",
    "attempt/fetch.py",
    "attempt/git.py",
    "attempt/gitrun.py",
    "prebuilt.py",
    "node/image.py",
    "node/rebase.py",
    "node/engine.py",
    "node/cluster.py",
    "services/rebases.py",
    "images/external.py",
    "images/guard.py",
    "images/public.py",
    "images/reference.py",
)
"""What image mode is made of: the words of the table in it are reasons that it ends a build with."""
KUBERNETES = {"AlreadyExists", "DeadlineExceeded"}
"""Words of the cluster's API that are words of our table, too."""
COMPILED = {"contextId", "zippedCode", "gitSource", "code"}
"""Sources of a request that are for compile mode, and the one that image mode's are in."""


def reasons() -> set[str]:
    """Those that the code of image mode names."""
    modules = [*(ROOT / "builder" / one for one in FILES)]
    modules += [path for folder in FOLDERS for path in (ROOT / "builder" / folder).rglob("*.py")]
    nodes = (node for path in modules for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    words = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    for path in (ROOT / "builder/kube/fetch").glob("*.go"):
        words |= set(re.findall(r'"(\w+)"', path.read_text(encoding="utf-8")))
    return (words & REASONS.keys()) - KUBERNETES


def options(message: Descriptor) -> Iterator[str]:
    """The fields of a message, as JSON names them."""
    yield from (field.json_name for field in message.fields)


def test_every_reason_of_image_mode_is_named() -> None:
    found = reasons()
    assert {"JobVanished", "DockerfileInvalid", "ImageContractViolated", "LfsUnavailable", "NodeDiskFull"} <= found
    assert sorted(one for one in found if not re.search(rf"\b{one}\b", PAGE)) == []


def test_every_option_of_a_request_is_named_in_its_section() -> None:
    section = PAGE.partition("\n## What a request may say\n")[2].partition("\n## ")[0]
    named = {part for text in re.findall(r"`([^`]+)`", section) for part in text.split(".")}
    asked = set(options(build.CreateBuildRequest.DESCRIPTOR)) - COMPILED
    for message in (common.PrebuiltImage, common.ImageFromCode, common.ImageFromGit, common.SourceRef):
        asked |= set(options(message.DESCRIPTOR))
    asked |= set(options(common.ImageSource.DESCRIPTOR)) | set(options(build.RebaseSource.DESCRIPTOR))
    assert len(asked) > 25
    assert sorted(asked - named) == []
