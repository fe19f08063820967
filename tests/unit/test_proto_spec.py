"""The protos hold every message, enum, name and number of the specification's text, and no number has drifted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from builder.contract.dodil.ignite.v1 import ignite_build_pb2, ignite_common_pb2, ignite_compute_pb2

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "ignite-compute-core-concepts.txt"
FILES = (ignite_common_pb2.DESCRIPTOR, ignite_compute_pb2.DESCRIPTOR, ignite_build_pb2.DESCRIPTOR)
MESSAGES = {name: each for file in FILES for name, each in file.message_types_by_name.items()}
ENUMS = {name: each for file in FILES for name, each in file.enum_types_by_name.items()}
SCALARS = {
    getattr(FieldDescriptor, "TYPE_" + name.upper()): name for name in ("string", "bytes", "bool", "int64", "uint32")
}

# The text is a web page's: the sentence after a block may follow its brace on the same line, and comments hold facts.
OPENS = re.compile(r"^(message|enum|oneof) (\w+) \{$")
MEMBER = re.compile(r"^(?:(optional|repeated) )?(map<\w+, ?\w+>|\w+) (\w+) = (\d+);$")
VALUE = re.compile(r"^(\w+) = (\d+);$")


@dataclass
class Member:
    """A field or, without a type, an enum's value. `comment` is all that stands behind and below it."""

    name: str
    number: int
    type: str = ""
    label: str = ""
    oneof: str = ""
    comment: str = ""


@dataclass
class Block:
    kind: str
    name: str
    members: list[Member] = field(default_factory=list)


def blocks(text: str) -> Iterator[Block]:
    """Each message and enum of the text. Raises `ValueError` for a line inside one that is not understood."""
    block, oneof = None, ""
    for raw in text.splitlines():
        code, _, comment = raw.partition("//")
        code = code.strip()
        opened = OPENS.match(code)
        if opened and opened[1] != "oneof" and block is None:
            block = Block(opened[1], opened[2])
        elif block is None:
            continue
        elif opened:
            oneof = opened[2]
        elif code.startswith("}") and oneof:
            oneof = ""
        elif code.startswith("}"):
            yield block
            block = None
        elif not code:
            block.members[-1].comment += " " + comment
        elif block.kind == "enum" and (value := VALUE.match(code)):
            block.members.append(Member(value[1], int(value[2]), comment=comment))
        elif block.kind == "message" and (one := MEMBER.match(code)):
            block.members.append(Member(one[3], int(one[4]), one[2].replace(" ", ""), one[1] or "", oneof, comment))
        else:
            raise ValueError(f"{block.name}: {raw!r}")
    if block is not None:
        raise ValueError(f"{block.name} does not end")


def differences(text: str) -> list[str]:
    """Everything that the specification's text says and the descriptors do not, or the other way round."""
    package = re.findall(r"Package: ([\w.]+\w)", text)
    found = [f"package {name}" for name in package if name != FILES[0].package] or ([] if package else ["no package"])
    for block in blocks(text):
        if block.kind == "enum":
            found += enum_differences(block, ENUMS.get(block.name))
        else:
            found += message_differences(block, MESSAGES.get(block.name))
    return found


def enum_differences(block: Block, real: EnumDescriptor | None) -> list[str]:
    """A zero is ours where the specification has none; apart from it, the values are the same."""
    if real is None:
        return [f"enum {block.name} is missing"]
    given = {(member.name, member.number) for member in block.members}
    has = {(value.name, value.number) for value in real.values}
    ours = {(name, number) for name, number in has - given if number == 0 and name.endswith("_UNSPECIFIED")}
    return [f"enum {block.name}: {name} = {number}" for name, number in sorted(given ^ (has - ours))]


def message_differences(block: Block, real: Descriptor | None) -> list[str]:
    if real is None:
        return [f"message {block.name} is missing"]
    found = [f"{block.name}.{text}" for member in block.members for text in field_differences(member, real)]
    extra = {each.name for each in real.fields} - {member.name for member in block.members}
    return found + [f"{block.name}.{name} is not in the specification" for name in sorted(extra)]


def field_differences(member: Member, message: Descriptor) -> list[str]:
    real = message.fields_by_name.get(member.name)
    if real is None:
        return [f"{member.name} is missing"]
    oneof = real.containing_oneof
    synthetic = oneof is not None and oneof.name == "_" + real.name
    label = "repeated" if real.is_repeated and not is_map(real) else "optional" if synthetic else ""
    pairs = [
        ("number", member.number, real.number),
        ("type", member.type, type_name(real)),
        ("label", member.label, label),
        ("oneof", member.oneof, oneof.name if oneof is not None and not synthetic else ""),
    ]
    found = [f"{member.name}: {what} {said}, not {has}" for what, said, has in pairs if said != has]
    return found + comment_differences(member, real)


def comment_differences(member: Member, real: FieldDescriptor) -> list[str]:
    """What a comment lists: an enum's short values ("A | B"), or the fields of a message ("x_ms, y_mb")."""
    enum = real.enum_type or (
        real.message_type and getattr(real.message_type.fields_by_name.get("target"), "enum_type", None)
    )
    found = []
    if enum and "|" in member.comment:
        listed = [re.search(r"\b[A-Z][A-Z_]{2,}\b", part) for part in member.comment.split("|")]
        wanted = {word[0] for word in listed if word}
        has = {value.name for value in enum.values if value.number}
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
        found += [f"{real.name}: {enum.name} has {name}" for name in {prefix + word for word in wanted} ^ has]
    if member.type == "ExecutionMetrics" and real.message_type is not None:
        wanted = set(re.findall(r"\b\w+_(?:ms|mb|bytes)\b", member.comment))
        found += [f"{real.name}: {name}" for name in wanted ^ set(real.message_type.fields_by_name)]
    return found


def is_map(real: FieldDescriptor) -> bool:
    return bool(real.message_type and real.message_type.GetOptions().map_entry)


def type_name(real: FieldDescriptor) -> str:
    if is_map(real) and real.message_type is not None:
        key, value = (real.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{type_name(key)},{type_name(value)}>"
    named = real.message_type or real.enum_type
    return named.name if named else SCALARS[real.type]


TEXT = SPEC.read_text(encoding="utf-8")


def test_the_text_is_the_given_one() -> None:
    digest = "ae0dc1a7aed56bddf6c5b2a1fd5e75410d9417131c74db9737c8dc3c6f0d155d"
    assert hashlib.sha256(SPEC.read_bytes()).hexdigest() == digest


def test_nothing_drifted() -> None:
    assert differences(TEXT) == []


def test_every_block_of_the_text_is_read() -> None:
    names = [block.name for block in blocks(TEXT)]
    assert sorted(names) == sorted(re.findall(r"^(?:message|enum) (\w+) \{", TEXT, re.MULTILINE))
    assert len(names) == 14
    numbers = [member.number for block in blocks(TEXT) for member in block.members]
    assert len(numbers) == len(re.findall(r"= \d+;", TEXT)) == 83


def test_what_the_text_only_says_in_prose() -> None:
    assert set(ENUMS["CodeKind"].values_by_name) >= {"CODE_KIND_SDK", "CODE_KIND_PREBUILT"}
    assert {"image_ref", "registry_secret_ref"} == set(MESSAGES["PrebuiltImage"].fields_by_name)
    assert {"version"} == set(MESSAGES["PythonRuntime"].fields_by_name) == set(MESSAGES["DenoRuntime"].fields_by_name)
    assert {"target", "toolchain_version"} == set(MESSAGES["GoRuntime"].fields_by_name)
    assert [each.name for each in MESSAGES["InvokeFrame"].fields] == ["head", "chunk", "trailer"]
    assert {"status_code", "headers", "execution_id"} == set(MESSAGES["InvokeHead"].fields_by_name)


def spots(pattern: str, group: int) -> list[tuple[int, int]]:
    """Where a group matches inside the blocks of the text."""
    inside = [
        each.span() for each in re.finditer(r"^(?:message|enum) \w+ \{.*?^\}(?!$\n[^\n]* = \d+;)", TEXT, re.M | re.S)
    ]
    found = [each.span(group) for each in re.finditer(pattern, TEXT, re.MULTILINE)]
    return [each for each in found if any(start <= each[0] < end for start, end in inside)]


NUMBERS = spots(r"= (\d+);", 1)
NAMES = spots(r"(\w+) = \d+;", 1)
TYPES = spots(r"^(?:optional |repeated )?(map<[^>]+>|\w+) \w+ = \d+;", 1)
BLOCKS = spots(r"^(?:message|enum|oneof) (\w+) \{", 1)
LINES = spots(r"^[^\n]* = \d+;[^\n]*\n", 0)
# The one zero that the text gives itself; without it, it would be ours to add.
OURS_TO_ADD = "CODE_KIND_UNSPECIFIED = 0;"


def test_the_mutations_cover_the_text() -> None:
    assert len(NUMBERS) == len(NAMES) == len(LINES) == 83
    assert len(BLOCKS) == 14 + len(re.findall(r"^oneof ", TEXT, re.MULTILINE))
    assert len(TYPES) == sum(len(block.members) for block in blocks(TEXT) if block.kind == "message")


def told_apart(span: tuple[int, int], replacement: str) -> bool:
    mutated = TEXT[: span[0]] + replacement + TEXT[span[1] :]
    return bool(differences(mutated))


@pytest.mark.parametrize("span", NUMBERS, ids=lambda span: TEXT[max(0, span[0] - 40) : span[1]].split("\n")[-1])
def test_every_changed_number_is_noticed(span: tuple[int, int]) -> None:
    number = int(TEXT[slice(*span)])
    assert told_apart(span, str(number + 1))
    assert told_apart(span, str(number + 1000))


@pytest.mark.parametrize("span", NAMES + TYPES + BLOCKS, ids=lambda span: f"{TEXT[slice(*span)]}@{span[0]}")
def test_every_changed_name_and_type_is_noticed(span: tuple[int, int]) -> None:
    word = TEXT[slice(*span)]
    assert told_apart(span, word[:-1] + "x>" if word.endswith(">") else word + "X")


@pytest.mark.parametrize("span", LINES, ids=lambda span: TEXT[slice(*span)].split(";")[0])
def test_every_missing_line_is_noticed(span: tuple[int, int]) -> None:
    assert told_apart(span, "") == (OURS_TO_ADD not in TEXT[slice(*span)])


@pytest.mark.parametrize(
    "old, new",
    [
        ("PENDING | RUNNING | COMPLETED", "PENDING | STARTED | COMPLETED"),
        ("REQUEST_RATE (req/s) | CONCURRENCY", "REQUEST_RATE (req/s) | LATENCY"),
        ("COMPILATION | IMAGE (derived", "COMPILATION | CONTAINER (derived"),
        ("target: NATIVE | WASM", "target: NATIVE | WASI"),
        ("SMALL | MEDIUM | LARGE | XLARGE", "SMALL | MEDIUM | LARGE"),
        ("// cpu_used_ms, memory_used_mb", "// cpu_used_ms, memory_peak_mb"),
        ("optional uint32 memory_mb", "uint32 memory_mb"),
        ("repeated string public_urls", "string public_urls"),
        ("Package: dodil.ignite.v1", "Package: dodil.ignite.v2"),
    ],
)
def test_a_changed_comment_or_label_is_noticed(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert differences(TEXT.replace(old, new))


def test_a_line_that_is_not_understood_is_not_skipped() -> None:
    with pytest.raises(ValueError, match="AppMeta"):
        differences(TEXT.replace("string id = 1;", "string id == 1;", 1))
