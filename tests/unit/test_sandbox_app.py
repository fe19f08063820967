"""A built app as the platform starts it: where it listens, which line says what stopped it, what is no program."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from builder.attempt.programs import HEADER, why_no_program
from builder.cli.options import environment
from builder.cli.stop import Stop
from builder.images.runnable import user_of
from builder.sandbox import Root, app

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 1 1
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 2 1
   2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 65532        0 3 1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000001000000:1F91 00000000000000000000000000000000:0000 0A
   2: 0000000000000000FFFF00000100007F:1F92 00000000000000000000000000000000:0000 0A
"""


def test_listening_sockets_are_read_from_the_kernels_tables() -> None:
    assert app.listening(TCP) == (("127.0.0.1", 5000), ("0.0.0.0", 8080))
    assert app.listening(TCP6) == (("::", 8080), ("::1", 8081), ("127.0.0.1", 8082))


@pytest.mark.parametrize(
    ("where", "ready"),
    [
        ((("0.0.0.0", 8080),), True),
        ((("::", 8080),), True),
        ((("127.0.0.1", 8080),), False),
        ((("::1", 8080),), False),
        ((("0.0.0.0", 5000),), False),
        ((("127.0.0.1", 8080), ("0.0.0.0", 8080)), True),
        ((), False),
    ],
)
def test_ready_is_what_can_be_reached_from_outside(where: tuple[app.Address, ...], ready: bool) -> None:
    assert app.is_ready(where, 8080) is ready


GO_PANIC = ["starting", "panic: open config.yaml: no such file or directory", "", "goroutine 1 [running]:", "exit"]
TRACEBACK = [
    "an error is coming",
    "Traceback (most recent call last):",
    '  File "/app/src/handler.py", line 2, in <module>',
    "    KEY = os.environ['API_KEY']",
    "KeyError: 'API_KEY'",
    "bye",
]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (GO_PANIC, "panic: open config.yaml: no such file or directory"),
        (TRACEBACK, "KeyError: 'API_KEY'"),
        (["listening soon", "Error: connect ECONNREFUSED", "at x"], "Error: connect ECONNREFUSED"),
        (["one", "two", ""], "two"),
        ([], ""),
    ],
)  # fmt: skip
def test_the_line_that_names_what_ended_a_program_comes_first(lines: list[str], error: str) -> None:
    assert app.first_error(lines) == error
    assert app.said(lines, 6)[:1] == ((error,) if error else ())
    assert len(app.said(lines * 9, 6)) <= 6


@pytest.mark.parametrize(
    ("line", "library"),
    [
        ("ImportError: libpq.so.5: cannot open shared object file: No such file or directory", "libpq.so.5"),
        ("app: error while loading shared libraries: libssl.so.1: cannot open shared object file", "libssl.so.1"),
        ("ImportError: cannot import name 'x'", ""),
    ],
)
def test_a_missing_shared_library_is_named(line: str, library: str) -> None:
    assert app.missing_library([line]) == library


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("panic: open templates/index.html: no such file or directory", "templates/index.html"),
        ("2026/11/28 error: stat ./web/../static: no such file or directory", "static"),
        ("panic: open /app/data.json: no such file or directory", "data.json"),
        ("panic: open /etc/app.toml: no such file or directory", ""),
        ("panic: open ../x: no such file or directory", ""),
        ("panic: open /app: no such file or directory", ""),
        ("panic: permission denied", ""),
    ],
)
def test_a_missing_file_of_the_program_is_named(line: str, file: str) -> None:
    assert app.missing_file([line], "/app") == file


@pytest.mark.parametrize(
    ("passwd", "home"),
    [
        ("app:x:5:5::/srv/app:/bin/sh\n", "/srv/app"),
        ("app:x:6:5::/srv:/bin/sh\n", "/"),
        ("app:x:5:5::/a\0b:/bin/sh\n", "/"),
        (None, "/"),
    ],
)
def test_the_home_is_that_of_the_image(tmp_path: Path, passwd: str | None, home: str) -> None:
    (tmp_path / "etc").mkdir()
    if passwd is not None:
        (tmp_path / "etc/passwd").write_text(passwd)
    made = app.command(("/app",), {}, cwd="", user=(5, 5), root=Root(rootfs=tmp_path), work=tmp_path)
    assert made.env == {"HOME": home, "PORT": str(app.PORT)} and made.user == (5, 5) and made.cwd == "/"


@pytest.mark.parametrize(
    ("user", "who"),
    [
        ("7", (7, 0)),
        ("7:8", (7, 8)),
        ("", (65532, 65532)),
        ("app", (65532, 65532)),
        ("\u00b2", (65532, 65532)),
        ("7:\u00b2", (65532, 65532)),
        ("7:", (7, 0)),
        ("9" * 5000, (65532, 65532)),
    ],
)
def test_the_user_is_that_of_the_image_where_it_is_a_number(user: str, who: tuple[int, int]) -> None:
    assert user_of(user) == who


@pytest.mark.parametrize(
    ("path", "closed"),
    [
        ("/home/app", "/home"),
        ("/home", "/home"),
        ("/srv/private", "/srv/private"),
        ("/linked", "/home"),
        ("/srv", ""),
        ("/", ""),
        ("/work", ""),
    ],
)
def test_a_folder_that_the_app_may_not_enter_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, closed: str
) -> None:
    for name, mode in (("home/app", 0o755), ("home", 0o750), ("srv/private", 0o700), ("work", 0o700)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).chmod(mode)
    (tmp_path / "linked").symlink_to("/home/app")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert app.closed_folder(tmp_path, path) == closed
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert app.closed_folder(tmp_path, path) == "", "the app is who unpacked it"


def elf(kind: int = 2, machine: int = 62, size: int = 2, entry: int = 4096) -> bytes:
    return HEADER.pack(b"\x7fELF", size, 1, kind, machine, 1, entry)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (elf(), ""),
        (elf(kind=3), ""),
        (b"#!/usr/bin/env python3\n", ""),
        (b"!<arch>\n__.PKGDEF" + bytes(40), "object archive"),
        (elf(machine=183), "another machine"),
        (elf(size=1), "another machine"),
        (elf(kind=1), "without an entry"),
        (elf(kind=3, entry=0), "without an entry"),
        (b"", "no executable"),
        (b"\x7fELF", "no executable"),
        (struct.pack("<Q", 1) * 8, "no executable"),
    ],
)
def test_what_cannot_be_started_is_told_by_its_head(head: bytes, words: str) -> None:
    why = why_no_program(head)
    assert (words in why) if words else not why


def test_variables_come_from_files_and_options(tmp_path: Path) -> None:
    one, two = tmp_path / "one.env", tmp_path / "two.env"
    one.write_text("# comment\n\nA=1\nB=two words\n")
    two.write_text("\ufeffB='q'\n  C=\n")
    given = environment(("D=4", "A=5"), (str(one), str(two)), {})
    assert given == {"A": "5", "B": "'q'", "C": "", "D": "4"}


def test_a_file_of_variables_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "env"
    odd = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"
    file.write_bytes(f"A=1{odd}2 \r\nHOME\r\n  ABSENT\n EMPTY=\n#B=1\n  # C=1\n\t\nD=a=b".encode())
    given = environment((), (str(file),), {"HOME": "/home/ada", "OTHER": "x"})
    assert given == {"A": f"1{odd}2 ", "HOME": "/home/ada", "EMPTY": "", "D": "a=b"}


@pytest.mark.parametrize(
    ("texts", "content"),
    [(("s3cret",), ""), (("=s3cret",), ""), (("A B=s3cret",), ""), ((), "1A=s3cret\n"), ((), "s3cret word\n")],
)
def test_what_is_no_variable_is_refused_and_not_repeated(tmp_path: Path, texts: tuple[str, ...], content: str) -> None:
    file = tmp_path / "env"
    file.write_text(content)
    with pytest.raises(Stop) as caught:
        environment(texts, (str(file),), {"s3cret": "x"})
    assert "s3cret" not in caught.value.message and caught.value.where == ("--env" if texts else f"{file}:1")


@pytest.mark.parametrize("content", [None, b"A=\xff\n", b"A=1\n" * 300_000], ids=["absent", "no UTF-8", "endless"])
def test_a_file_of_variables_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "env").write_bytes(content)
    with pytest.raises(Stop, match="cannot be read") as caught:
        environment((), (str(tmp_path / "env"),), {})
    assert (caught.value.exit_code, caught.value.where) == (2, "--env-file")


def test_a_line_is_plain_without_its_colours_and_as_it_is_otherwise() -> None:
    assert app.plain("\x1b[0m\x1b[1;31merror\x1b[0m: no \x1b]0;title\x07") == "error: no \x1b]0;title\x07"
