"""`plan`: what would run, and why. Pure: no network, no server, no compiler, no process."""

from __future__ import annotations

import contextlib
import posixpath
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.folder import Left, find
from builder.cli.ignore import Choice, Rule
from builder.cli.image_plan import STRATEGIES, cut, folded, image_arguments, job_lines, job_of, placed_here
from builder.cli.needed import check_needed, explained
from builder.cli.pack import Packed, check_size, pack
from builder.cli.safe import shown
from builder.cli.stop import refused_here
from builder.cli.terminal import Look
from builder.cli.unpacked import PlanSource, opened
from builder.contract.request import START_CHECK
from builder.data import catalog_file
from builder.dockerfile.paths import DEFAULT
from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.pipelines.catalog import read as read_catalog
from builder.plan import Network, Plan, Step
from builder.settings import Settings
from builder.source.digest import code_hash
from builder.source.tree import DirTree

if TYPE_CHECKING:
    from builder.dockerfile.choose import ImagePlan

_NETWORK = {Network.NONE: "no", Network.INDEX: "package index only"}


def plan(
    ctx: Context,
    path: str,
    runtime: str,
    version: str,
    target: str,
    build_args: Mapping[str, str],
    choice: Choice | None = None,
    dockerfile: str = "",
    *,
    buildpacks: bool = False,
) -> int:
    """Show detection, version, steps, network, caches and output of PATH, and what is left out of it."""
    settings = ctx.settings()
    try:
        packed = pack(path, ctx.stdin, with_dockerfile(choice or Choice(), dockerfile, path), settings.upload_bytes)
        check_size(packed, settings.upload_bytes)
        with opened(packed, runtime) as source:
            digest = code_hash(source.root)
            image = image_of(settings, packed, source, runtime, dockerfile, build_args, buildpacks=buildpacks)
            if image is not None:
                image = placed_here(settings, image)
                job = job_of(settings, source.root, image, build_args, packed.name)
            else:
                made = planned(settings, packed, source, runtime, version, target, build_args)
    except BuildError as error:
        raise refused_here(_meant(error, path, ctx.prog, settings)) from None
    left = packed.folder.left if packed.folder else ()
    next_command = build_command(ctx.prog, path, runtime, version, target, build_args, choice or Choice())
    if ctx.common.json:
        facts = {"codeHash": digest, "files": source.files, "sizeBytes": str(source.size)}
        ctx.document(
            {
                "name": packed.name,
                "source": facts,
                "leftOut": [{"path": each.path, "rule": each.rule.name, "pattern": each.rule.pattern} for each in left],
                **({"image": asdict(image), **job} if image else {"plan": made.to_json()}),
            }
        )
        return 0
    look = ctx.look(ctx.out)
    if image:
        words = f"name a server or docker_host, or push an image, then: {ctx.prog} build --image REF"
        options = f" --dockerfile {shlex.quote(dockerfile)}" if dockerfile else " --buildpacks" if buildpacks else ""
        command = next_command + options if settings.server or image.strategy == "docker" else words
        lines = rendered_image(image, job, source, digest, left, look, command)
    else:
        lines = rendered(made, source, digest, left, look, next_command)
    for line in lines:
        ctx.out.line(line)
    return 0


def plan_rebase(ctx: Context, build: str) -> int:
    """Show the Job that puts the image of a build on the current run image."""
    from builder.strategies.preview import placeholders_of, rebase_job_of

    settings = ctx.settings()
    try:
        manifest = rebase_job_of(settings)
    except BuildError as error:
        raise refused_here(error) from None
    job = {"job": manifest, "placeholders": placeholders_of(manifest)}
    if ctx.common.json:
        ctx.document({"rebase": build, **job})
        return 0
    look = ctx.look(ctx.out)
    rows = [("", "VALUE", "WHY"), ("image", "rebase", f"the image of {shown(build)} on another run image")]
    command = shlex.join([ctx.prog, "build", "--rebase", build])
    for line in (*cut(fmt.table(rows), look), *job_lines(job, look, STRATEGIES["rebase"], command)):
        ctx.out.line(line)
    return 0


def build_command(
    prog: str,
    path: str,
    runtime: str,
    version: str,
    target: str,
    build_args: Mapping[str, str],
    choice: Choice,
) -> str:
    """The command that builds what a plan shows: the same options, each as a shell takes it."""
    options = {"--runtime": runtime, "--runtime-version": version, "--target": target}
    words = [prog, "build", path]
    words += [word for name, value in options.items() if value for word in (name, value)]
    words += [word for name, value in build_args.items() for word in ("--build-arg", f"{name}={value}")]
    words += [word for glob in choice.include for word in ("--include", glob)]
    return shlex.join([*words, *(["--no-ignore"] if choice.no_ignore else [])])


def with_dockerfile(choice: Choice, dockerfile: str, path: str) -> Choice:
    """The choice that sends a named Dockerfile whatever an ignore file has: `.dockerignore` often names it."""
    if not dockerfile or not Path(path).is_dir():
        return choice
    return Choice(no_ignore=choice.no_ignore, include=(*choice.include, posixpath.normpath(dockerfile)))


def image_of(
    settings: Settings,
    packed: Packed,
    source: PlanSource,
    runtime: str,
    dockerfile: str,
    build_args: Mapping[str, str],
    *,
    buildpacks: bool,
) -> ImagePlan | None:
    """The plan of image mode: where a Dockerfile is named, or is at the root and no runtime is named or found, or where
    buildpacks are asked for. None: compile mode. Raises `BuildError`, also for a Dockerfile that cannot be built."""
    if buildpacks:
        return _by_buildpacks(packed, source, runtime, dockerfile, build_args)
    if dockerfile and runtime:
        message = "--dockerfile makes an image, --runtime compiles"
        raise BuildError("InvalidRequest", message, where="--dockerfile", next="Leave one of them out.")
    if dockerfile and packed.kind == "file":
        raise BuildError("InvalidRequest", "a Dockerfile needs a folder or an archive", where="PATH")
    sub_path = build_args.get("sub_path", "")
    tree = DirTree(source.root)
    if not dockerfile:
        if runtime or packed.kind == "file" or not tree.has(posixpath.join(sub_path, DEFAULT)):
            return None
        try:
            pipelines.detect(tree, None, pipelines.load(settings.pipelines), sub_path)
        except BuildError as error:
            if error.reason != "EntryPointMissing":
                raise
        else:
            return None
    from builder.dockerfile.choose import ImageRequest, plan_image  # with what reads Dockerfiles

    asked = ImageRequest(dockerfile=dockerfile, sub_path=sub_path, build_args=image_arguments(build_args))
    try:
        return plan_image(source.root, asked)
    except BuildError as error:
        raise _with_left_out(error, packed) from None


def _by_buildpacks(
    packed: Packed, source: PlanSource, runtime: str, dockerfile: str, build_args: Mapping[str, str]
) -> ImagePlan:
    """The plan of buildpacks. Raises `BuildError` InvalidRequest where another option excludes them."""
    if other := "--dockerfile" if dockerfile else "--runtime" if runtime else "":
        message = f"--buildpacks and {other} exclude each other"
        raise BuildError("InvalidRequest", message, where="--buildpacks", next="Leave one of them out.")
    if packed.kind == "file":
        raise BuildError("InvalidRequest", "buildpacks need a folder or an archive", where="PATH")
    from builder.dockerfile.choose import ImageRequest, choose

    return choose(source.root, ImageRequest(sub_path=build_args.get("sub_path", ""), buildpacks=True))


def rendered_image(
    made: ImagePlan,
    job: Mapping[str, Any],
    source: PlanSource,
    digest: str,
    left: Sequence[Left],
    look: Look,
    next_command: str,
) -> tuple[str, ...]:
    """The table of image mode, and its Job. Nothing of the table is cut in a pipe, of the Job nothing at all."""
    rows = [("", "VALUE", "WHY"), ("image", made.strategy, shown(made.because))]
    if made.dockerfile:
        rows.append(("file", shown(made.dockerfile), "read by the rules of BuildKit"))
    rows += [("base", shown(base), "FROM") for base in made.bases]
    facts = (fmt.count(source.files, "file"), fmt.size(source.size))
    rows.append(("source", ", ".join(facts), fmt.short_digest(digest)))
    rows += _left_rows(left)
    lines = list(fmt.table(rows))
    lines += [f"{look.paint('yellow', look.symbols.warning)} {shown(warning)}" for warning in made.warnings]
    if "engine" in job:
        call = f"{'call':<9}of the engine's client, with the folder as a tar"
        after = (f"output   {STRATEGIES[made.strategy]}", f"next     {look.paint('cyan', shown(next_command))}")
        return (*cut([*lines, call], look), *folded(job["engine"]).split("\n"), *cut(after, look))
    return (*cut(lines, look), *job_lines(job, look, STRATEGIES[made.strategy], next_command))


def planned(
    settings: Settings,
    packed: Packed,
    source: PlanSource,
    runtime: str,
    version: str,
    target: str,
    build_args: Mapping[str, str],
) -> Plan:
    """The plan of a packed source, by the catalog of the settings. Raises `BuildError`, also for a file that is needed
    and left out."""
    if packed.folder is not None:  # before the plan, which knows that a file is lacking, but not why
        known = pipelines.load(settings.pipelines)
        check_needed(packed.folder, packed.runtime(runtime), known, build_args.get("sub_path", ""))
    try:
        return make(settings, source, packed.runtime(runtime), version, target, build_args)
    except BuildError as error:
        raise _with_left_out(error, packed) from None


def _with_left_out(error: BuildError, packed: Packed) -> BuildError:
    """The same error, with the rule where it names what was left out."""
    left = packed.folder.left if packed.folder else ()
    words = explained(left, (error.message, error.where, *error.said))
    if not words:
        return error
    what, _, command = words.partition("; send it: ")
    return BuildError(error.reason, f"{error.message}; {what}", where=error.where, next=f"Send it: {command}",
                      said=error.said)  # fmt: skip


def _meant(error: BuildError, path: str, prog: str, settings: Settings) -> BuildError:
    """Where a folder has nothing that starts and exactly one of its folders has, name the command for that."""
    root = Path(path)
    if error.reason != "EntryPointMissing" or path == "-" or not root.is_dir():
        return error
    right = []
    for name in sorted({entry.path for entry in find(root).entries if entry.is_dir and "/" not in entry.path}):
        with contextlib.suppress(BuildError):
            make(settings, PlanSource(root=root / name, files=0, size=0), "", "", "", {})
            right.append(name)
    if len(right) != 1:
        return error
    return BuildError(error.reason, error.message, where=error.where, next=f"Is {right[0]}/ meant? {prog} build "
                      f"{posixpath.join(path, right[0])}", said=error.said)  # fmt: skip


def make(
    settings: Settings, source: PlanSource, runtime: str, version: str, target: str, build_args: Mapping[str, str]
) -> Plan:
    """The plan of a source by the catalog of the settings. Raises `BuildError`."""
    known = pipelines.load(settings.pipelines)
    request = PlanRequest(
        runtime=runtime or None,
        version=version,
        target=target,
        build_args={name: value for name, value in build_args.items() if name != START_CHECK},
        single_file=source.single_file,
        today=time.strftime("%Y-%m-%d", time.gmtime()),
        import_hosts=settings.import_hosts,
    )
    tree = DirTree(source.root)
    detection = pipelines.detect(tree, runtime or None, known, build_args.get("sub_path", ""))
    return pipelines.plan(detection, tree, request, catalog_of(settings), known)


def catalog_of(settings: Settings) -> Catalog:
    """The catalog of the settings, or the shipped one, with the default versions of the settings."""
    return read_catalog(catalog_file(settings.catalog), settings.default_versions)


def rendered(
    made: Plan, source: PlanSource, digest: str, left: Sequence[Left], look: Look, next_command: str
) -> tuple[str, ...]:
    """The tables of docs/cli.md. Nothing is cut in a pipe."""
    facts = (fmt.count(source.files, "file"), fmt.size(source.size))
    rows = [("", "VALUE", "WHY")]
    rows += [(shown(each.name), shown(each.value), shown(each.why)) for each in made.choices]
    rows.append(("source", ", ".join(facts), fmt.short_digest(digest)))
    rows += _left_rows(left)
    lines = list(fmt.table(rows))
    steps = [("STEP", "NETWORK", "CACHES", "COMMAND")]
    for number, step in enumerate(made.steps, 1):
        command = " ".join(_word(part) for part in step.argv)
        caches = ", ".join(f"{cache.name} ({cache.access})" for cache in step.caches)
        steps.append((f"{number} {step.name}", _network(step), caches or "-", command))
    lines += fmt.table(steps)
    lines += [f"{look.paint('yellow', look.symbols.warning)} {shown(warning)}" for warning in made.warnings]
    lines.append(f"output   {shown(made.output.summary)}")
    lines.append(f"next     {look.paint('cyan', shown(next_command))}")
    return tuple(line if look.columns is None else fmt.cut(line, look.columns, look.symbols.ellipsis) for line in lines)


def _network(step: Step) -> str:
    """What a step reaches, with the hosts of private modules."""
    return ", ".join(("package index", *step.private.hosts)) if step.private else _NETWORK[step.network]


def _left_rows(left: Sequence[Left]) -> list[tuple[str, str, str]]:
    """A row for each rule: what it leaves out, how much, and why."""
    by_rule: dict[Rule, list[str]] = {}
    for each in left:
        by_rule.setdefault(each.rule, []).append(each.path)
    rows = []
    for rule, paths in by_rule.items():
        count = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        named = f' "{shown(rule.pattern)}"' if rule.line else ""
        rows.append(("left out", shown(paths[0]) + count, f"{shown(rule.name)}{named}"))
    return rows


def _word(part: str) -> str:
    """An argument as one word for eyes; quoted where it holds a space."""
    text = shown(part)
    return f"'{text}'" if " " in text or not text else text
