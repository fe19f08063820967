"""Who an app of an image is, by the image's own passwd and group, which a stranger wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.sandbox.users import MOST_BYTES, home_in, user_in

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# no row
short:x:3:3
letters:x:three:3::/:/bin/sh
minus:x:-3:3::/:/bin/sh
huge:x:2147483648:3::/:/bin/sh
own:x:4:huge::/:/bin/sh
nul:x:3:3::/\0:/bin/sh
app:x:1000:1001::/srv/app:/bin/sh
app:x:1:1::/:/bin/sh
other:x:1000:2::/:/bin/sh
windows:x:7:8::/home/windows:/bin/sh\r
20:x:21:22::/:/bin/sh
"""
GROUP = "root:x:0:\nfew:x\nstaff:x:50:app,other\nstaff:x:51:\nwords:x:many:\n"


def image(root: Path, passwd: str | None = PASSWD, group: str | None = GROUP) -> Path:
    (root / "etc").mkdir(parents=True)
    for name, text in (("passwd", passwd), ("group", group)):
        if text is not None:
            (root / "etc" / name).write_bytes(text.encode())
    return root


@pytest.mark.parametrize(
    ("user", "who"),
    [
        ("app", (1000, 1001)),
        ("app:", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("app:5", (1000, 5)),
        ("1000", (1000, 1001)),
        ("1000:staff", (1000, 50)),
        ("1000:5", (1000, 5)),
        ("9", (9, 0)),
        ("9:root", (9, 0)),
        ("root", (0, 0)),
        ("windows", (7, 8)),
        ("20", (20, 0)),
    ],
)
def test_a_user_is_who_the_image_says(tmp_path: Path, user: str, who: tuple[int, int]) -> None:
    assert user_in(image(tmp_path), user) == who


@pytest.mark.parametrize("user", ["9", "9:5"])
def test_a_number_needs_no_files(tmp_path: Path, user: str) -> None:
    assert user_in(tmp_path, user) == (9, int(user.partition(":")[2] or 0))


@pytest.mark.parametrize(
    ("user", "file"),
    [(name, "passwd") for name in ("nobody", "short", "letters", "minus", "huge", "own", "nul", "# no row", "\u00b2")]
    + [(f"app:{name}", "group") for name in ("nogroup", "few", "words", "\u00b2")],
)
def test_a_name_that_the_image_does_not_have_is_nobody(tmp_path: Path, user: str, file: str) -> None:
    with pytest.raises(LookupError, match=f"/etc/{file} does not have"):
        user_in(image(tmp_path), user)


@pytest.mark.parametrize("user", ["app", "9:staff"])
def test_without_files_no_name_is_anybody(tmp_path: Path, user: str) -> None:
    with pytest.raises(LookupError):
        user_in(tmp_path, user)


def test_the_files_are_read_to_a_bound(tmp_path: Path) -> None:
    """A row that the bound cuts is none: a number of it may have lost digits."""
    rows = ("app:x:5:5::/srv:/bin/sh\n", "staff:x:50:\n")
    for more, there in ((0, True), (1, False)):
        passwd, group = ("#" * (MOST_BYTES - len(row) - 1 + more) + "\n" + row for row in rows)
        root = image(tmp_path / str(more), passwd, group)
        assert is_there(root) is there and home_in(root, 5) == ("/srv" if there else "/")
        assert is_there(root, "9:staff") is there


def test_a_link_inside_the_image_is_followed(tmp_path: Path) -> None:
    root = image(tmp_path / "root")
    (root / "usr").mkdir()
    (root / "etc").rename(root / "usr/etc")
    (root / "etc").symlink_to("/usr/etc")
    assert user_in(root, "app:staff") == (1000, 50)


def is_there(root: Path, user: str = "app") -> bool:
    try:
        return bool(user_in(root, user))
    except LookupError:
        return False


def test_a_passwd_that_is_a_link_leads_nowhere_outside_the_image(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("app:x:5:5::/outside:/bin/sh\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to(tmp_path / "outside")
    assert home_in(root, 5) == "/" and not is_there(root)


def test_a_passwd_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    assert home_in(tmp_path, 5) == "/" and not is_there(tmp_path)


@pytest.mark.parametrize("links", [40, 41])
def test_a_passwd_behind_too_many_links_is_none(tmp_path: Path, links: int) -> None:
    """The last of them would be opened on the host."""
    (tmp_path / "outside").write_text("app:x:5:5::/outside:/bin/sh\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to("/l1")
    for number in range(1, links):
        (root / f"l{number}").symlink_to(f"l{number + 1}" if number < links - 1 else tmp_path / "outside")
    assert home_in(root, 5) == "/" and not is_there(root)
