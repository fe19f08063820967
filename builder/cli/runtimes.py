"""The runtimes that a request can name: those of the loaded pipelines that the proto has. There is no second list."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from builder import pipelines
from builder.cli.stop import mistake
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common_pb


def nameable(planned: Sequence[str]) -> tuple[str, ...]:
    """The runtimes of `planned` that a request can name; any other is found by detection."""
    return tuple(name for name in planned if name in common_pb.Runtime.DESCRIPTOR.fields_by_name)


RUNTIMES: tuple[str, ...] = nameable(pipelines.names())


def set_runtime(
    runtime: common_pb.Runtime, name: str, version: str, target: str, known: Sequence[str] = RUNTIMES
) -> None:
    """Fill the one runtime `name`; its fields are read off the proto. Raises `Stop` for what it does not have."""
    if name not in known:
        raise mistake(f'--runtime is "{name}"; it takes one of {", ".join(known)}', where="--runtime")
    value: Message = getattr(runtime, name)
    value.SetInParent()
    fields = value.DESCRIPTOR.fields_by_name
    if version:
        setattr(value, "toolchain_version" if "toolchain_version" in fields else "version", version)
    if not target:
        return
    if "target" not in fields:
        raise mistake(f'--target is "{target}"; {name} has no targets to choose from', where="--target")
    kinds = fields["target"].enum_type
    assert kinds is not None
    words = {each.name.rsplit("_", 1)[1].lower(): each.number for each in kinds.values}
    words.pop("unspecified")
    if target not in words:
        raise mistake(f'--target is "{target}"; {name} has {", ".join(words)}', where="--target")
    setattr(value, "target", words[target])  # noqa: B010 (the field is not on every runtime)
