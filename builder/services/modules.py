"""What a request asks of private modules, judged at the submit and again at each claim of its build."""

from __future__ import annotations

from collections.abc import Mapping

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import arguments_of, compiled_runtime
from builder.errors import BuildError
from builder.pipelines import private
from builder.services.parts import Parts
from builder.store.secrets import GIT

WHERE = f"buildArgs.{private.SECRET.name}"


def check(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> None:
    """Raises `BuildError` InvalidRequest, SecretNotFound, SecretWrongType."""
    if asked := _asked(request, parts):
        row = parts.secrets.check(organization, asked.secret, GIT, WHERE)
        private.check_host(asked, row["host"])


def secrets_of(request: pb.CreateBuildRequest, organization: str, parts: Parts) -> Mapping[str, str]:
    """The login for the hosts of private modules, and the version that the build key has. Raises as `check`."""
    asked = _asked(request, parts)
    if asked is None:
        return {}
    found = parts.secrets.git(organization, asked.secret, WHERE)
    private.check_host(asked, found.host)
    if found.private_key:
        message = f'the secret "{asked.secret}" is an SSH key; private modules take a token'
        raise BuildError("SecretWrongType", message, where=WHERE)
    return {
        "modules.username": found.username,
        "modules.token": found.token,
        "modules.host": found.host,
        "modules.version": str(found.version),
    }


def _asked(request: pb.CreateBuildRequest, parts: Parts) -> private.Asked | None:
    """None for a runtime that has no private modules; one that is not named may have them."""
    runtime = compiled_runtime(request).WhichOneof("runtime") or ""
    if runtime and private.SECRET.name not in parts.runtimes.get(runtime, ()):
        return None
    return private.asked(arguments_of(request))
