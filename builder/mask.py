"""Secrets of a build that its lines may repeat, hidden in ten encodings however the output was cut. Pure.

The encodings: as it is, backwards, base64 with both alphabets, base32, hexadecimal in small and in capital letters,
percent-encoding, the escapes of JSON (and of C, Python, shells), the references of HTML. A secret is found inside what
was encoded with it, and where a program wraps its lines within it. Whoever can print a secret can spell it in a way
that nothing finds: this hides accidents, and what keeps a secret from code of the source is that it never gets one.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from builder.errors import BuildError

HIDDEN = "***"
LEAST = 8
"""Characters of a line of a secret. One that is shorter stays visible: it would hide words, and name itself so."""
MOST = 512
"""Characters that are looked for as a whole; of a longer line its parts are, each hidden by itself."""
HEAD = 8
"""Bytes of an encoded secret that may stand at the end of a line before its secret is known to go on in the next."""
WINDOW = 16 * 1024
"""Bytes of a cut line that wait for its next piece: any encoding of `MOST` characters fits."""
MOST_WAITING = 1024

_OPEN = (".username", ".known_hosts", ".host", ".version")
_ARMOR = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
_FOLD = re.compile(rb"(?<=[^\n])\n(?=[^\n])")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_FORM = re.compile(rb"%([0-9A-Fa-f]{2})|\+")
_ESCAPE = re.compile(
    rb"\\(?:u([Dd][89ABab][0-9A-Fa-f]{2})\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([0-3][0-7]{2})"
    rb"|([^\n]))"
)
_REFERENCE = re.compile(rb"&(?:#[0-9]{1,8}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z][A-Za-z0-9]{1,31});")
_CONTROLS = {b"b": b"\b", b"t": b"\t", b"n": b"\n", b"f": b"\f", b"r": b"\r"}

Undo = Callable[[re.Match[bytes]], bytes]
Place = tuple[int, int]


@dataclass(frozen=True)
class _Needle:
    """An encoded secret. `before`, `after`: whether the character there has bits of it, too."""

    data: bytes
    before: bool = False
    after: bool = False


@dataclass(frozen=True)
class _Escapes:
    """A way to write bytes. Text without `sign` has none of it."""

    sign: bytes
    pattern: re.Pattern[bytes]
    undo: Undo


class Mask:
    """What hides these secrets. It is false where there is nothing to hide."""

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = sorted({part for secret in secrets for part in _parts(secret)})
        needles = {needle.data: needle for part in parts for needle in _needles(part)}
        heads: dict[bytes, list[_Needle]] = defaultdict(list)
        for needle in sorted(needles.values(), key=lambda one: -len(one.data)):
            heads[needle.data[:HEAD]].append(needle)
        self._heads: Mapping[bytes, list[_Needle]] = dict(heads)
        self._starts = frozenset(data[:count] for data in needles for count in range(1, HEAD))
        self._escapes = (*_ESCAPES, _PLUS) if any(" " in part for part in parts) else _ESCAPES

    def __bool__(self) -> bool:
        return bool(self._heads)

    def text(self, text: str) -> str:
        """A whole text, of however many lines."""
        if not self._heads:
            return text
        return "\n".join(self.texts(text.split("\n")))

    def texts(self, texts: Iterable[str], *, resumed: bool = False) -> list[str]:
        """The lines of one text, which a secret may span; as many as came in. `resumed`: as for `lines`."""
        lines = self.lines(resumed=resumed)
        return [line for each in texts for line in lines.feed(each)] + lines.flush()

    def lines(self, *, resumed: bool = False) -> Lines:
        """One stream of lines. `resumed`: lines went before that are not known, so that it may begin in a secret."""
        return Lines(self, resumed)

    def look(self, text: bytes) -> tuple[list[Place], int]:
        """(where secrets are, where one begins that may go on behind the end; the end, where none does)."""
        found, begun = self._search(text, ())
        for escapes in self._escapes:
            if escapes.sign in text:
                found += self._search(text, (escapes,))[0]
        return _joined(found), begun

    def rest(self, text: bytes) -> tuple[list[Place], bool]:
        """Where a text begins inside a secret: (what it has of it, `HEAD` bytes or more; whether it may go on)."""
        undone = _Undone(text[:WINDOW], _LINES)
        plain = undone.text.translate(_STANDARD)
        head, end, is_open = plain[:HEAD], 0, False
        if len(head) < HEAD:
            return [], True
        for needle in (one for needles in self._heads.values() for one in needles):
            at = needle.data.find(head, 1)
            while at >= 0:
                left = needle.data[at:]
                if plain.startswith(left):
                    end = max(end, _widened(plain, 0, replace(needle, data=left, before=False))[1])
                elif left.startswith(plain):
                    end, is_open = len(plain), True
                at = needle.data.find(head, at + 1)
        return [_origin([undone], 0, end)] if end else [], is_open

    def _search(self, text: bytes, escapes: tuple[_Escapes, ...]) -> tuple[list[Place], int]:
        undone = text
        for each in (*escapes, _LINES):
            undone = each.pattern.sub(each.undo, undone)
        undone = undone.translate(_STANDARD)
        places, begun = self._places(undone)
        if not places:  # the usual case
            whole = escapes or begun == len(undone)
            return [], len(text) if whole else _Undone(text, _LINES).place(begun)[0]
        stages: list[_Undone] = []
        for each in (*escapes, _LINES):
            stages.append(_Undone(stages[-1].text if stages else text, each))
        found = [_origin(stages, start, end) for start, end in places]
        return found, _origin(stages, begun, begun + 1)[0] if begun < len(undone) else len(text)

    def _places(self, text: bytes) -> tuple[list[Place], int]:
        size = len(text)
        found: list[Place] = []
        begun = next((at for at in range(max(0, size - HEAD + 1), size) if text[at:] in self._starts), size)
        for head, needles in self._heads.items():  # a search for one is many times faster than a look at each place
            at = text.find(head)
            while at >= 0:
                for needle in needles:
                    if text.startswith(needle.data, at):
                        found.append(_widened(text, at, needle))
                        break
                    if at < begun and size - at < len(needle.data) and needle.data.startswith(text[at:]):
                        begun = at
                at = text.find(head, at + 1)
        return found, begun


class Lines:
    """Lines of one stream without the secrets: as many as came in, in their order, some of them later."""

    def __init__(self, mask: Mask, resumed: bool = False) -> None:
        self._mask, self._resumed = mask, resumed
        self._before = b""
        """The end of what was emitted, from where a secret begins in it, or may."""
        self._waiting: list[tuple[bytes, bytes]] = []
        """(what separates it from the one before, line)."""
        self._joint = b""

    def feed(self, line: str, *, cut: bool = False) -> list[str]:
        """The lines that are ready. `cut`: the next one is the rest of this line."""
        if not self._mask:
            return [line]
        self._waiting.append((self._joint, line.encode("utf-8", "replace")))
        self._joint = b"" if cut else b"\n"
        return self._ready(self._count_of_cut() if cut else None)

    def flush(self) -> list[str]:
        """All that wait. The stream may go on: what is left of a secret is hidden then, as its start is now, from
        `HEAD` bytes on."""
        return self._ready(0) if self._waiting else []

    def _count_of_cut(self) -> int:
        """How many stay until the next piece of a cut line is there."""
        count = total = 0
        for _, line in reversed(self._waiting):
            count += 1
            total += len(line)
            if total >= WINDOW or count == MOST_WAITING:
                break
        return count

    def _ready(self, stay: int | None) -> list[str]:
        """`stay`: how many lines wait on; None: as many as a secret may begin in."""
        text, places = self._before, list[Place]()
        for joint, line in self._waiting:
            text += joint
            places.append((len(text), len(text) + len(line)))
            text += line
        found, begun = self._mask.look(text)
        resumed = False
        if self._resumed:
            rest, resumed = self._mask.rest(text)
            found = _joined(found + rest)
        is_long = len(text) - begun >= HEAD
        if stay is None:
            stay = sum(end > begun for _, end in places) if is_long else 0
        count = len(places) - stay
        hidden = _joined([*found, (begun, len(text))]) if is_long and not stay else found
        done = [_hidden(text, place, hidden) for place in places[:count]]
        if count:
            self._resumed = resumed
            end = places[count - 1][1]
            goes_on = (start for start, stop in found if start < end < stop)  # in the next
            since = 0 if resumed else min([begun, *goes_on])
            self._before = text[max(since, end - WINDOW) : end]
            self._waiting = self._waiting[count:]
        return done


class _Withheld(Mask):
    """Hides each text, where the secrets that it may have are not known."""

    def __init__(self) -> None:
        super().__init__(())

    def __bool__(self) -> bool:
        return True

    def text(self, text: str) -> str:
        return text and _WITHHELD

    def lines(self, *, resumed: bool = False) -> Lines:
        return _WithheldLines(self, resumed)


class _WithheldLines(Lines):
    def feed(self, line: str, *, cut: bool = False) -> list[str]:
        return [line and _WITHHELD]

    def flush(self) -> list[str]:
        return []


_WITHHELD = "(withheld: a secret of this build cannot be opened)"


def mask_of(secrets: Mapping[str, str]) -> Mask:
    """The mask of what a claim brings along, by its name. User names, hosts, their keys and versions are no secrets."""
    return Mask(value for name, value in secrets.items() if not name.endswith(_OPEN))


def masked(error: BuildError, mask: Mask) -> BuildError:
    """The failure without the secrets that its words may repeat."""
    error.message, error.where, error.next = mask.text(error.message), mask.text(error.where), mask.text(error.next)
    error.said = tuple(mask.texts(error.said))
    error.args = (f"{error.reason}: {error.message}",)
    return error


def trace_of(error: BaseException, mask: Mask) -> str:
    """The traceback of an error for a log, without the secrets that its words may repeat, and without variables."""
    import traceback

    return mask.text("".join(traceback.format_exception(error)))


def _parts(secret: str) -> Iterator[str]:
    """The lines of a secret in parts that are looked for as a whole."""
    for line in map(str.strip, secret.splitlines()):
        if len(line) < LEAST or _ARMOR.fullmatch(line):
            continue
        count = max(1, len(line) // MOST)
        for number in range(count):
            yield line[number * len(line) // count : (number + 1) * len(line) // count]


def _needles(part: str) -> Iterator[_Needle]:
    data = part.encode("utf-8", "replace")
    for plain in (data, part[::-1].encode("utf-8", "replace"), data.hex().encode(), data.hex().upper().encode()):
        yield _Needle(plain.translate(_STANDARD))
    for encode, bits, group in ((base64.b64encode, 6, 3), (base64.b32encode, 5, 5)):
        for above in range(group):  # how many bytes stand before it in its group
            first, last = -(-8 * above // bits), 8 * (above + len(data)) // bits
            encoded = encode(bytes(above) + data)[first:last]
            yield _Needle(encoded, before=bool(8 * above % bits), after=bool(8 * (above + len(data)) % bits))


def _widened(text: bytes, at: int, needle: _Needle) -> Place:
    """Its place with the characters beside it that have bits of it, and what fills up the last group."""
    end = at + len(needle.data)
    if needle.before and at and text[at - 1] in _LETTERS:
        at -= 1
    if needle.after and end < len(text) and text[end] in _LETTERS:
        end += 1
        while text[end : end + 1] == b"=":
            end += 1
    return at, end


class _Undone:
    """A text whose escapes are undone, and where its bytes come from."""

    def __init__(self, text: bytes, escapes: _Escapes) -> None:
        self._starts: list[int] = []
        self._chunks: list[tuple[int, Place]] = []
        """The end of each chunk that was undone, beside its start, and the chunk's place in the text."""
        pieces: list[bytes] = []
        at = size = 0
        for found in escapes.pattern.finditer(text):
            undone = escapes.undo(found)
            pieces += (text[at : found.start()], undone)
            start = size + found.start() - at
            at, size = found.end(), start + len(undone)
            self._starts.append(start)
            self._chunks.append((size, found.span()))
        self.text = b"".join(pieces) + text[at:]

    def place(self, at: int) -> Place:
        """The place in the text that a byte stands for."""
        number = bisect_right(self._starts, at) - 1
        if number < 0:
            return at, at + 1
        end, whole = self._chunks[number]
        return whole if at < end else (at - end + whole[1], at - end + whole[1] + 1)


def _origin(stages: Sequence[_Undone], start: int, end: int) -> Place:
    """The place in the first text that a place in the last one stands for."""
    for stage in reversed(stages):
        start, end = stage.place(start)[0], stage.place(end - 1)[1]
    return start, end


def _joined(places: list[Place]) -> list[Place]:
    """In their order, none touching another."""
    joined: list[Place] = []
    for start, end in sorted(places):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _hidden(text: bytes, place: Place, found: list[Place]) -> str:
    """A line of the text without what was found."""
    (at, end), shown = place, b""
    for start, stop in found:
        if stop <= at or start >= end:
            continue
        shown += text[at : max(at, start)] + HIDDEN.encode()
        at = min(stop, end)
    return (shown + text[at:end]).decode("utf-8", "replace")


def _of_hex(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else b" "


def _of_escape(found: re.Match[bytes]) -> bytes:
    high, low, unit, byte, octal, char = found.groups()
    if high:
        code = 0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00
        return chr(code).encode()
    if unit:
        return chr(int(unit, 16)).encode("utf-8", "replace")
    if byte or octal:
        return bytes((int(byte, 16) if byte else int(octal, 8),))
    return _CONTROLS.get(char, char)


def _of_reference(found: re.Match[bytes]) -> bytes:
    import html  # its table of names takes a while, and few lines have one

    return html.unescape(found[0].decode()).encode("utf-8", "replace")


_LINES = _Escapes(b"\n", _FOLD, lambda found: b"")
_PLUS = _Escapes(b"+", _FORM, _of_hex)
_ESCAPES = (
    _Escapes(b"%", _PERCENT, _of_hex),
    _Escapes(b"\\", _ESCAPE, _of_escape),
    _Escapes(b"&", _REFERENCE, _of_reference),
)

NOTHING = Mask(())
WITHHELD = _Withheld()
