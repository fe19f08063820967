"""Intake: judge a request before a build exists, store its source by digest, and give the columns of the record."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Any

from google.protobuf import json_format

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import (
    GIT_SOURCE,
    START_CHECK,
    START_CHECKS,
    Repository,
    built_image,
    compiled_runtime,
    is_image,
    is_rebase,
    repository_of,
    runtime_of,
    start_check_of,
)
from builder.dockerfile.paths import check_path
from builder.errors import BuildError
from builder.git.source import check_reference, check_secret, parse_url
from builder.pipelines.arguments import check_arguments, check_values
from builder.plan import PLATFORM
from builder.services import modules, rebases
from builder.services.errors import unimplemented
from builder.services.labels import check_labels
from builder.services.parts import Parts
from builder.settings import Settings
from builder.source.sniff import HEAD_BYTES, SourceKind, describe, sniff
from builder.store import nodes
from builder.store.engine import Store
from builder.store.retention import SWEPT
from builder.store.secrets import GIT, REGISTRY
from builder.store.transitions import EXTERNAL, IMAGE
from builder.stores.folder import SourceStore
from builder.text import visible

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_OUR_TAG = re.compile(r"build-.*|sha256-[0-9a-f]{64}")  # an attempt's, and where referrers of a digest are listed
MAX_REQUEST_BYTES = 64 * 1024
"""The most of a request beside its source. It stays in the record, and a list of builds reads hundreds of them."""
_BUILD_ARG = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
MAX_TAGS = 32  # each is a few requests to the registry, and one finalizer serves everybody
MOST_REPOSITORY = 200
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*")
# Registries route by these, wherever they stand in a path.
_ROUTED = frozenset({"blobs", "manifests", "referrers", "tags", "uploads"})
_LETTERS, _DIGITS = "abcdefghjkmnpqrstvwxyz", "0123456789abcdefghjkmnpqrstvwxyz"


def new_build_id() -> str:
    """20 characters of Crockford's alphabet, a letter first, random."""
    return secrets.choice(_LETTERS) + "".join(secrets.choice(_DIGITS) for _ in range(19))


def take(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> dict[str, Any]:
    """The columns of a new build. Raises `BuildError` InvalidRequest and kin, `CallRefused` UNIMPLEMENTED, of a rebase
    also NOT_FOUND."""
    if is_rebase(request):
        return _rebase(request, organization, parts)
    _names(request)
    check_labels(request.labels)
    if request.code.image.WhichOneof("variant") == "prebuilt":
        return _prebuilt(request, organization, parts)
    compile_source, runtime = request.code.compile, ""
    toolchain = ""
    if request.code.WhichOneof("source") == "image":
        return _image(request, organization, parts)
    settings, catalog, runtimes = parts.settings, parts.catalog, parts.runtimes
    if request.WhichOneof("source") is None:
        message = "one of code, gitSource, rebase, contextId and zippedCode is needed"
        raise BuildError("InvalidRequest", message, where="code")
    repo = repository_of(request)
    if request.WhichOneof("source") == "code" or repo is not None:
        named = compiled_runtime(request)
        runtime = named.WhichOneof("runtime") or ""
        if runtime and runtime not in runtimes:
            raise unimplemented(f"{runtime} is not built yet; there is {', '.join(runtimes)} (docs/api.md)")
        if runtime:  # without one the node detects it
            version, target = runtime_of(named)
            row = catalog.find(runtime, version, target)
            toolchain = row.name if version else ""
            check_arguments(runtime, runtimes[runtime], {**request.build_args, **compile_source.build_args})
    _nothing_ignored(request)
    check_values({**request.build_args, **compile_source.build_args})
    modules.check(request, organization, parts)
    if (asked := start_check_of(request, "off")) not in START_CHECKS:
        message = f'start_check is "{asked[:80]}"; it takes {", ".join(START_CHECKS)}'
        raise BuildError("InvalidRequest", message, where=f"buildArgs.{START_CHECK}")
    repository = _repository(request, organization, settings)
    text = _kept(request)
    if repo is not None:
        _one_folder(request)
        _git(request, repo, organization, parts)
        sha256, size = "", 0
    else:
        sha256, size = _source(request, organization, settings, parts.store, parts.sources)
    return {
        **_columns(request, organization, settings, text, sha256, size),
        "runtime": runtime,
        "queue": f"compile.{runtime or 'any'}",
        "toolchain": toolchain,
        "repository": repository,
        "tags": json.dumps(list(request.tags) or ["latest"]),
    }


def _git(request: pb.CreateBuildRequest, asked: Repository, organization: str, parts: Parts) -> None:
    """Judge what is asked of a repository; its host is asked by the node. Raises `BuildError`."""
    url = parse_url(asked.url, asked.where("url"))
    check_reference(asked.reference, asked.where("reference"))
    check_path(asked.folder, asked.folder_at)
    if request.source_ref.WhichOneof("ref"):
        raise BuildError("InvalidRequest", f"{asked.at} and sourceRef exclude each other", where="sourceRef")
    if asked.history and asked.folder and is_image(request):
        message = "a Job of a folder gets that folder alone, and the history lies above it"
        step = f"Leave {asked.folder_at} out, and name the Dockerfile by its path from the root: dockerfilePath"
        raise BuildError("InvalidRequest", message, where=f"{asked.at}.history", next=step)
    check_secret(url, asked.secret, asked.where("secretRef"))
    if asked.secret:
        parts.secrets.check(organization, asked.secret, GIT, asked.where("secretRef"))


def _one_folder(request: pb.CreateBuildRequest) -> None:
    """Raises `BuildError` for a git source with two folders."""
    folder = check_path(request.git_source.context_dir, f"{GIT_SOURCE}.contextDir")
    if folder and request.build_args.get("sub_path", folder) != folder:
        raise BuildError("InvalidRequest", "contextDir and the build argument sub_path differ", where="buildArgs")


def _prebuilt(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> dict[str, Any]:
    """The columns of an image that is there already: its registry is asked later, by the control side."""
    asked, settings = request.code.image.prebuilt, parts.settings
    where = "code.image.prebuilt"
    from builder.images.reference import is_own, parse

    reference = parse(asked.image_ref, f"{where}.imageRef")
    is_own(reference, settings.registry, settings.prefix_of(organization))
    if asked.registry_secret_ref:
        parts.secrets.check(organization, asked.registry_secret_ref, REGISTRY, f"{where}.registrySecretRef")
    for name in ("tags", "build_args", "dockerfile", "buildpacks", "registry", "repository", "output_repository"):
        if getattr(request, name):
            field = request.DESCRIPTOR.fields_by_name[name].json_name
            message = f"{field} is given; a prebuilt image stays where it is and as it is"
            raise BuildError("InvalidRequest", message, where=field, next=f"Leave {field} out.")
    if request.source_ref.WhichOneof("ref"):
        raise BuildError("InvalidRequest", "a prebuilt image has no source", where="sourceRef")
    return {
        **_columns(request, organization, settings, _kept(request), "", 0),
        "runtime": "",
        "queue": EXTERNAL,
        "toolchain": "",
        "repository": reference.name,
        "tags": "[]",
        "attempts_swept": SWEPT,  # no attempt pushes a tag
    }


def _rebase(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> dict[str, Any]:
    """The columns of a rebase. Its record names the build by its whole id, and has the same code."""
    check_labels(request.labels)
    row, settings = rebases.named(parts.store, organization, request), parts.settings
    whole = pb.CreateBuildRequest()
    whole.CopyFrom(request)
    whole.rebase.build_id, whole.name = row["build_id"], request.name or row["name"]
    _names(whole)
    text = _kept(whole)
    whole.output_repository = row["repository"]
    repository = _repository(whole, organization, settings)
    return {
        **_columns(whole, organization, settings, text, "", 0),
        "runtime": "",
        "queue": IMAGE,
        "toolchain": "",
        "repository": repository,
        "tags": json.dumps(list(request.tags)) if request.tags else row["tags"],
        "code_hash": row["code_hash"],
        "provenance": row["provenance"],
    }


def _image(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> dict[str, Any]:
    """The columns of an image build, from an uploaded context or a repository. Raises `BuildError`."""
    if request.code.image.WhichOneof("variant") is None:
        message = "one of prebuilt, fromCode and fromGit is needed"
        raise BuildError("InvalidRequest", message, where="code.image")
    _check_image(request)
    if (repo := repository_of(request)) is not None:
        _git(request, repo, organization, parts)
    settings = parts.settings
    repository = _repository(request, organization, settings)
    text = _kept(request)
    sha256, size = ("", 0) if repo else _source(request, organization, settings, parts.store, parts.sources)
    return {
        **_columns(request, organization, settings, text, sha256, size),
        "runtime": "",
        "queue": IMAGE,
        "toolchain": "",
        "repository": repository,
        "tags": json.dumps(list(request.tags) or ["latest"]),
    }


def _check_image(request: pb.CreateBuildRequest) -> None:
    """Judge what is asked of a context, before its bytes are looked at. Raises `BuildError`."""
    asked, where = built_image(request)
    check_path(asked.dockerfile_path or request.dockerfile, f"{where}.dockerfilePath")
    check_path(asked.sub_path, f"{where}.subPath")
    if asked.dockerfile_path and request.dockerfile:
        raise BuildError("InvalidRequest", "dockerfile and dockerfilePath exclude each other", where="dockerfile")
    if request.buildpacks and (asked.dockerfile_path or request.dockerfile):
        message = "buildpacks and a named Dockerfile exclude each other"
        raise BuildError("InvalidRequest", message, where="buildpacks", next="Leave one of them out.")
    if asked.build_args and request.build_args:
        raise BuildError("InvalidRequest", f"buildArgs and {where}.buildArgs exclude each other", where="buildArgs")
    for name, value in (asked.build_args or request.build_args).items():
        if not _BUILD_ARG.fullmatch(name):
            message = f'"{visible(name, limit=80)}" is no name of an ARG: a letter or _ first, then also digits'
            raise BuildError("InvalidRequest", message, where=f"{where}.buildArgs")
        if "\0" in value:
            raise BuildError("InvalidRequest", f"the value of {name} has a NUL", where=f"{where}.buildArgs.{name}")


def _columns(
    request: pb.CreateBuildRequest, organization: str, settings: Settings, text: str, sha256: str, size: int
) -> dict[str, Any]:
    """The columns that every build has. `text`: the request as its record keeps it."""
    timeout = int(request.timeout_secs) * 1000 or settings.timeout_ms
    queue_timeout = int(request.queue_timeout_secs) * 1000 or settings.queue_timeout_ms
    _maximum("timeoutSecs", timeout, 3_600_000)
    _maximum("queueTimeoutSecs", queue_timeout, 86_400_000)
    return {
        "build_id": new_build_id(),
        "organization": organization,
        "name": request.name,
        "idempotency_key": request.idempotency_key or None,
        "request_hash": hashlib.sha256(f"{text} {sha256}".encode()).hexdigest(),
        "request": text,
        "source_sha256": sha256,
        "source_size": size,
        "priority": request.priority,
        "no_cache": request.no_cache,
        "timeout_ms": timeout,
        "queue_timeout_ms": queue_timeout,
        "log_limit": settings.log_bytes,
    }


def _kept(request: pb.CreateBuildRequest) -> str:
    """The request as its record keeps it: without the source's bytes."""
    kept = pb.CreateBuildRequest()
    kept.CopyFrom(request)
    body = kept.code.compile.WhichOneof("body")
    if body:
        setattr(kept.code.compile, body, b"")
    if kept.WhichOneof("source") == "zipped_code":
        kept.zipped_code = b""
    if kept.code.image.WhichOneof("variant") == "from_code":
        kept.code.image.from_code.archive = b""
    if (size := kept.ByteSize()) > MAX_REQUEST_BYTES:
        message = f"the request has {size} bytes beside its source, {MAX_REQUEST_BYTES} are allowed"
        raise BuildError("InvalidRequest", message, where="body", next="Put large values into files of the source.")
    return json_format.MessageToJson(kept, indent=None, sort_keys=True)


def _names(request: pb.CreateBuildRequest) -> None:
    if not _NAME.fullmatch(request.name):
        raise BuildError("InvalidRequest", "name takes 1 to 64 of a-z, 0-9, . _ -", where="name")
    if len(request.tags) > MAX_TAGS:
        raise BuildError("InvalidRequest", f"{len(request.tags)} tags are given, {MAX_TAGS} are allowed", where="tags")
    for index, tag in enumerate(request.tags):
        if not _TAG.fullmatch(tag) or _OUR_TAG.fullmatch(tag):
            raise BuildError("InvalidRequest", f'"{tag[:80]}" cannot be a tag', where=f"tags[{index}]")
    if request.platform not in ("", PLATFORM):
        raise BuildError("UnsupportedTarget", f"platform takes {PLATFORM}", where="platform")
    if len(request.idempotency_key) > 200:
        raise BuildError("InvalidRequest", "idempotencyKey takes up to 200 characters", where="idempotencyKey")


def _nothing_ignored(request: pb.CreateBuildRequest) -> None:
    """Refuse what no build of this request would look at: whoever sent it means something by it."""
    if request.dockerfile and request.WhichOneof("source") != "code":
        message = "a Dockerfile is for image mode: send code.image: fromCode, with sourceRef for an upload, or fromGit"
        raise BuildError("InvalidRequest", message, where="dockerfile")
    if request.dockerfile:
        message = "a Dockerfile is for image mode; this request is built by its runtime's pipeline"
        raise BuildError("InvalidRequest", message, where="dockerfile")
    if request.buildpacks:
        message = "buildpacks are for image mode: send code.image, fromCode or fromGit"
        raise BuildError("InvalidRequest", message, where="buildpacks")
    if request.build_args and request.code.compile.build_args:
        message = "buildArgs and code.compile.buildArgs exclude each other"
        raise BuildError("InvalidRequest", message, where="buildArgs")
    if request.WhichOneof("source") == "context_id" and request.source_ref.WhichOneof("ref"):
        raise BuildError("InvalidRequest", "contextId and sourceRef exclude each other", where="sourceRef")


def _maximum(name: str, value: int, maximum: int) -> None:
    if not 1000 <= value <= maximum:
        raise BuildError("InvalidRequest", f"{name} takes 1 to {maximum // 1000}", where=name)


def _repository(request: pb.CreateBuildRequest, organization: str, settings: Settings) -> str:
    prefix = settings.prefix_of(organization)
    named = request.output_repository or request.repository
    if request.repository not in ("", named):
        raise BuildError("InvalidRequest", "repository and outputRepository are not the same", where="repository")
    if request.registry not in ("", settings.registry):
        here = f'artifacts go to "{settings.registry}"' if settings.registry else "this server pushes to no registry"
        raise BuildError("RepositoryForbidden", f'"{request.registry[:80]}" is refused: {here}', where="registry")
    repository = named if named else f"{prefix}/{request.name}"
    where = "repository" if named else "name"
    if len(repository) > MOST_REPOSITORY:  # before anything looks at each character
        message = f'"{repository[:80]}…" has more than {MOST_REPOSITORY} characters'
        raise BuildError("InvalidRequest", message, where=where)
    parts = repository.split("/")
    if word := next((part for part in parts if part in _ROUTED or part.startswith("_")), ""):
        message = f'"{repository[:80]}" has the part "{word[:40]}", which registries read as a path of their own'
        raise BuildError("InvalidRequest", message, where=where, next="Name another one in outputRepository.")
    if not _REPOSITORY.fullmatch(repository):
        raise BuildError("InvalidRequest", f'"{repository[:80]}" is no repository', where="repository")
    if not repository.startswith(prefix + "/"):
        message = f'"{repository}" is outside of your prefix "{prefix}/"'
        raise BuildError("RepositoryForbidden", message, where="repository")
    return repository


def _source(
    request: pb.CreateBuildRequest, organization: str, settings: Settings, store: Store, sources: SourceStore
) -> tuple[str, int]:
    kind = request.WhichOneof("source")
    if kind == "context_id":
        return _uploaded(nodes.context(store, request.context_id, organization), sources, "contextId")
    image = kind == "code" and request.code.WhichOneof("source") == "image"
    body = request.code.compile.WhichOneof("body")
    data = request.zipped_code if kind == "zipped_code" else getattr(request.code.compile, body) if body else b""
    data = request.code.image.from_code.archive if image else data
    reference = request.source_ref.WhichOneof("ref")
    if reference and data:
        raise BuildError("InvalidRequest", "a body and sourceRef exclude each other", where="sourceRef")
    if reference == "context_id":
        upload = nodes.context(store, request.source_ref.context_id, organization)
        return _uploaded(upload, sources, "sourceRef.contextId")
    if reference == "sha256":
        sha256 = request.source_ref.sha256.removeprefix("sha256:")
        size = nodes.uploaded(store, sha256, organization)
        return _uploaded((sha256, size) if size is not None else None, sources, "sourceRef.sha256")
    where = f"code.compile.{'sourceCode' if body == 'source_code' else 'archive'}"
    where = "code.image.fromCode.archive" if image else "zippedCode" if kind == "zipped_code" else where
    if not data:
        raise BuildError("SourceEmpty", f"{where} has no bytes", where=where)
    if len(data) > settings.inline_bytes:
        message = f"{where} has {len(data)} bytes, {settings.inline_bytes} are allowed inline; upload it first"
        raise BuildError("ArchiveTooLarge", message, where=where)
    found = sniff(data[:HEAD_BYTES])
    if body == "source_code" and found is not SourceKind.TEXT:
        what = describe(data[:HEAD_BYTES]) if found is SourceKind.OTHER else f"a {found.value}; send it as archive"
        raise BuildError("NotAnArchive", f"sourceCode is {what}; a single text file is needed", where=where)
    stored = sources.put([data], settings.inline_bytes)
    return stored.sha256, stored.size


def _uploaded(found: tuple[str, int] | None, sources: SourceStore, where: str) -> tuple[str, int]:
    """An upload that a record is about to name; renewed, so that retention leaves it alone until it does."""
    if found is None:
        raise BuildError("SourceNotFound", "there is no such upload of your organization", where=where)
    try:
        sources.renew(found[0])
    except BuildError as error:
        if error.reason != "SourceNotFound":
            raise
        raise BuildError("SourceNotFound", "this upload was not used in time; upload it again", where=where) from None
    return found
