"""Private modules: their download by git from their own hosts, and the lines of go.sum that alone verify them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.go import modules
from builder.pipelines.go.project import Project, below
from builder.pipelines.private import Asked, asked
from builder.plan import Private, Step
from builder.source.tree import Tree


@dataclass(frozen=True, kw_only=True)
class _Required:
    """A module of another host. `version` is empty where a replacement names another module."""

    path: str
    version: str
    where: str


def with_private(
    download: Step | None, tree: Tree, project: Project, imports: set[str], request: PlanRequest, warnings: list[str]
) -> Step | None:
    """The download as build arguments ask for it: with git, the hosts and the login where a private module is needed.

    Raises `BuildError` InvalidRequest, and LockOutdated for a private module that go.sum does not name: no checksum
    database knows it.
    """
    wanted = asked(request.build_args)
    if wanted is None:
        return download
    own = (*project.paths, "ignite")
    pinned = {(module, version) for module, version, _, _ in modules.pins(_sums(tree, project))}
    of_sums = {module for module, _ in pinned if module not in own}
    required = [one for one in _required(project) if wanted.covers(one.path)]
    foreign = [] if pinned else [name for name in sorted(imports) if not _is_below(name, own)]
    covered = [name for name in (*of_sums, *foreign) if wanted.covers(name)]
    if download is None or not (required or covered):
        why = "nothing is downloaded" if download is None else "no module that is required is below it"
        warnings.append(f"private names {', '.join(wanted.paths)}, and {why}: its secret is not used")
        return download
    for one in required:
        if (one.version and (one.path, one.version) not in pinned) or one.path not in of_sums:
            raise _unpinned(one.path, one.where, wanted)
    if not pinned:
        raise _unpinned(covered[0], "go.sum", wanted)
    return replace(
        download,
        private=Private(hosts=wanted.hosts, secret=wanted.secret, version=request.secret_version),
        env=tuple(sorted((dict(download.env) | _environment(wanted)).items())),
    )


def _is_below(name: str, own: Iterable[str]) -> bool:
    return any(f"{name}/".startswith(f"{one}/") for one in own)


def _environment(wanted: Asked) -> dict[str, str]:
    """Variables of `go` (Go modules reference, "Private modules"); what the operator sets of them stays behind ours.

    A host that answers `?go-get=1` to a login alone gets the one that git's settings have for it.
    """
    paths = ",".join(wanted.paths)
    return {
        "GOAUTH": "git /work/fetch",
        "GOINSECURE": "",
        "GONOPROXY": f"{paths},${{GONOPROXY:-${{GOPRIVATE:-}}}}",
        "GONOSUMDB": f"{paths},${{GONOSUMDB:-${{GOPRIVATE:-}}}}",
        "GOPRIVATE": paths,
        "GOVCS": "*:git",
    }


def _sums(tree: Tree, project: Project) -> str:
    paths = [below(module.folder, "go.sum") for module in project.modules]
    paths += [below(project.home, "go.work.sum")] if project.work else []
    return "\n".join(tree.read_text(path, modules.SUM_LIMIT) for path in paths if tree.has(path))


def _required(project: Project) -> Iterator[_Required]:
    """What go.mod files require of other hosts, as replacements have it."""
    local = {*project.paths, "ignite"}
    above = project.work.replaces if project.work else {}
    for module in project.modules:
        replaces = {**module.mod.replaces, **above}
        for path, (version, line) in module.mod.requires.items():
            target = replaces.get(path, ("", 0))[0]
            if path not in local and not target.startswith((".", "/")):
                at = f"{module.file}:{line}"
                yield _Required(path=target or path, version="" if target else version, where=at)


def _unpinned(name: str, where: str, wanted: Asked) -> BuildError:
    message = f"{name} is private, and go.sum has no line of it: nothing else verifies a private module"
    hint = f"Run GOPRIVATE={','.join(wanted.paths)} go mod tidy, commit go.mod and go.sum."
    return BuildError("LockOutdated", message, where=where, next=hint)
