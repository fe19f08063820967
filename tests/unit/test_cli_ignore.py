"""Which files of a folder are sent: moby's rules by a table (git's: tests/e2e), the lists, the options, the words."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.cli.folder import FoundFolder, Left, find, left_out
from builder.cli.ignore import Choice, Rule
from builder.cli.needed import explained
from builder.errors import BuildError
from builder.globs import moby_patterns
from tests.cli_fixtures import play, run


def write(root: Path, contents: Mapping[str, str]) -> None:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def sent(found: FoundFolder) -> list[str]:
    return [entry.path for entry in found.files]


def rules(found: FoundFolder) -> dict[str, str]:
    return {each.path: each.rule.name for each in found.left}


# (the file, a path, whether it is left out): what the documentation of moby and its own tests say.
MOBY = [
    ("**", "file", True), ("**/", "file", True), ("**", "dir/file", True), ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True), ("dir/**", "dir/dir2/file", True), ("**/dir", "dir", True),
    ("**/dir", "dir/file", True), ("**/dir2/*", "dir/dir2/file", True), ("**/dir2/**", "dir/dir2/dir2/file", True),
    ("**file", "file", True), ("**file", "dir/file", True), ("**/file", "dir/dir/file", True),
    ("**/file*", "dir/dir/file.txt", True), ("**/file*txt", "dir/dir/file.txt", True), ("**/**/*.txt", "d/f.txt", True),
    ("**/**/*.txt2", "d/f.txt", False), ("**/*.txt", "file.txt", True), ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True), ("a[b-d]e", "ae", False), ("a[b-d]e", "ace", True),
    ("a[^b-d]e", "aze", True), ("a[^b-d]e", "ace", False), (".*", ".foo", True), (".*", "foo", False),
    ("abc.def", "abcdef", False), ("abc.def", "abcZdef", False), ("abc?def", "abcZdef", True), ("a\\*", "a*", True),
    ("a\\*b", "axb", False), ("**/foo/bar", "foo/bar", True), ("**/foo/bar", "dir/dir2/foo/bar", True),
    ("abc/**", "abc", False), ("*.log", "a.log", True), ("*.log", "sub/a.log", False), ("/a", "a", True),
    ("./a", "a", True), ("a/../b", "b", True), ("a/", "a", True), ("  a  ", "a", True), ("# a", "# a", False),
    ("a\n!a", "a", False), ("a\n!a/b", "a/b", False), ("a\n!a/b", "a/c", True), ("!a\na", "a", True),
    ("*\n!*.py", "x.py", False), ("**\n!**/*.py", "x/y.py", False), ("*\n! a", "a", False), ("é?", "éx", True),
    ("dir\n!dir/keep\ndir/keep/x", "dir/keep/x", True), ("dir\n!dir/keep\ndir/keep/x", "dir/keep/y", False),
    ("sub", "x/sub", False), ("a b", "a b", True), ("\ufeffa", "a", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "out"), MOBY)
def test_dockerignore_follows_moby(tmp_path: Path, text: str, path: str, out: bool) -> None:
    write(tmp_path, {".dockerignore": text, path: "x", ".gitignore": "nothing\n*.never"})
    assert (path not in sent(find(tmp_path))) == out


@pytest.mark.parametrize("text", ["!", "[a", "a[]b", "a\\", "[b-a]"])
def test_what_moby_refuses_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        moby_patterns(text.encode())
    write(tmp_path, {".dockerignore": text, "a": ""})
    with pytest.raises(BuildError, match=r"^InvalidRequest: \.dockerignore: ") as caught:
        find(tmp_path)
    assert caught.value.where == ".dockerignore"


def test_one_kind_of_ignore_file_counts(tmp_path: Path) -> None:
    write(
        tmp_path, {".gitignore": "a\n", "sub/.gitignore": "/x\n", "a": "", "b": "", "c": "", "sub/x": "", "sub/y": ""}
    )
    assert rules(find(tmp_path)) == {"a": ".gitignore:1", "sub/x": "sub/.gitignore:1"}
    write(tmp_path, {".dockerignore": "# b\nb\n", "sub/.dockerignore": "y"})
    assert rules(find(tmp_path)) == {"b": ".dockerignore:2"}
    write(tmp_path, {".igniteignore": "*\n!/sub/\n!y\n!/.*\n"})
    assert sent(find(tmp_path)) == [".dockerignore", ".gitignore", ".igniteignore", "sub/y"]
    assert rules(find(tmp_path, Choice(no_ignore=True))) == {}


def test_a_link_is_no_ignore_file(tmp_path: Path) -> None:
    write(tmp_path / "out", {"rules": "a\n"})
    write(tmp_path / "in", {"a": ""})
    (tmp_path / "in" / ".gitignore").symlink_to("../out/rules")
    assert "a" in sent(find(tmp_path / "in"))


KEY = "-----BEGIN RSA PRIVATE KEY-----\nx\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n"
LISTED = {
    ".git/HEAD": "ref", "__pycache__/a.pyc": "x", "node_modules/x/y.js": "x", "venv/bin/python": "x",
    "env3/pyvenv.cfg": "home = /usr", "rust/target/x": "x",
    ".env": "A=1", "sub/.env.local": "A=1", "id_rsa": KEY, "tls/server.pem": KEY, "tls/odd.pem": "x",
    "tls/server.key": KEY, ".npmrc": "x", ".netrc": "x", ".pypirc": "x", "store.p12": "x",
    ".DS_Store": "x", "sub/._a": "x", "Icon\r": "x", "Thumbs.db": "x", "__MACOSX/._a": "x",
}  # fmt: skip
PLAIN = {
    "main.py": "x", ".env.example": "A=", "tls/ca.pem": CERTIFICATE, "a.key": "x", "rust/Cargo.toml": "",
    "target/y": "x", "env2/x": "x", "_a": "x",
}  # fmt: skip


def test_the_lists_hold_without_any_ignore_file(tmp_path: Path) -> None:
    write(tmp_path, LISTED | PLAIN)
    found = find(tmp_path)
    assert sent(found) == sorted(PLAIN)
    by_rule: dict[str, set[str]] = {}
    for path, rule in rules(found).items():
        by_rule.setdefault(rule, set()).add(path)
    assert by_rule == {
        "the default list": {"__pycache__/", "node_modules/", "venv/", "env3/", "rust/target/"},
        "the list of secrets": {
            ".git/", ".env", "sub/.env.local", "id_rsa", "tls/server.pem", "tls/odd.pem", "tls/server.key", ".npmrc",
            ".netrc", ".pypirc", "store.p12",
        },
        "the litter of macOS and Windows": {".DS_Store", "sub/._a", "Icon\r", "Thumbs.db", "__MACOSX/"},
    }  # fmt: skip


def test_no_ignore_lifts_all_but_secrets_and_litter(tmp_path: Path) -> None:
    write(tmp_path, LISTED | PLAIN | {".gitignore": "main.py\n"})
    found = find(tmp_path, Choice(no_ignore=True))
    assert {"main.py", "node_modules/x/y.js", "venv/bin/python", "rust/target/x"} <= set(sent(found))
    assert {each.rule.source for each in found.left} == {"list of secrets", "litter of macOS and Windows"}


@pytest.mark.parametrize(
    ("include", "more"),
    [
        ("node_modules/x", {"node_modules/x/y.js"}),
        ("**/*.js", {"node_modules/x/y.js"}),
        ("logs/**", {"logs/a.log", "logs/deep/b.log"}),
        ("./logs/a.log", {"logs/a.log"}),
        ("*.env", set()),
        (".e*", set()),
        (".env", {".env"}),
        ("tls", set()),
        ("tls/server.pem", {"tls/server.pem"}),
        (".git", {".git/HEAD", ".git/config"}),
        (".DS_Store", set()),
    ],
)
def test_include_lifts_a_rule_and_a_secret_only_by_its_exact_path(tmp_path: Path, include: str, more: set[str]) -> None:
    tree = {
        ".gitignore": "logs/\n", "logs/a.log": "", "logs/deep/b.log": "", ".env": "A=1", "tls/server.pem": KEY,
        "node_modules/x/y.js": "", "node_modules/z": "",
        ".git/HEAD": "", ".git/config": "", ".DS_Store": "", "m.py": "",
    }  # fmt: skip
    write(tmp_path, tree)
    assert set(sent(find(tmp_path, Choice(include=(include,))))) == {".gitignore", "m.py"} | more


def test_a_line_of_git_syntax_takes_back_what_the_default_list_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, {".igniteignore": "!/web/node_modules/\n!.env\n", "web/node_modules/x.js": "", "node_modules/y": "",
                     ".env": ""})  # fmt: skip
    assert sent(find(tmp_path)) == [".igniteignore", "web/node_modules/x.js"]


def test_a_folder_that_is_left_out_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "deep/\n", "a": "", f"deep/{'x/' * 40}f": ""})
    assert rules(find(tmp_path)) == {"deep/": ".gitignore:1"}
    (tmp_path / ".gitignore").unlink()
    with pytest.raises(BuildError, match="is 33 levels deep, limit 32"):
        find(tmp_path)


def test_what_is_left_out_is_told_by_rule_and_count() -> None:
    git, secrets = Rule(source=".gitignore", line=1), Rule(source="list of secrets")
    left = [Left(path=f"{n}.log", rule=git) for n in range(5)] + [Left(path=".env", rule=secrets)]
    assert left_out(left) == "5 by .gitignore (0.log, 1.log, 2.log, …); 1 by the list of secrets (.env)"
    assert left_out([]) == ""


GO = {"go.mod": "module example.com/hello\n\ngo 1.26\n", "web/node_modules/h/h.js": "x"}
EMBEDS = 'package main\n\nimport "embed"\n\n//go:embed {}\nvar fs embed.FS\n\nfunc main() {{}}\n'


@pytest.mark.parametrize("pattern", ["web/node_modules/h/h.js", "all:web/node_modules", '"web/node_modules/*/h.js"'])
def test_plan_and_build_refuse_a_folder_without_what_it_embeds(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, GO | {"main.go": EMBEDS.format(pattern)})
    for command in ("plan", "build"):
        ran = run(command, str(tmp_path), "--json")
        document = json.loads(ran.out)
        assert ran.code == 2 and document["reason"] == "InvalidRequest"
        assert document["message"].startswith("main.go:5 embeds web/node_modules")
        assert document["message"].endswith("which is left out by the default list")
        assert document["hint"].startswith("Send it: --include web/node_modules")
    include = document["hint"].removeprefix("Send it: ").split()
    assert run("plan", str(tmp_path), *include).code == 0


def test_an_embedded_folder_may_lack_its_litter(tmp_path: Path) -> None:
    write(tmp_path, GO | {"main.go": EMBEDS.format("static"), "static/a.css": "", "static/.env": "A=1"})
    assert run("plan", str(tmp_path)).code == 0


HANDLER = "def handler(payload, ctx):\n    return payload\n"


@pytest.mark.parametrize(
    ("ignored", "source", "refused"),
    [
        ("rules.py", "import rules\n", "handler.py:1 imports rules, which is left out by .gitignore:1"),
        ("big/", "from big.data import x\n", "handler.py:1 imports big.data, which is left out by .gitignore:1"),
        ("deeper.py", "import near\n", "near.py:1 imports deeper, which is left out by .gitignore:1"),
        ("rules.py", "try:\n    import rules\nexcept ImportError:\n    rules = None\n", ""),
        ("rules.py", "def late():\n    import rules\n", ""),
        ("rules.py", "import json\n", ""),
    ],
)
def test_plan_refuses_an_entry_that_imports_what_is_left_out(
    tmp_path: Path, ignored: str, source: str, refused: str
) -> None:
    write(tmp_path, {".gitignore": ignored, "handler.py": source + HANDLER, "rules.py": "", "big/data.py": "x = 1",
                     "near.py": "import deeper\n", "deeper.py": ""})  # fmt: skip
    ran = run("plan", str(tmp_path), "--json")
    assert (ran.code, json.loads(ran.out).get("message", "")) == (2 if refused else 0, refused)


def test_a_failure_that_names_what_was_left_out_says_so() -> None:
    rule = Rule(source=".gitignore", line=3)
    left = [Left(path=path, rule=rule) for path in ("web/dist/", "big.py", "conf/prod.toml", ".git/")]
    told = "was left out by .gitignore:3; send it: --include"
    for text, path in (
        ("main.go:5:12: pattern web/dist/app.js: no matching files found", "web/dist"),
        ("web/main.go:5:12: pattern dist/app.js: no matching files found", "web/dist"),
        ("ModuleNotFoundError: No module named 'big'", "big.py"),
        ("-r conf/prod.toml: no such file", "conf/prod.toml"),
    ):
        assert explained(left, [text]) == f"{path} {told} {path}"
    assert explained(left, ["./main.go:11:6: declared and not used: total", "a big word"[2:5] + "ger"]) == ""
    assert explained([], ["web/dist"]) == ""


def test_plan_and_build_mean_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path / "one", {"svc/handler.py": HANDLER, "svc/.env": "A=1", ".DS_Store": "x", ".git/HEAD": ""})
    of_folder = json.loads(run("plan", str(tmp_path / "one"), "--json").out)
    assert of_folder["plan"]["detection"]["runtime"] == "python" and of_folder["source"]["files"] == 1
    write(tmp_path / "two", {"svc/handler.py": HANDLER, "README": "x"})
    ran = run("plan", str(tmp_path / "two"))
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == f"next   Is svc/ meant? ignite-builder build {tmp_path}/two/svc"
    write(tmp_path / "two", {"lib/__init__.py": "", "lib/setup.py": "", "web/package.json": "{}"})
    assert "Is svc/ meant?" in run("plan", str(tmp_path / "two")).err, "the others have nothing that starts"
    write(tmp_path / "three", {"setup.py": "", "lib/__init__.py": "", "lib/requirements.txt": ""})
    ran = run("plan", str(tmp_path / "three"))
    assert ran.code == 1 and "meant?" not in ran.err and "setup.py" not in ran.err.splitlines()[-1], ran


def test_plan_lists_what_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path, {"handler.py": HANDLER, ".dockerignore": ".env\nbig/\n", ".env": "A=1", "big/data": "x", "venv/x": ""}
    )
    lines = [
        line.split(maxsplit=3) for line in run("plan", str(tmp_path)).out.splitlines() if line.startswith("left out")
    ]
    assert [line[2:] for line in lines] == [
        [".env", "the list of secrets"], ["big/", '.dockerignore:2 "big/"'], ["venv/", "the default list"],
    ]  # fmt: skip


@pytest.mark.parametrize("option", [("--no-ignore",), ("--include", "x")])
def test_the_options_are_for_folders(tmp_path: Path, option: tuple[str, ...]) -> None:
    write(tmp_path, {"handler.py": HANDLER})
    ran = run("plan", str(tmp_path / "handler.py"), *option)
    assert ran.code == 2 and "are for a folder" in ran.err
    bad = run("plan", str(tmp_path), "--include", "[a")
    assert bad.code == 2 and '--include is "[a"' in bad.err


def test_build_sends_the_folder_without_what_is_left_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        {"handler.py": HANDLER, ".env": "A=1", ".gitignore": "*.csv\n", "big.csv": "1", "credentials.json": "{}"},
    )
    bodies: list[dict[str, Any]] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(400, json={"code": "INVALID_ARGUMENT", "message": "seen"})

    play(monkeypatch, refuse)
    ran = run("build", str(tmp_path))
    assert "left out: 1 by the list of secrets (.env); 1 by .gitignore (big.csv)\n" in ran.err
    assert "credentials.json looks like a secret, and is sent: leave it out with .igniteignore\n" in ran.err
    archive = base64.b64decode(bodies[0]["code"]["compile"]["archive"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == [".gitignore", "credentials.json", "handler.py"]


def test_a_url_in_a_failure_is_no_path_to_look_for() -> None:
    left = (Left(path="data", rule=Rule(source=".gitignore", line=1, pattern="data")),)
    assert explained(left, ["x @ git+https://example.com/x.git is not taken here", "a //b", "///"]) == ""
