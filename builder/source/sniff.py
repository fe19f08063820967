"""What the bytes are, by content and never by name."""

from __future__ import annotations

import enum
import re
import zlib
from contextlib import suppress

from builder.source.decode import codec_of
from builder.source.entry import shown


class SourceKind(enum.Enum):
    """What a source can be. OTHER is refused and named by `describe`."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_XZ = "tar.xz"
    TAR_BZ2 = "tar.bz2"
    TAR_ZST = "tar.zst"
    TEXT = "text"
    EMPTY = "empty"
    OTHER = "other"


ARCHIVES = (
    SourceKind.ZIP,
    SourceKind.TAR,
    SourceKind.TAR_GZ,
    SourceKind.TAR_XZ,
    SourceKind.TAR_BZ2,
    SourceKind.TAR_ZST,
)
NEEDED = "a ZIP or a tar, plain or compressed by gzip, xz, bzip2 or Zstandard, is needed"
BY_CODEC = {"xz": SourceKind.TAR_XZ, "bzip2": SourceKind.TAR_BZ2, "Zstandard": SourceKind.TAR_ZST}

HEAD_BYTES = 4096
BLOCK = 512

_GZIP = b"\x1f\x8b"
# Enough to name it where libmagic is missing or has no name for it.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "an ELF executable"),
    (b"7z\xbc\xaf'\x1c", "a 7-zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"MZ", "a Windows executable"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_UNNAMED = "no archive and no text"


def sniff(head: bytes) -> SourceKind:
    """The kind of a source from its first 4 KiB (or all of it)."""
    if not head:
        return SourceKind.EMPTY
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return SourceKind.ZIP
    if head.startswith(_GZIP):
        return SourceKind.TAR_GZ if _holds_tar(head) else SourceKind.OTHER
    if codec := codec_of(head):  # what is inside shows when it is read: a block of bzip2 is longer than a head
        return BY_CODEC[codec.name]
    if looks_like_tar(head):
        return SourceKind.TAR
    if b"\0" not in head and _is_utf8(head):
        return SourceKind.TEXT
    return SourceKind.OTHER


def describe(head: bytes) -> str:
    """Words for a person ("a PNG image", "a gzip of a PDF document"), from libmagic where it is installed."""
    if head.startswith(_GZIP):
        inner, _ = _inflate_head(head)
        return (
            f"a gzip of {'text' if sniff(inner) is SourceKind.TEXT else describe(inner)}" if inner else "an empty gzip"
        )
    name = ""
    # Not installed, without its database, or unhappy with hostile bytes: a name is never worth a crash.
    with suppress(Exception):
        import magic

        name = _words(str(magic.from_buffer(head[:HEAD_BYTES])))
    # Releases of libmagic differ in what they know: 5.46 calls a small ZIP "data".
    return name or next((words for start, words in _SIGNATURES if head.startswith(start)), _UNNAMED)


def is_tar(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: the checksum of POSIX 1003.1 (pax, "ustar Interchange Format").

    Early writers summed signed characters; readers have accepted both ever since.
    """
    if len(block) < BLOCK or not block[:BLOCK].strip(b"\0"):
        return False
    field = block[148:156].strip(b" \0")
    if not re.fullmatch(rb"[0-7]+", field):
        return False
    stated, head = int(field, 8), block[:148] + b" " * 8 + block[156:BLOCK]
    total = sum(head)
    return stated == total or (not head.isascii() and stated == total - 256 * sum(byte > 127 for byte in head))


def looks_like_tar(head: bytes) -> bool:
    """A tar by its magic (ustar, pax, GNU), by its checksum (v7), or an empty one: zeros to the end block."""
    if head[257:262] == b"ustar" and head[262:263] in (b"\0", b" ") and b"\0" in head[:BLOCK]:
        return True
    return is_tar(head) or (len(head) >= BLOCK and not head.strip(b"\0"))


def _holds_tar(head: bytes) -> bool:
    inner, ended = _inflate_head(head)
    # What is cut off or damaged this early cannot be judged; reading it as a tar gives the exact reason.
    return looks_like_tar(inner) or (not ended and len(inner) < BLOCK)


def _inflate_head(head: bytes) -> tuple[bytes, bool]:
    """(the first bytes inside a gzip, whether it ends there)."""
    inflater = zlib.decompressobj(31)
    try:
        return inflater.decompress(head, HEAD_BYTES), inflater.eof
    except zlib.error:
        return b"", False


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # a head of 4 KiB may end inside a character of up to 4 bytes; a whole file may not
        return error.reason == "unexpected end of data" and len(head) == HEAD_BYTES
    return True


def _words(name: str) -> str:
    """libmagic's name as part of a sentence; empty when it has none."""
    name = shown(re.sub(r"\s*\(.*", "", name.partition(",")[0])).strip()
    if name in ("", "data"):
        return ""
    if name.endswith("compressed data") or name.startswith("Unicode text"):
        return name
    name = name.removesuffix(" data")
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"
