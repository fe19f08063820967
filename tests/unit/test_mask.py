"""Secrets in lines: each encoding, cut and wrapped anywhere, is hidden; everything else passes as it is."""

from __future__ import annotations

import base64
import codecs
import html
import json
import textwrap
from collections.abc import Callable, Sequence
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from builder import mask
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.mask import HEAD, HIDDEN, LEAST, MOST, NOTHING, WINDOW, Lines, Mask, masked
from builder.sandbox.lines import LineSplitter
from builder.services.checks import hide
from builder.text import log_line

TOKEN = "ghp_x/9+Q&\"é'\\0123"
Encode = Callable[[str], str]


def _url64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


ENCODINGS: dict[str, Encode] = {
    "plain": str,
    "backwards": lambda text: text[::-1],
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url": _url64,
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "percent": quote,
    "json": json.dumps,
    "html": html.escape,
}
MORE: dict[str, Encode] = {
    "percent, all": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "form": quote_plus,
    "json, all": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "json, not ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "C": lambda text: "".join(f"\\x{byte:02X}" for byte in text.encode()),
    "octal": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "python": repr,
    "html, numbers": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "html, hex": lambda text: "".join(f"&#X{ord(c):04X};" for c in text),
    "base64 without padding": lambda text: _url64(text).rstrip("="),
    "base64 inside a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "login": lambda text: base64.b64encode(f"ada:{text}".encode()).decode(),
    "a config": lambda text: base64.b64encode(json.dumps({"a": {"token": text}}, ensure_ascii=False).encode()).decode(),
}


def shown(lines: Lines, fed: Sequence[tuple[str, bool]]) -> list[str]:
    return [line for text, cut in fed for line in lines.feed(text, cut=cut)] + lines.flush()


def through(mask: Mask, data: bytes, cuts: Sequence[int] = (), limit: int = 16 * 1024) -> str:
    """As a step's output goes into the log: read in pieces, split into lines, and these cut."""
    splitter, lines, at = LineSplitter(limit), mask.lines(), 0
    read: list[bytes] = []
    for cut in sorted(cuts):
        read += splitter.feed(data[at:cut])
        at = max(at, cut)
    read += splitter.feed(data[at:]) + splitter.close()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    fed = [(log_line(decoder.decode(line, final=len(line) < limit)), len(line) == limit) for line in read]
    found = shown(lines, fed)
    assert len(found) == len(fed), "as many lines as came in"
    return "".join(line + ("" if cut else "\n") for line, (_, cut) in zip(found, fed, strict=True))


@pytest.mark.parametrize("name", ENCODINGS | MORE)
def test_a_secret_is_hidden_in_each_encoding_at_each_alignment(name: str) -> None:
    assert len(ENCODINGS) == 10
    encode = (ENCODINGS | MORE)[name]
    plain = TOKEN.replace("\\", "").replace('"', "") if name == "a config" else TOKEN
    mask = Mask([plain])
    for above in range(6):
        for text in (encode(plain), encode("x" * above + plain + "yz"), f"a {encode(plain)} b"):
            said = mask.text(text)
            assert HIDDEN in said, (text, said)
            assert encode(plain).strip("\"'") not in said
    assert mask.text(f"token={encode(plain)}!") in {f"token={HIDDEN}!", f'token="{HIDDEN}"!', f"token='{HIDDEN}'!"} | {
        mask.text(f"token={encode(plain)}!") if name in ("login", "a config") else ""
    }


@pytest.mark.parametrize("name", ENCODINGS)
def test_no_split_of_the_output_lets_one_through(name: str) -> None:
    """Each place to cut it in two reads, and a limit of lines at each of its bytes."""
    text, mask = ENCODINGS[name](TOKEN).strip('"'), Mask([TOKEN])
    data = f"before {text} after\nnext\n".encode()
    for cut in range(len(data) + 1):
        assert through(mask, data, [cut]) == f"before {HIDDEN} after\nnext\n"
    for limit in range(1, len(data) + 1):
        said = through(mask, data, limit=limit).replace("\n", "")
        assert text not in said and said.replace(HIDDEN, "") == "before  afternext"


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name not in ("percent", "json", "html")])
@pytest.mark.parametrize("width", [1, 3, 4, HEAD - 1, HEAD, 20])
def test_what_a_program_wraps_is_hidden_but_for_its_first_characters(name: str, width: int) -> None:
    secret = "github_pat_11ABCDEFG0123456789_abcdefghijklmnop"
    text, mask = ENCODINGS[name](secret), Mask([secret])
    wrapped = "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
    for above in ("", "x", "output of a step:\n", "aa\nbb "):
        said = through(mask, (above + wrapped + "\nafter\n").encode())
        rest = said.removeprefix(above).removesuffix("after\n").replace(HIDDEN, "").replace("\n", "").rstrip("=")
        # Its first characters, and the last one of a group that it does not fill.
        assert text.startswith(rest[:-1]) and len(rest) <= HEAD, said


@pytest.mark.parametrize("split", range(1, len(TOKEN)))
def test_one_across_two_pieces_is_hidden_also_where_a_third_follows(split: int) -> None:
    first, second = "." * (WINDOW - split) + TOKEN[:split], TOKEN[split:].ljust(WINDOW, ".")
    found = shown(Mask([TOKEN]).lines(), [(first, True), (second, True), ("." * WINDOW, True), ("", False)])
    assert [line.strip(".") for line in found] == [HIDDEN, HIDDEN, "", ""]


def test_the_end_of_one_that_begins_like_another_is_hidden() -> None:
    secret = "12345678X12345678"
    lines = Mask([secret]).lines()
    assert shown(lines, [(secret[:9], False), (secret[9:], False), ("next", False)]) == [HIDDEN, HIDDEN, "next"]


def test_where_bytes_come_from_is_asked_for_a_text_with_a_secret_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Undone(mask._Undone):
        def __init__(self, text: bytes, escapes: mask._Escapes) -> None:
            asked.append(escapes)
            super().__init__(text, escapes)

    monkeypatch.setattr(mask, "_Undone", Undone)
    text = "&lt;%41\\u0041" * 100 + TOKEN[0]  # a secret may begin at its end
    assert Mask([TOKEN]).text(text) == text and asked == [mask._LINES]


def test_secrets_without_an_end_are_looked_at_once() -> None:
    lines = Mask([TOKEN]).lines()
    for _ in range(8):
        lines.feed((TOKEN * WINDOW)[:WINDOW], cut=True)
    assert len(lines._before) <= WINDOW


def test_a_flush_in_the_middle_hides_what_follows() -> None:
    lines = Mask([TOKEN]).lines()
    text = base64.b64encode(TOKEN.encode()).decode()
    first = lines.feed(text[:10])
    assert not first, "it may be the beginning"
    assert lines.flush() == [HIDDEN] and lines.feed(text[10:]) + lines.flush() == [HIDDEN]
    lines = Mask([TOKEN]).lines()
    assert lines.feed(text[: HEAD - 1]) + lines.flush() == [text[: HEAD - 1]], "too little to tell"


LONG = "github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name not in ("percent", "json", "html")])
@pytest.mark.parametrize("width", [HEAD, 20, 76])
def test_what_is_wrapped_is_hidden_though_each_part_comes_alone(name: str, width: int) -> None:
    """Batches of a log, each looked at by a process that knows none of the others."""
    mask = Mask([LONG])
    lines = textwrap.wrap(ENCODINGS[name](LONG), width, break_on_hyphens=False)
    for size in range(1, len(lines) + 1):
        batches = [lines[at : at + size] for at in range(0, len(lines), size)]
        found = [mask.texts(["a step", *batches[0]]), *(mask.texts(batch, resumed=True) for batch in batches[1:])]
        assert list(map(len, found)) == [len(batches[0]) + 1, *map(len, batches[1:])]
        for batch, shown in zip(batches, [found[0][1:], *found[1:]], strict=True):
            left = "".join(shown).replace(HIDDEN, "").rstrip("=")
            # Too little to tell, and the last character of a group that the secret does not fill.
            assert len(left) <= HEAD and left in "".join(batch), (size, found)


def test_a_batch_that_only_begins_like_a_part_passes_as_it_is() -> None:
    mask = Mask([LONG])
    for text in ("ABCDEFG0 is a grid", "0123456789_abcdefgh", "abcdefghijklmnop.", "z0123456789"):
        inside = text in LONG
        assert mask.texts([text], resumed=True) == [HIDDEN if inside else text]
        assert mask.texts(["a line", text], resumed=True)[1:] == [text], "no line went before that is not known"
    assert mask.texts([LONG[20:] + " and more", "x"], resumed=True) == [f"{HIDDEN} and more", "x"]
    assert mask.texts(["", LONG[20:]], resumed=True) == ["", LONG[20:]]


def test_the_lines_of_a_failure_are_hidden_as_one_text() -> None:
    text = base64.b64encode(LONG.encode()).decode()
    error = masked(BuildError("StepFailed", "m", said=("words", text[:76], text[76:])), Mask([LONG]))
    assert error.said == ("words", HIDDEN, HIDDEN)
    failure = pb.Failure(said=[text[40:76], text[76:], "words"])
    hide(failure, Mask([LONG]))
    assert list(failure.said) == [HIDDEN, HIDDEN, "words"]


def test_each_line_of_a_key_is_hidden_by_itself() -> None:
    body = [f"{number:02}" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU" for number in range(8)]
    key = "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *body, "-----END OPENSSH PRIVATE KEY-----", ""])
    mask = Mask([key])
    said = mask.text(f"$ cat key\n{key}")
    assert said.split("\n")[2:-2] == [HIDDEN] * 8 and "BEGIN OPENSSH" in said
    for name, encode in (ENCODINGS | MORE).items():
        said = mask.text(encode(key))
        assert not any(encode(line).strip("\"'=")[2:-2] in said for line in body), name


def test_a_long_secret_is_hidden_in_parts() -> None:
    secret = "".join(f"{number:x}." for number in range(3 * MOST))
    mask = Mask([secret])
    for name, encode in (ENCODINGS | MORE).items():
        said = mask.text(encode(secret))
        assert len(said.replace(HIDDEN, "")) < len(secret) // 10, (name, said[:300])


def test_several_secrets_are_hidden_where_they_overlap() -> None:
    mask = Mask(["abcdefgh1234", "1234efghijkl", "abcdefgh", "12345678"])
    assert mask.text("<abcdefgh1234efghijkl>") == f"<{HIDDEN}>"
    assert mask.text("abcdefgh 12345678") == f"{HIDDEN} {HIDDEN}"


def test_a_colour_inside_a_secret_does_not_show_it() -> None:
    assert through(Mask(["ghp_0123456789"]), b"x ghp_01\x1b[1m234567\x1b[m89\n") == f"x {HIDDEN}\n"


def test_what_is_too_short_hides_nothing() -> None:
    assert LEAST == 8
    assert not Mask(["", "short", "a\nb\nc"]) and not NOTHING and Mask(["exactly8"])
    assert Mask(["short"]).text("short") == "short" and NOTHING.lines().feed("x") == ["x"]


SECRETS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=LEAST, max_size=40)
NOISE = st.text(st.sampled_from("aZ0 =+/%\\&;#x-_\n'\"é"), max_size=30)


@pytest.mark.slow
@given(SECRETS, st.sampled_from(sorted(ENCODINGS | MORE)), NOISE, NOISE, st.lists(st.integers(0, 400)),
       st.integers(1, 80))  # fmt: skip
@example("00000000", "base64", "", "", [], 3)
def test_no_secret_shows_whatever_stands_around_it(
    secret: str, name: str, before: str, after: str, cuts: list[int], limit: int
) -> None:
    assume(secret == secret.strip() and len(secret.splitlines()) == 1)
    if name == "json, all":
        assume(all(ord(c) < 0x10000 for c in secret))
    text = (ENCODINGS | MORE)[name](secret)
    if name == "a config":
        assume(json.dumps(secret, ensure_ascii=False) == f'"{secret}"')
    assume(text not in before + HIDDEN and text not in HIDDEN + after)
    said = through(Mask([secret]), f"{before} {text} {after}\n".encode(), cuts, limit)
    joined = "".join(said.split("\n")) if "\n" not in text else said
    assert text not in said and text not in joined


OTHER = st.text(st.sampled_from("=+/%\\&;#\n'\" éΩ漢\t") | st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF))


@given(st.lists(st.tuples(OTHER, st.booleans())))
def test_what_has_no_secret_passes_as_it_is(fed: list[tuple[str, bool]]) -> None:
    assert shown(Mask(["ghp_0123456789"]).lines(), fed) == [line for line, _ in fed]


@pytest.mark.slow
def test_what_waits_is_bounded() -> None:
    """A build that knows the secret prints beginnings of it for ever, or a line without an end."""
    secret = "".join(chr(33 + number % 90) for number in range(MOST))
    text = base64.b64encode(secret.encode()).decode()
    for line, cut, most in ((text[:9], False, 1), (text[:-1], False, 1), ("z" * WINDOW, True, 1), ("", True, 1024)):
        lines, out = Mask([secret]).lines(), 0
        for _ in range(1100):
            out += len(lines.feed(line, cut=cut))
        assert 1100 - out <= most
        assert len(lines.flush()) == 1100 - out
