"""Private modules of Go: what the two arguments take, what the plan makes of them, what a failed download means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder import pipelines
from builder.errors import BuildError
from builder.key import build_key
from builder.pipelines import go, private
from builder.pipelines.base import PlanRequest
from builder.pipelines.go.steps import GO
from builder.plan import Access, Network, Plan, Private, Sees, Step
from builder.source.tree import DictTree
from tests.unit.test_pipelines_go import CATALOG, MAIN

LIB = "git.acme.example/acme/lib"
H1 = "h1:" + "A" * 43 + "="
MOD = f"module example.com/app\n\ngo 1.24\n\nrequire {LIB} v1.0.0\n"
SUM = f"{LIB} v1.0.0 {H1}\n{LIB} v1.0.0/go.mod {H1}\n"
SOURCE = {"go.mod": MOD, "go.sum": SUM, "main.go": f'package main\n\nimport _ "{LIB}"\n\nfunc main() {{}}\n'}
BOTH = {"private": "git.acme.example/acme", "private_secret": "ci"}
PUBLIC = {name: text.replace(LIB, "github.com/google/uuid") for name, text in SOURCE.items()}


def planned(files: dict[str, str] = SOURCE, version: int = 3, **more: str) -> Plan:
    tree = DictTree(files)
    arguments = {**BOTH, **more}
    request = PlanRequest(build_args={name: value for name, value in arguments.items() if value != "-"},
                          secret_version=version)  # fmt: skip
    return pipelines.plan(pipelines.detect(tree, "go"), tree, request, CATALOG)


def refused(files: dict[str, str] = SOURCE, **more: Any) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files, **more)
    return caught.value


# The arguments


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("git.acme.example", ("git.acme.example",)),
        ("git.acme.example/acme,git.acme.example/tools", ("git.acme.example",)),
        (" github.com/Acme/* , git.acme.example/a~b/c_d.git ", ("git.acme.example", "github.com")),
        ("127.0.0.1/acme/lib.git", ("127.0.0.1",)),
        ("github.com/acme/*-internal", ("github.com",)),
    ],
)
def test_paths_name_the_hosts_that_are_open(text: str, hosts: tuple[str, ...]) -> None:
    found = private.asked({"private": text, "private_secret": "ci"})
    assert found is not None and found.hosts == hosts


HOSTILE = [
    ("", "no host"), (",", "no host"), ("a.example,,b.example", "no host"), (" ", "no host"), ("*", "leaves its host"),
    ("*.acme.example", "leaves its host"), ("git.acme.*/x", "leaves its host"),
    ("git.[a]cme.example", "leaves its host"),
    ("localhost/x", "no host"), ("Git.acme.example/x", "no host"), ("a.-b.example/x", "no host"),
    ("git..example/x", "no host"), ("git.acme.example./x", "no host"), ("2130706433.1/x", "no host"),
    ("0x7f.1/x", "no host"), ("gi\u0442.acme.example/x", "no host"), ("/etc/passwd", "no host"), ("../x", "no host"),
    ("t0ps3cret@git.acme.example/x", "no host"), ("$(id).example/x", "no host"),
    ("${GOPROXY:-a}.example", "has a port"),
    ("https://ada:t0ps3cret@git.acme.example/x", "is a URL"), ("file:///etc", "is a URL"), ("ext::sh -c id", "SSH"),
    ("ssh://git@git.acme.example/x", "SSH"), ("git+ssh://git.acme.example/x", "SSH"), ("git@github.com:acme/x", "SSH"),
    ("git.acme.example:8443/x", "has a port"), ("[::1]/x", "has a port"), ("ada:t0ps3cret@git.acme.example", "SSH"),
    ("git.acme.example/", "is no module path"), ("git.acme.example//x", "is no module path"),
    ("git.acme.example/../x", "is no module path"), ("git.acme.example/.git", "is no module path"),
    ("git.acme.example/x.", "is no module path"), ("git.acme.example/a b", "is no module path"),
    ("git.acme.example/**", "is no module path"), ("git.acme.example/a?c", "is no module path"),
    ("git.acme.example/[a-z]", "is no module path"), ("git.acme.example/x\\y", "is no module path"),
    ("git.acme.example/x@v1", "is no module path"), ("git.acme.example/${X}", "is no module path"),
    ("git.acme.example/x;id", "is no module path"), ("git.acme.example/a%2fb", "is no module path"),
    ("git.acme.example/" + "a" * 300, "is no module path"), ("git.acme.example" + "/a" * 17, "is no module path"),
    ("a.example/" + "a" * 2048, "characters, limit"), (",".join(f"a.example/{n}" for n in range(33)), "paths, limit"),
    (",".join(f"a{n}.example" for n in range(9)), "hosts, limit"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), HOSTILE, ids=range(len(HOSTILE)))
def test_paths_that_are_none_are_refused_with_the_reason(text: str, why: str) -> None:
    error = refused(private=text)
    assert (error.reason, error.where, str(error.error_class)) == ("InvalidRequest", "buildArgs.private", "client")
    assert why in error.message and error.message.isprintable() and len(error.message) < 300, error
    assert "t0ps3cret" not in error.message
    assert error.next == f"For example private={private.PATHS.example}"


@pytest.mark.parametrize(("left_out", "other"), [("private", "private_secret"), ("private_secret", "private")])
def test_each_argument_takes_the_other_one(left_out: str, other: str) -> None:
    alone: dict[str, Any] = {left_out: "-"}
    error = refused(**alone)
    assert (error.reason, error.where) == ("InvalidRequest", f"buildArgs.{left_out}")
    assert error.message == f"the build argument {other} takes {left_out} beside it"
    assert refused(private_secret="").where == "buildArgs.private_secret"


@pytest.mark.parametrize(
    ("paths", "module", "covered"),
    [
        ("a.example", "a.example/x", True), ("a.example", "a.example", True), ("a.example", "a.example.evil/x", False),
        ("a.example/x", "a.example/x/y/v2", True), ("a.example/x", "a.example/xy", False),
        ("a.example/x/y", "a.example/x", False), ("a.example/*", "a.example/x", True),
        ("a.example/*", "a.example", False), ("a.example/p-*", "a.example/p-x/y", True),
        ("a.example/p-*", "a.example/q-x", False), ("a.example/*-x/y", "a.example/-x/y", True),
        ("a.example/ab*ba", "a.example/aba", False), ("a.example/X", "a.example/x", False),
        ("b.example,a.example/x", "a.example/x", True),
    ],
)  # fmt: skip
def test_a_path_covers_what_go_covers(paths: str, module: str, covered: bool) -> None:
    found = private.asked({"private": paths, "private_secret": "ci"})
    assert found is not None and found.covers(module) is covered


def test_a_secret_that_is_for_another_host_is_refused() -> None:
    found = private.Asked(paths=("a.example/x", "b.example"), secret="ci")
    for host in ("", "a.example", "b.example", "a.example:443"):
        private.check_host(found, host)
    for host in ("c.example", "a.example:8443", "x.a.example"):
        with pytest.raises(BuildError) as caught:
            private.check_host(found, host)
        assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "buildArgs.private_secret")
    assert private.opened_by(found.hosts, "") == found.hosts
    assert private.opened_by(found.hosts, "b.example:443") == ("b.example",)
    assert private.opened_by(found.hosts, "c.example") == ()


# The plan


def test_the_download_alone_has_hosts_and_login_and_asks_no_proxy_for_them() -> None:
    made = planned()
    download, look, compiled = made.steps
    assert download.private == Private(hosts=("git.acme.example",), secret="ci", version=3)
    assert (download.argv, download.sees, download.network) == ((GO, "mod", "download"), Sees.STUBS, Network.INDEX)
    assert not download.runs_source and {cache.access for cache in download.caches} == {Access.DOWNLOAD}
    ours = {name: value for name, value in download.env if name in ("GOAUTH", "GOFLAGS", "GOINSECURE", "GONOPROXY",
            "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS")}  # fmt: skip
    assert ours == {
        "GOAUTH": "git /work/fetch",
        "GOFLAGS": "-buildvcs=false",
        "GOINSECURE": "",
        "GONOPROXY": "git.acme.example/acme,${GONOPROXY:-${GOPRIVATE:-}}",
        "GONOSUMDB": "git.acme.example/acme,${GONOSUMDB:-${GOPRIVATE:-}}",
        "GOPRIVATE": "git.acme.example/acme",
        "GOPROXY": "file:///work/fetch/.ignite-proxy,${GOPROXY:-https://proxy.golang.org}",
        "GOVCS": "*:git",
    }
    assert "direct" not in ours["GOPROXY"]
    for step in (look, compiled):
        assert step.private is None and step.network is Network.NONE
        assert not {"GOAUTH", "GOPRIVATE", "GONOPROXY", "GOVCS"} & dict(step.env).keys()
    assert [stub.path for stub in made.stubs] == [] and {one.path for one in made.copies} == {"go.mod", "go.sum"}
    assert [(one.value, one.why) for one in made.choices if one.name == "private modules"] == [
        ("git.acme.example/acme, by the secret ci", "build argument private")
    ]


def test_names_and_version_are_in_the_key_and_a_build_without_them_has_the_key_it_had() -> None:
    def key(plan: Plan) -> str:
        return build_key("acme", "sha256:c", plan, {})

    others = [planned(), planned(version=4), planned(private_secret="other"), planned(private="git.acme.example")]
    assert len({key(one) for one in others}) == 4
    plain = planned(private="-", private_secret="-")
    assert key(plain) not in {key(one) for one in others}
    assert not any("private" in step for step in plain.to_json()["steps"])
    assert planned().to_json()["steps"][0]["private"] == {"hosts": ["git.acme.example"], "secret": "ci", "version": 3}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (PUBLIC, "no module that is required is below it"),
        ({"go.mod": MOD, "main.go": MAIN, "vendor/modules.txt": ""}, "nothing is downloaded"),
        ({"main.go": MAIN}, "nothing is downloaded"),
        (PUBLIC | {"go.mod": PUBLIC["go.mod"].replace("example.com/app", "git.acme.example/acme/app"), "web/w.go":
         "package web\n", "main.go": 'package main\n\nimport _ "git.acme.example/acme/app/web"\n\nfunc main() {}\n'},
         "no module that is required is below it"),
    ],
    ids=["public alone", "vendored", "no modules", "its own packages"],
)  # fmt: skip
def test_a_build_without_a_private_module_has_no_login(files: dict[str, str], why: str) -> None:
    made = planned(files)
    assert not any(step.private for step in made.steps)
    assert f"private names git.acme.example/acme, and {why}: its secret is not used" in made.warnings


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"go.sum": ""}, "go.mod:5"),
        ({"go.sum": SUM.replace("v1.0.0", "v1.1.0")}, "go.mod:5"),
        ({"go.sum": "garbage\n"}, "go.mod:5"),
        ({"go.sum": PUBLIC["go.sum"], "go.mod": f"{PUBLIC['go.mod']}require {LIB} v1.0.0 // indirect\n"}, "go.mod:6"),
        ({"go.sum": PUBLIC["go.sum"], "go.mod": f"{PUBLIC['go.mod']}replace github.com/google/uuid => {LIB} v1.0.0\n"},
         "go.mod:5"),
        ({"go.mod": "-"}, "go.sum"),
    ],
    ids=["no line", "another version", "no sums", "an indirect one", "a replacement", "imports alone"],
)  # fmt: skip
def test_a_private_module_without_its_line_of_go_sum_is_the_users_to_mend(files: dict[str, str], where: str) -> None:
    source = {name: text for name, text in {**SOURCE, **files}.items() if text != "-"}
    if "go.mod" not in source:
        del source["go.sum"]
    error = refused(source)
    assert (error.reason, error.where, str(error.error_class)) == ("LockOutdated", where, "user_code"), error
    assert error.next == "Run GOPRIVATE=git.acme.example/acme go mod tidy, commit go.mod and go.sum."


def test_a_workspace_has_the_sums_of_all_its_modules() -> None:
    files = {
        "go.work": "go 1.24\n\nuse (\n\t./api\n\t./lib\n)\n",
        "api/go.mod": MOD, "api/main.go": SOURCE["main.go"],
        "lib/go.mod": "module example.com/lib\n\ngo 1.24\n", "lib/go.sum": SUM,
    }  # fmt: skip
    assert planned(files).steps[0].private
    error = refused({name: text for name, text in files.items() if name != "lib/go.sum"})
    assert (error.reason, error.where) == ("LockOutdated", "api/go.mod:5")


def test_a_replacement_by_a_private_module_of_another_path_needs_its_line_alone() -> None:
    mod = PUBLIC["go.mod"] + f"replace github.com/google/uuid => {LIB} v1.0.0\n"
    assert planned(SOURCE | {"go.mod": mod, "main.go": PUBLIC["main.go"]}).steps[0].private
    local = planned(SOURCE | {"go.mod": f"{MOD}replace {LIB} => ./lib\n", "go.sum": PUBLIC["go.sum"],
                              "lib/go.mod": f"module {LIB}\n", "lib/l.go": "package lib\n"})  # fmt: skip
    assert not any(step.private for step in local.steps)


def test_no_step_that_sees_the_source_or_has_no_network_can_have_a_login() -> None:
    (download, *_) = planned().steps
    changes: list[dict[str, Any]] = [{"network": Network.NONE}, {"sees": Sees.ALL, "cwd": "/work/src"}]
    for change in (*changes, {"runs_source": True}):
        with pytest.raises(ValueError, match="step download modules"):
            replace(download, **change)


# What a failed download means

LOGGED_IN = Step(
    name="download modules",
    argv=(GO, "mod", "download"),
    network=Network.INDEX,
    sees=Sees.STUBS,
    runs_source=False,
    cwd="/work/fetch",
    private=Private(hosts=("git.acme.example",), secret="ci", version=1),
)
RAN = "go: git.acme.example/acme/lib@v1.0.0: git ls-remote -q --end-of-options origin in /x: exit status 128:"
ROWS = {
    "wrong token": (
        [RAN, "\tfatal: Authentication failed for 'https://git.acme.example/acme/lib/'"],
        "GitAuthFailed", "buildArgs.private_secret", 'git.acme.example refused the login of the secret "ci"',
    ),
    "wrong token for a path that names its repository": (
        ["go: git.acme.example/lib.git@v1.0.0: no secure protocol found for repository"],
        "GitAuthFailed", "buildArgs.private_secret", 'https://git.acme.example/lib.git with the secret "ci": its token',
    ),
    "no permission": (
        [RAN, "\tfatal: unable to access 'https://git.acme.example/acme/lib/': The requested URL returned error: 403"],
        "GitAuthFailed", "buildArgs.private_secret", 'git.acme.example refused the login of the secret "ci"',
    ),
    "a discovery that needs a login": (
        ['go: git.acme.example/acme/lib@v1.0.0: unrecognized import path "git.acme.example/acme/lib": reading '
         "https://git.acme.example/acme/lib?go-get=1: 401 Unauthorized"],
        "GitAuthFailed", "buildArgs.private_secret", 'git.acme.example refused the login of the secret "ci"',
    ),
    "a secret for another host": (
        [RAN, "\tfatal: could not read Username for 'https://git.acme.example': terminal prompts disabled"],
        "GitAuthFailed", "buildArgs.private_secret", 'git.acme.example asks for a login, and the secret "ci" is not',
    ),
    "no repository": (
        [RAN, "\tremote: Not Found", "\tfatal: repository 'https://git.acme.example/acme/lib/' not found"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib",
        'there is no repository at https://git.acme.example/acme/lib/, or the secret "ci" may not see it',
    ),
    "no such tag": (
        ["go: git.acme.example/acme/lib@v1.0.0: invalid version: unknown revision v1.0.0"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib",
        "git.acme.example/acme/lib@v1.0.0 is not at its host",
    ),
    "no meta tag": (
        ['go: git.acme.example/acme/lib@v1.0.0: unrecognized import path "git.acme.example/acme/lib": parse '
         "https://git.acme.example/acme/lib?go-get=1: no go-import meta tags ()"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "git.acme.example names no repository of git.acme",
    ),
    "mercurial": (
        ["go: git.acme.example/acme/lib@v1.0.0: GOVCS disallows using hg for private git.acme.example/acme/lib; see"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "is fetched by hg; https is taken",
    ),
    "ssh": (
        [RAN, "\tfatal: transport 'ssh' not allowed"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "is fetched by ssh; https is taken",
    ),
    "a host that is down": (
        [RAN, "\tfatal: unable to access 'https://git.acme.example/acme/lib/': The requested URL returned error: 503"],
        "GitUnavailable", "", "git.acme.example did not answer",
    ),
    "a discovery that broke": (
        ['go: git.acme.example/acme/lib@v1.0.0: unrecognized import path "git.acme.example/acme/lib": https fetch: Get '
         '"https://git.acme.example/acme/lib?go-get=1": net/http: TLS handshake timeout'],
        "GitUnavailable", "", "git.acme.example did not answer",
    ),
    "a discovery that ended": (
        ['go: git.acme.example/acme/lib@v1.0.0: unrecognized import path "git.acme.example/acme/lib": https fetch: Get '
         '"https://git.acme.example/acme/lib?go-get=1": EOF'],
        "GitUnavailable", "", "git.acme.example did not answer",
    ),
    "a connection that broke": (
        [RAN, "\tfatal: unable to access 'https://git.acme.example/acme/lib/': Recv failure: Connection reset by peer"],
        "GitUnavailable", "", "git.acme.example did not answer",
    ),
    "a redirect to plain http": (
        ['go: git.acme.example/acme/lib@v1.0.0: unrecognized import path "git.acme.example/acme/lib": https fetch: '
         "redirected from secure URL https://git.acme.example/lib?go-get=1 to insecure URL http://git.acme.example"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "is fetched by another scheme",
    ),
    "a module of a telling name": (
        ["go: downloading example.org/insecure v1.0.0", "go: git.acme.example/acme/lib@v1.0.0: unknown revision v1"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "acme/lib@v1.0.0 is not at its host",
    ),
    "another module before it": (
        ["go: downloading git.acme.example/acme/other v1.0.0", RAN,
         "\tfatal: repository 'https://git.acme.example/acme/lib/' not found"],
        "DependencyNotFound", "go.mod  git.acme.example/acme/lib", "there is no repository at https://git.acme.example",
    ),
    "another module before one that names its repository": (
        ["go: downloading git.acme.example/other.git v1.0.0",
         "go: git.acme.example/lib.git@v1.0.0: no secure protocol found for repository"],
        "GitAuthFailed", "buildArgs.private_secret", "git cannot read https://git.acme.example/lib.git with",
    ),
    "a certificate": (
        [RAN, "\tfatal: unable to access 'https://git.acme.example/acme/lib/': server certificate verification failed"],
        "GitUrlRefused", "buildArgs.private", "the certificate of git.acme.example is not trusted here",
    ),
    "another module": (
        ["go: github.com/google/uuid@v9.9.9: invalid version: unknown revision v9.9.9"],
        "DependencyNotFound", "go.mod  github.com/google/uuid@v9.9.9", "is not to be had from the module proxy",
    ),
    "another checksum": (
        ["verifying git.acme.example/acme/lib@v1.0.0: checksum mismatch"],
        "LockOutdated", "go.sum", "a module is not the one go.sum pins",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_what_keeps_a_private_module_away_names_host_and_secret(row: str) -> None:
    lines, reason, where, message = ROWS[row]
    found = go.diagnose(LOGGED_IN, 1, lines)
    assert (found.reason, found.where) == (reason, where), found
    assert message in found.message and found.next and found.said, found


def test_a_step_without_a_login_blames_no_secret() -> None:
    lines, *_ = ROWS["no such tag"]
    found = go.diagnose(replace(LOGGED_IN, private=None), 1, lines)
    assert "module proxy" in found.message and "private_secret" in found.next
