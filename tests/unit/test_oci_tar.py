"""Reading the tar of a layer: what Python's `tarfile` reads, within bounds, and nothing of what can be read twice."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.images.tar import MOST_HEADER, MOST_HEADERS, Damaged, Entry, Tar

KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.LNKTYPE: "hard",
    tarfile.SYMTYPE: "link",
    tarfile.DIRTYPE: "folder",
    tarfile.CHRTYPE: "",
    tarfile.FIFOTYPE: "",
}
END = bytes(1024)


class Counting(io.BytesIO):
    """How many bytes are asked for at most, in one call."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None and size > 0
        self.largest = max(self.largest, size)
        return super().read(size)


class Endless:
    """A tar that begins with `head` and goes on with `body` for ever."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.waiting, self.body, self.given = head, body, 0

    def read(self, size: int, /) -> bytes:
        while len(self.waiting) < size:
            self.waiting += self.body
        part, self.waiting = self.waiting[:size], self.waiting[size:]
        self.given += len(part)
        return part


def header(name: bytes = b"x", kind: bytes = b"0", **fields: Any) -> bytes:
    """A ustar header; `size` and `mode` are numbers, or the bytes of the field."""
    size, mode = fields.get("size", 0), fields.get("mode", 0o644)
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = mode if isinstance(mode, bytes) else b"%07o\0" % mode
    block[108:124] = fields.get("owner", b"0000000\0" * 2)
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    target, prefix = fields.get("target", b""), fields.get("prefix", b"")
    block[157 : 157 + len(target)] = target
    block[257:265] = fields.get("magic", b"ustar\x0000")
    block[345 : 345 + len(prefix)] = prefix
    block[508:512] = fields.get("tail", b"\0\0\0\0")
    total = sum(block) if not fields.get("signed") else sum(b - 256 if b > 127 else b for b in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    return b"%d %s=%s\n" % (length + (len(str(length)) != len(str(rest))), key, value)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def before(kind: bytes, data: bytes) -> bytes:
    return header(b"before", kind, size=len(data)) + padded(data)


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    tar = Tar(io.BytesIO(data))
    return [(entry, b"".join(map(bytes, tar.data())) if entry.kind == "file" else b"") for entry in tar]


def one(data: bytes) -> Entry:
    ((entry, _),) = read(data)
    return entry


names = st.lists(st.sampled_from(["a", "ü", "long" * 40, ".wh.x", "b c", "\udcff"]), min_size=1, max_size=4).map(
    "/".join
)
members = st.lists(
    st.tuples(
        names, st.sampled_from(sorted(KINDS)), names, st.binary(max_size=1500), st.sampled_from([0, 0o644, 0o7777])
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(members, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_it_reads_what_tarfile_reads(found: list[tuple[str, bytes, str, bytes, int]], form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, kind, target, data, mode in found:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.pax_headers = kind, mode, {"SCHILY.xattr.user.x": "y"}
            info.linkname = target if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar has no room for the name
                return
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), encoding="utf-8", errors="surrogateescape") as tar:
        known = [
            (each.name, KINDS[each.type], each.mode, each.linkname, (tar.extractfile(each) or io.BytesIO()).read())
            for each in tar
            if each.isreg()
        ] + [(each.name, KINDS[each.type], each.mode, each.linkname, b"") for each in tar if not each.isreg()]
    ours = [(each.name.rstrip("/"), each.kind, each.mode, each.target, data) for each, data in read(out.getvalue())]
    assert sorted(ours) == sorted(known) and [row[0] for row in ours] == [row[0].rstrip("/") for row in found]


def test_the_end_is_a_block_of_zeros_or_the_end_of_the_bytes() -> None:
    entry = header(b"a")
    for end in (b"", bytes(512), END, END + b"behind it" * 100):
        assert [each.name for each, _ in read(entry + end)] == ["a"]
    assert read(b"") == read(END) == []


def test_data_that_nobody_reads_is_passed_over() -> None:
    data = header(b"a", size=1000) + padded(b"a" * 1000) + header(b"b", size=3) + padded(b"bbb") + END
    tar = Tar(io.BytesIO(data))
    assert [entry.name for entry in tar] == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        header(b"a") + b"x" * 512 + END,
        header(b"a")[:300],
        header(b"a") + header(b"b")[:511],
        header(b"a", size=600) + b"x" * 599,
        header(b"a", size=600) + b"x" * 600,
        header(b"a", size=b"\xff" + b"\xff" * 11),
        header(b"a", size=b"\xff" * 11 + b"\x01"),
        header(b"a", size=b"0000000009x\0"),
        header(b"a", size=b"\x0000000000777"),
        header(b"a", mode=b"-000644\0"),
        before(b"x", record(b"size", b"-511")) + header(b"a", size=512) + bytes(512) + END,
        before(b"x", record(b"size", b"1_0")) + header(b"a", size=512) + bytes(512) + END,
        before(b"x", record(b"size", "²".encode())) + header(b"a") + END,
        before(b"x", record(b"size", b"9" * 5000)) + header(b"a") + END,
        before(b"x", b"99 path=b\n") + header(b"a") + END,
        before(b"x", b"5 x=1\n") + header(b"a") + END,
        before(b"x", b"1" * 100_000) + header(b"a") + END,
        before(b"x", b"no record") + header(b"a") + END,
        before(b"x", record(b"", b"b")) + header(b"a") + END,
        before(b"x", record(b"path", b"b")) + END,
        before(b"L", b"b") + END,
        before(b"L", b"b"),
        header(b"l", b"L", size=600) + b"x" * 10,
    ],
)
def test_what_is_damaged_is_said_to_be(data: bytes) -> None:
    with pytest.raises(Damaged):
        read(data)


@pytest.mark.parametrize("kind", [b"x", b"X", b"g", b"L", b"K"])
def test_a_header_without_end_is_not_read(kind: bytes) -> None:
    """tarfile reads it whole: eight GiB of zeros are eight MiB of gzip."""
    source = Endless(header(kind=kind, size=0o77777777777), bytes(4096))
    with pytest.raises(Damaged, match="are allowed"):
        list(Tar(source))
    assert source.given <= MOST_HEADER + 512


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_headers_before_headers_have_an_end(kind: bytes) -> None:
    """tarfile takes each by a call within the call before it."""
    said = record(b"comment", b"x") if kind in (b"x", b"g") else b"name"
    assert one(before(kind, said) * MOST_HEADERS + header(b"a") + END)
    source = Endless(b"", before(kind, said))
    with pytest.raises(Damaged, match="more than"):
        list(Tar(source))


@pytest.mark.parametrize(
    "said",
    [record(b"GNU.sparse.map", b"a"), record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")],
)
def test_a_sparse_file_is_called_one_and_its_map_not_read(said: bytes) -> None:
    assert one(before(b"x", said) + header(b"a", size=512) + b"no map" + bytes(506) + END).kind == "sparse"
    assert one(header(b"a", b"S", size=512) + bytes(512) + END).kind == "sparse"


def test_reads_are_bounded_whatever_an_entry_states() -> None:
    source = Counting(header(b"a", size=5_000_000) + bytes(5_000_000) + bytes(-5_000_000 % 512) + END)
    tar = Tar(source)
    assert sum(len(part) for _ in tar for part in tar.data()) == 5_000_000
    assert source.largest <= 1024 * 1024


def test_names_come_from_where_go_takes_them() -> None:
    pax, gnu, long = (
        before(b"x", record(b"path", b"pax") + record(b"linkpath", b"to")),
        before(b"L", b"gnu\0"),
        b"n" * 200,
    )
    assert one(pax + header(b"own") + END).name == "pax"
    assert one(pax + header(b"own", b"2", target=b"there") + END).target == "to"
    assert one(pax + gnu + header(b"own") + END).name == one(gnu + pax + header(b"own") + END).name == "gnu"
    assert one(before(b"K", long) + header(b"own", b"2") + END).target == long.decode()
    assert one(pax + before(b"x", record(b"mtime", b"1")) + header(b"own") + END).name == "own", "the last one holds"
    assert one(before(b"x", record(b"path", b"")) + header(b"own") + END).name == "own"
    said = record(b"path", b"everywhere") + record(b"size", b"99999")
    assert [each.name for each, _ in read(before(b"g", said) + header(b"a") + header(b"b") + END)] == ["a", "b"]


def test_only_ustar_has_a_prefix() -> None:
    """GNU keeps times there, and v7 nothing that is known."""
    assert one(header(b"n", prefix=b"p") + END).name == "p/n"
    times = b"13456701234\0" * 2
    assert one(header(b"n", prefix=times, magic=b"ustar  \0") + END).name == "n"
    assert one(header(b"n", prefix=b"p" * 94, magic=b"ustar  \0") + END).name == "p" * 94 + "/n", "Go before 1.8"
    assert one(header(b"n", prefix=b"\xff" * 12, magic=b"ustar  \0") + END).name == "n", "times before 1970"
    assert one(header(b"n", prefix=b"p", magic=bytes(8)) + END).name == "n"
    assert one(header(b"n", prefix=b"p" * 155, tail=b"tar\0") + END).name == "p" * 131 + "/n"


def test_numbers_as_writers_have_them() -> None:
    for size in (b"00000001750\0", b"       1750 ", b"1750\0\0\0\0\0\0\0\0", b"\x80" + (1000).to_bytes(11, "big")):
        assert one(header(b"a", size=size) + padded(bytes(1000)) + END).size == 1000
    assert one(header(b"a", size=bytes(12), mode=b"        ") + END) == Entry(
        name="a", kind="file", mode=0, size=0, target="", uid=0, gid=0
    )
    for size in (b"1000", b"+1000", b"0" * 20 + b"1000"):
        assert one(before(b"x", record(b"size", size)) + header(b"a") + padded(bytes(1000)) + END).size == 1000


def test_who_owns_an_entry_is_known_where_its_header_says_it() -> None:
    large = b"\x80" + (70000).to_bytes(7, "big")
    found = one(header(b"a", owner=b"0001750\0" + large) + END)
    assert (found.uid, found.gid) == (1000, 70000)
    found = one(before(b"x", record(b"uid", b"2000000") + record(b"gid", b"x")) + header(b"a") + END)
    assert (found.uid, found.gid) == (2000000, -1)
    for field in (bytes(8), b"        ", b"\xff" * 8, b"nobody\0\0"):
        assert one(header(b"a", owner=field * 2) + END).uid == -1, "an owner that is none damages nothing"


def test_old_checksums_are_taken() -> None:
    assert one(header(b"\xfc\xfd", signed=True) + END).name == one(header(b"\xfc\xfd") + END).name == "\udcfc\udcfd"


def test_what_has_no_data_states_none() -> None:
    """tar of a hard link may state the size of what it leads to."""
    for kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        assert [each.name for each, _ in read(header(b"a", kind, size=700) + header(b"b") + END)] == ["a", "b"]
    unknown = header(b"a", b"Z", size=700) + padded(b"x" * 700)
    assert [(each.name, each.kind) for each, _ in read(unknown + header(b"b") + END)] == [("a", ""), ("b", "file")]
    assert one(header(b"a/", b"\0", magic=bytes(8)) + END).kind == "folder"


@pytest.mark.parametrize("change", [lambda r: bytes([r.randrange(256)]), lambda r: b"", lambda r: r.randbytes(3)])
def test_whatever_is_changed_it_is_read_or_damaged(change: Callable[[random.Random], bytes]) -> None:
    whole = before(b"x", record(b"path", b"pax")) + before(b"L", b"gnu") + header(b"a", size=700) + padded(b"x" * 700)
    chance = random.Random(6)
    for _ in range(2000):
        at = chance.randrange(len(whole))
        try:
            read(whole[:at] + change(chance) + whole[at + 1 :] + END)
        except Damaged:
            continue
