"""Words of a line of a Dockerfile: flags, quoted words, words of a shell with its variables. Each pass is linear."""

from __future__ import annotations

import re
from collections.abc import Mapping

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Go's `unicode.IsSpace` is true for."""
_IS_SPACE = frozenset(SPACES)
BLANKS = re.compile(r"[\t\v\f\r ]+")
MOST_NESTED = 50
MOST_SUBSTITUTED = 64 * 1024
"""Characters of values in one word: a value that has the last one twice, again and again, has no end."""
_SPECIAL = frozenset("@*#?-$!0")


class Bad(ValueError):
    """A line that is none; the text names why."""


class Unknown(Exception):
    """A substitution whose value nobody can tell here."""


def strip(text: str) -> str:
    return text.strip(SPACES)


def take_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """(`--name=value` words at the front, the rest of the line)."""
    flags: list[str] = []
    at, end = 0, len(text)
    while True:
        while at < end and text[at] in _IS_SPACE:
            at += 1
        if not text.startswith("--", at):
            return tuple(flags), text[at:]
        word, at, quoted = _flag(text, at, escape)
        if word == "--":
            return tuple(flags), text[at:]
        if word or quoted:
            flags.append(word)


def _flag(text: str, at: int, escape: str) -> tuple[str, int, bool]:
    out: list[str] = []
    quote, quoted = "", False
    while at < len(text):
        char = text[at]
        if quote and char == quote:
            quote = ""
        elif not quote and char in _IS_SPACE:
            break
        elif not quote and char in "'\"":
            quote, quoted = char, True
        elif char == escape:
            at += 1
            out.append(text[at : at + 1])
        else:
            out.append(char)
        at += 1
    return "".join(out), at, quoted


def quoted_words(text: str, escape: str) -> list[str]:
    """The words of ENV, LABEL and ARG, with their quotes."""
    words: list[str] = []
    out: list[str] = []
    quote, started, at = "", False, 0
    while at < len(text):
        char = text[at]
        if not quote and char in _IS_SPACE:
            if started:
                words.append("".join(out))
            out, started, at = [], False, at + 1
            continue
        if char == escape and quote != "'":
            if at + 1 == len(text):
                break
            out.append(char)
            at += 1
            char = text[at]
        elif not quote and char in "'\"":
            quote = char
        elif char == quote:
            quote = ""
        out.append(char)
        started, at = True, at + 1
    if started:
        words.append("".join(out))
    return words


class Lex:
    """Words and variables as BuildKit's shell lexer has them. Without `env` a variable stays as it is written.

    Raises `Bad`; with `env` `Unknown` for a substitution by patterns, and for values that have no end.
    """

    def __init__(
        self,
        text: str,
        *,
        escape: str = "\\",
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._text, self._escape, self._env = text, escape, env
        self._raw_quotes, self._raw_escapes = raw_quotes, raw_escapes
        self._at = self._nested = self._substituted = 0
        self._word: list[str] = []
        """The word that is begun; a substitution in the middle of one begins it anew, as BuildKit does."""

    def words(self) -> list[str]:
        """The words, apart by space outside of quotes."""
        return self._until("", raw=self._raw_escapes)[1]

    def text(self) -> str:
        """The whole with its quotes and escapes resolved."""
        return self._until("", raw=self._raw_escapes)[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _until(self, stop: str, *, raw: bool) -> tuple[str, list[str]]:
        before, self._raw_escapes = self._raw_escapes, raw
        try:
            return self._scan(stop)
        finally:
            self._raw_escapes = before

    def _scan(self, stop: str) -> tuple[str, list[str]]:
        result: list[str] = []
        words: list[str] = []
        self._word.clear()
        inside = False

        def add(text: str) -> None:
            nonlocal inside
            for char in text:
                if char not in _IS_SPACE:
                    self._word.append(char)
                    inside = True
                elif inside and self._word:
                    words.append("".join(self._word))
                    self._word.clear()
                    inside = False

        while char := self._peek():
            if char == stop:
                self._at += 1
                break
            if char in "'\"$<":
                part = self._special(char)
                result.append(part)
                if char == "$":
                    add(part)
                else:
                    self._word.append(part)
                    inside = True
                continue
            self._at += 1
            if char == self._escape:
                if self._raw_escapes:
                    self._word.append(char)
                    result.append(char)
                    inside = True
                char = self._next()
                if not char:
                    if stop:
                        raise Bad(f"there is no {stop}")
                    break
                self._word.append(char)
                inside = True
            else:
                add(char)
            result.append(char)
        else:
            if stop:
                raise Bad(f"there is no {stop}")
        if last := "".join(self._word):
            words.append(last)
            self._word.clear()
        return "".join(result), words

    def _special(self, char: str) -> str:
        if char == "'":
            return self._single()
        if char == '"':
            return self._double()
        if char == "$":
            return self._dollar()
        self._at += 1
        if self._peek() != "<":
            return "<"
        self._at += 1
        began = self._at
        while self._peek() in (" ", "\t", "\r"):
            self._at += 1
        return "<<" + self._text[began : self._at]

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise Bad("a single quote is not closed")
        inner, self._at = self._text[self._at + 1 : end], end + 1
        return f"'{inner}'" if self._raw_quotes else inner

    def _double(self) -> str:
        self._at += 1
        out: list[str] = []
        while char := self._peek():
            if char == '"':
                self._at += 1
                inner = "".join(out)
                return f'"{inner}"' if self._raw_quotes else inner
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                if self._raw_escapes:
                    out.append(char)
                if not self._peek():
                    continue
                if self._peek() in ('"', "$", self._escape):
                    char = self._next()
            out.append(char)
        raise Bad("a double quote is not closed")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._value(name, f"${name}") if name else "$"
        self._at += 1
        if self._peek() in ("", "{", "}", ":"):
            raise Bad("${ has no name behind it")
        name = self._name()
        char = self._next()
        if char == "}":
            return self._value(name, f"${{{name}}}")
        operator = char
        if char == ":":
            operator += (char := self._next())
        if char and char in "+-?#%" and not (len(operator) == 2 and char in "#%"):
            return self._modified(name, operator)
        if operator == "/":
            return self._replaced(name)
        raise Bad(f"${{{name}{operator} is no substitution")

    def _modified(self, name: str, operator: str) -> str:
        word = self._deeper("}", raw=operator in "#%")
        if self._env is None:
            return f"${{{name}{operator}{word}}}"
        if operator in "#%":
            raise Unknown
        value, is_set = self._counted(self._env.get(name, "")), name in self._env
        if operator[0] == ":":
            is_set = is_set and value != ""
        if operator[-1] == "-":
            return value if is_set else word
        if operator[-1] == "+":
            return word if is_set else ""
        if not is_set:
            raise Bad(f"{name}: {word or 'it is not set'}")
        return value

    def _replaced(self, name: str) -> str:
        if self._peek() == "/":
            self._at += 1
        pattern = self._deeper("/", raw=True)
        replacement = self._deeper("}", raw=True)
        if self._env is not None:
            raise Unknown
        return f"${{{name}/{pattern}/{replacement}}}"

    def _deeper(self, stop: str, *, raw: bool) -> str:
        self._nested += 1
        if self._nested > MOST_NESTED:
            raise Bad(f"more than {MOST_NESTED} substitutions are inside each other")
        try:
            return self._until(stop, raw=raw)[0]
        finally:
            self._nested -= 1

    def _name(self) -> str:
        began = self._at
        if self._peek().isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif self._peek() and self._peek() in _SPECIAL:
            self._at += 1
        else:
            while (char := self._peek()) and (char.isalnum() or char == "_"):
                self._at += 1
        return self._text[began : self._at]

    def _value(self, name: str, written: str) -> str:
        if self._env is None:
            return written
        return self._counted(self._env.get(name, ""))

    def _counted(self, value: str) -> str:
        self._substituted += len(value)
        if self._substituted > MOST_SUBSTITUTED:
            raise Unknown
        return value
