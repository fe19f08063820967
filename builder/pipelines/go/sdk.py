"""The SDK in the working copy: a `replace` in go.mod, a `use` in go.work, an overlay of what is vendored. Pure."""

from __future__ import annotations

import json
import posixpath

from builder.pipelines.go.project import Project, below
from builder.plan import WriteFile
from builder.source.tree import Tree

SDK = "/opt/ignite/sdk/go"
SDK_FILES = ("ignite.go",)
OVERLAY = ".ignite-overlay.json"


def written(tree: Tree, project: Project, version: str, sdk: bool, vendored: bool) -> tuple[WriteFile, ...]:
    """What the build writes: go.mod where there is none, and the SDK where it is imported."""
    if project.work:
        if not sdk:
            return ()
        path = below(project.home, "go.work")
        return (WriteFile(path=path, content=tree.read_text(path).rstrip("\n") + f"\n\nuse {SDK}\n"),)
    (module,) = project.modules
    mod = module.mod
    text = tree.read_text(module.file) if tree.has(module.file) else ""
    made = text or f"module {mod.module or 'app'}\n\ngo {version}\n"
    if not sdk:
        return (WriteFile(path=module.file, content=made),) if made != text else ()
    made = made.rstrip("\n") + "\n"
    if "ignite" not in mod.requires:
        made += "\nrequire ignite v0.0.0\n"
    made += f"\nreplace ignite => {SDK}\n"
    files = [WriteFile(path=module.file, content=made)]
    if vendored:
        listed_in = below(module.folder, "vendor/modules.txt")
        listed = tree.read_text(listed_in).rstrip("\n")
        asked = mod.requires.get("ignite", ("v0.0.0", 0))[0]
        listed += f"\n# ignite {asked} => {SDK}\n## explicit; go 1.20\nignite\n# ignite => {SDK}\n"
        vendor = posixpath.normpath(f"/work/src/{module.folder}/vendor/ignite")
        there = {f"{vendor}/{name}": f"{SDK}/{name}" for name in SDK_FILES}
        files.append(WriteFile(path=listed_in, content=listed.removeprefix("\n")))
        overlay = json.dumps({"Replace": there}, indent=2) + "\n"
        files.append(WriteFile(path=below(module.folder, OVERLAY), content=overlay))
    return tuple(files)
