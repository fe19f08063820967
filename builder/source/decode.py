"""Decoders of compressed tars: gzip, xz, bzip2, Zstandard. Each is bounded in memory, whatever a header names.

Streams that follow each other count as one, as every tool reads them (pbzip2 and pzstd write many). Anything else
behind a stream is refused: two readers must never see two archives. Zeros behind gzip end it (GNU gzip pads tapes so);
a stream behind them is refused, which GNU gzip leaves out and Python's gzip reads.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from isal import igzip_lib

from builder.errors import BuildError
from builder.source.entry import unreadable
from builder.source.limits import MIB, too_large
from builder.text import size as in_words

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMORY = 96 * MIB
"""What a decoder may allocate: `xz -9` asks for 65 MiB."""
WINDOW_LOG = 26
"""Zstandard's window in bits: 64 MiB. `zstd -19` has 8 MiB; `--ultra -22` and `--long` ask for 128 MiB."""
MOST_STREAMS = 4096
"""pbzip2 begins one every 900 KB: 600 in the largest source."""
MOST_MEMBERS = 16_384
"""gzip has more of them: bgzip begins one every 64 KiB."""
CHUNK = 256 * 1024
XZ, ZSTD = b"\xfd7zXZ\0", b"(\xb5/\xfd"
BZIP2 = tuple(b"BZh%d" % level + then for level in range(1, 10) for then in (b"1AY&SY", b"\x17rE8P\x90"))
"""Level and the first block, or the end of an empty stream: a text may start with `BZh`."""
SKIPPABLE = tuple(bytes((0x50 + low, 0x2A, 0x4D, 0x18)) for low in range(16))
"""Frames of Zstandard that hold no data (RFC 8878, 3.1.2)."""


class Decompressor(Protocol):
    """What the three libraries share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A compression: how its streams start, what reads one, what its library raises."""

    name: str
    magic: tuple[bytes, ...]
    make: Callable[[], Decompressor]
    errors: tuple[type[Exception], ...]
    streams: int = MOST_STREAMS
    padded: bool = False
    """Whether zeros may stand behind the last stream."""


GZIP = Codec(
    name="gzip",
    magic=(b"\x1f\x8b",),
    make=lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    errors=(igzip_lib.IsalError,),  # type: ignore[arg-type]  # its stub has an instance
    streams=MOST_MEMBERS,
    padded=True,
)
CODECS = (
    Codec(
        name="xz",
        magic=(XZ,),
        make=lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY),
        errors=(lzma.LZMAError,),
    ),
    Codec(name="bzip2", magic=BZIP2, make=bz2.BZ2Decompressor, errors=(OSError, ValueError)),
    Codec(
        name="Zstandard",
        magic=(ZSTD, *SKIPPABLE),
        make=lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}),
        errors=(zstd.ZstdError,),
    ),
)


def codec_of(head: bytes) -> Codec | None:
    """The compression beside gzip that bytes start with, by its magic."""
    return next((codec for codec in CODECS if head.startswith(codec.magic)), None)


class Decoded:
    """Reads of what the streams of a file hold, at most `size` bytes each; none only at the end."""

    def __init__(self, file: BinaryIO, codec: Codec) -> None:
        self._file, self._codec = file, codec
        self._one: Decompressor | None = None
        self._rest = b""
        self._streams = 0

    def read(self, size: int) -> bytes:
        """Raises `BuildError` ArchiveUnreadable, ArchiveTooLarge."""
        while True:
            one = self._one or self._next()
            if one is None:
                return b""
            given = b""
            if one.needs_input:
                given, self._rest = self._rest or self._file.read(CHUNK), b""
                if not given:
                    raise unreadable(f"the archive is cut off in the middle of its {self._codec.name} stream")
            try:
                data = one.decompress(given, size)
            except self._codec.errors as error:
                raise self._judged(error) from None
            self._one = one
            if one.eof:
                self._one, self._rest = None, one.unused_data
            if data:
                return data

    def _next(self) -> Decompressor | None:
        """The decoder of the next stream; None at the end of the file."""
        longest = max(map(len, self._codec.magic))
        while len(self._rest) < longest and (more := self._file.read(CHUNK)):
            self._rest += more
        if not self._rest or (self._codec.padded and self._streams and self._only_zeros()):
            return None
        if not self._rest.startswith(self._codec.magic):
            raise unreadable(f"there is more after the end of the {self._codec.name} stream")
        self._streams += 1
        if self._streams > (most := self._codec.streams):
            raise too_large(f"more than {most} {self._codec.name} streams", str(most))
        return self._codec.make()

    def _only_zeros(self) -> bool:
        """Read zeros up to the end of the file; False where there is none."""
        if self._rest[:1] != b"\0":
            return False
        while self._rest:
            if self._rest.strip(b"\0"):
                raise unreadable(f"there is more after the zeros behind the {self._codec.name} stream")
            self._rest = self._file.read(CHUNK)
        return True

    def _judged(self, error: Exception) -> BuildError:
        text = str(error)
        if "emory" in text:  # lzma: "Memory usage limit exceeded"; zstd: "Frame requires too much memory for decoding"
            limit = MEMORY if self._codec.name == "xz" else 1 << WINDOW_LOG
            found = f"its {self._codec.name} stream asks for more memory than a decoder may take"
            return too_large(found, in_words(limit))
        return unreadable(f"the {self._codec.name} stream is damaged: {text[:200]}")
