"""Image mode up to its plan: the choice of a strategy, hostile paths, what `plan` and `build` make of a Dockerfile."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from builder.cli.commands.build import _again
from builder.cli.ignore import Choice
from builder.cli.pack import pack
from builder.cli.requests import BuildOptions, as_image, git_request, makes_image, request_of
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dockerfile.choose import ImagePlan, ImageRequest, plan_image
from builder.dockerfile.paths import check_path
from builder.errors import BuildError
from builder.services import intake
from builder.services.errors import CallRefused
from builder.settings import Settings
from tests.cli_fixtures import run

GOOD = "FROM alpine:3\nCOPY src /x\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    (root / "src").mkdir(parents=True)
    (root / "src/a.c").write_text("x")
    return root


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_dockerfile_means_kaniko_and_none_means_buildpacks(source: Path) -> None:
    assert plan_image(source, ImageRequest()) == ImagePlan(strategy="buildpacks", because="no Dockerfile at the root")
    put(source, Dockerfile=GOOD, docker__web_dot_Dockerfile="FROM scratch\n")
    found = plan_image(source, ImageRequest())
    assert (found.strategy, found.because) == ("kaniko", "Dockerfile at the root")
    assert (found.dockerfile, found.bases) == ("Dockerfile", ("docker.io/library/alpine:3",))
    found = plan_image(source, ImageRequest(dockerfile="docker/web.Dockerfile"))
    assert (found.because, found.bases) == ("docker/web.Dockerfile is named", ())


def test_a_sub_path_is_the_context(source: Path) -> None:
    put(source, app__Dockerfile="FROM scratch\nCOPY here /\n", app__here="x")
    assert plan_image(source, ImageRequest(sub_path="app")).because == "Dockerfile in app"
    with pytest.raises(BuildError, match="DockerfileInvalid"):
        plan_image(source, ImageRequest(dockerfile="app/Dockerfile"))
    with pytest.raises(BuildError, match="is not in the source"):
        plan_image(source, ImageRequest(sub_path="apps"))
    (source / "link").symlink_to("app")
    for other in ("link", "app/here"):
        with pytest.raises(BuildError, match="is no folder of the source"):
            plan_image(source, ImageRequest(sub_path=other))


def test_a_named_dockerfile_that_is_not_there_lists_what_is(source: Path) -> None:
    put(source, Dockerfile=GOOD, docker__web_dot_Dockerfile=GOOD, Dockerfile_dot_dev=GOOD)
    with pytest.raises(BuildError) as refused:
        plan_image(source, ImageRequest(dockerfile="Dockerfile.prod"))
    error = refused.value
    assert (error.reason, str(error.error_class)) == ("InvalidRequest", "client")
    assert error.message.endswith("there is Dockerfile, Dockerfile.dev, docker/web.Dockerfile")
    shutil.rmtree(source)
    put(source, main__go="package main\n")
    with pytest.raises(BuildError, match="there is none at all") as refused:
        plan_image(source, ImageRequest(dockerfile="Dockerfile"))
    assert "buildpacks" not in refused.value.next and "--dockerfile" in refused.value.next


@pytest.mark.parametrize(
    ("lines", "where", "message", "step"),
    [
        ("RUN <<EOF\necho hi\nEOF\n", "Dockerfile:3:5", "RUN has the heredoc EOF", "&&"),
        ("RUN true && \\\n  cat <<-'A B' > /x\nhi\nA B\n", "Dockerfile:4:7", "RUN has the heredoc A B", "&&"),
        ("COPY <<EOF /etc/motd\nhi\nEOF\n", "Dockerfile:3:6", "COPY has the heredoc EOF", "COPY that"),
        ("ONBUILD RUN <<EOF\nhi\nEOF\n", "Dockerfile:3:13", "RUN has the heredoc EOF", "&&"),
    ],
)
def test_a_heredoc_that_kaniko_would_drop_is_refused(
    source: Path, lines: str, where: str, message: str, step: str
) -> None:
    put(source, Dockerfile=f"{GOOD}{lines}")
    with pytest.raises(BuildError) as refused:
        plan_image(source, ImageRequest())
    error = refused.value
    assert (error.reason, error.where) == ("DockerfileInvalid", where)
    assert error.message.startswith(message) and step in error.next


@pytest.mark.parametrize(
    "line", ['RUN bash -c "cat <<EOF"', "RUN cat <<< hi", 'RUN ["cat", "<<EOF"]', "RUN echo $((1<<2))"]
)
def test_what_is_no_heredoc_is_not_refused(source: Path, line: str) -> None:
    put(source, Dockerfile=f"{GOOD}{line}\n")
    assert plan_image(source, ImageRequest()).strategy == "kaniko"


def test_the_ignore_file_of_a_dockerfile_wins(source: Path) -> None:
    put(source, Dockerfile=GOOD, _dot_dockerignore="src\n")
    with pytest.raises(BuildError, match=r"\.dockerignore:1"):
        plan_image(source, ImageRequest())
    put(source, Dockerfile_dot_dockerignore="docs\n")
    plan_image(source, ImageRequest())
    put(source, Dockerfile_dot_dockerignore="[a-\n")
    with pytest.raises(BuildError, match="DockerfileInvalid") as refused:
        plan_image(source, ImageRequest())
    assert refused.value.where == "Dockerfile.dockerignore"


HOSTILE_PATHS = [
    "/etc/passwd", "/", "../x", "..", "a/../../x", "a/..", "a/../b/../../c", "\\x", "..\\x", "C:\\x", "a\0b", "a\nb",
    "a\x1b[2Jb", "a\u202eb", "a\rb", "\x7f", "a" * 2000, "//x", "//host/share", "/proc/self/environ", "./../x",
    "x/./../..", "\u2028", "../../../../../../../../etc/shadow", "a/b/../../../c", "\t", "a\x85b", "\ufeff",
    "/dev/stdin", "a/\0", "..//x",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=range(len(HOSTILE_PATHS)))
def test_a_path_that_leads_out_is_refused_before_anything_is_read(path: str) -> None:
    for fields in ({"dockerfile_path": path}, {"sub_path": path}):
        request = pb.CreateBuildRequest(name="app")
        for name, value in fields.items():
            setattr(request.code.image.from_code, name, value)
        with pytest.raises(BuildError) as refused:
            intake.take(request, "acme", None)  # type: ignore[arg-type] # nothing of the server is looked at
        assert refused.value.reason == "InvalidRequest" and refused.value.message.isprintable()
        assert not isinstance(refused.value, CallRefused)


@pytest.mark.parametrize(
    "path", ["", ".", "a", "a/b", "a/./b", "a//b", "--destination=x", "-x", "$(id)", "a b", "é", "*"]
)
def test_a_path_that_stays_inside_is_taken(path: str) -> None:
    assert not check_path(path, "x").startswith(("/", ".."))


def test_a_link_out_of_the_source_is_no_dockerfile(source: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("FROM secret\n")
    (source / "Dockerfile").symlink_to(tmp_path / "outside")
    with pytest.raises(BuildError):
        plan_image(source, ImageRequest(dockerfile="Dockerfile"))
    assert plan_image(source, ImageRequest()).strategy == "buildpacks"


@pytest.mark.parametrize(
    "arguments",
    [{"": "x"}, {"A B": "x"}, {"1A": "x"}, {"A=B": "x"}, {"--push": "x"}, {"A\n": "x"}, {"A": "x\0"}, {"é": "x"}],
    ids=range(8),
)
def test_a_build_argument_that_is_no_arg_is_refused(arguments: dict[str, str]) -> None:
    request = pb.CreateBuildRequest(name="app")
    request.code.image.from_code.build_args.update(arguments)
    with pytest.raises(BuildError) as refused:
        intake.take(request, "acme", None)  # type: ignore[arg-type]
    assert refused.value.reason == "InvalidRequest" and not isinstance(refused.value, CallRefused)


# The command line


def local(source: Path) -> Settings:
    return Settings(data_dir=str(source.parent / "data"), node_dir=str(source.parent / "node"))


def plan(*argv: str, **more: Any) -> Any:
    ran = run("plan", *argv, "--json", **more)
    return ran.code, json.loads(ran.out)


def test_plan_says_why_a_folder_is_image_mode(source: Path) -> None:
    put(source, Dockerfile=GOOD)
    code, found = plan(str(source))
    assert code == 0 and found["image"]["because"] == "Dockerfile at the root" and "plan" not in found
    lines = run("plan", str(source)).out.splitlines()
    first = [line.split()[0] for line in lines if line[0].isalnum() or line.startswith("    ")][:6]
    assert first == ["VALUE", "image", "file", "base", "source", "job"]
    assert [line.split()[0] for line in lines[-2:]] == ["output", "next"]
    put(source, main_dot_py="def handler(payload, ctx):\n    return 1\n", requirements_dot_txt="")
    put(source, handler_dot_py="def handler(payload, ctx):\n    return 1\n")
    assert "plan" in plan(str(source))[1], "a runtime that fits goes before a Dockerfile that nobody named"
    assert "image" in plan(str(source), "--dockerfile", "Dockerfile")[1]


def test_plan_shows_the_job_that_would_be_made(source: Path) -> None:
    put(source, Dockerfile=GOOD, app__Dockerfile="FROM scratch\nARG WHO\nCOPY x /\n", app__x="x")
    argv = ("--sub-path", "app", "--build-arg", "WHO=$(us)\x7f\x1b[31m")
    code, found = plan(str(source), *argv, settings=local(source))
    pod = found["job"]["spec"]["template"]["spec"]
    (main,) = pod["containers"]
    assert code == 0 and found["job"]["metadata"]["name"] == "ignite-BUILD-1"
    assert {"--dockerfile=/kaniko/buildcontext/app/Dockerfile", "--build-arg=WHO=$$(us)\x7f\x1b[31m"} <= {*main["args"]}
    assert "--destination=REGISTRY/ORGANIZATION/shop:build-BUILD-1" in main["args"]
    assert pod["initContainers"][0]["env"] == [{"name": "SOURCE_URL", "value": "SOURCE_URL"}]
    words = {"BUILD", "SOURCE_URL", "REGISTRY", "ORGANIZATION", "EXECUTOR_IMAGE", "FETCH_IMAGE"}
    assert found["placeholders"].keys() == words
    ran = run("plan", str(source), *argv, settings=local(source))
    shown = ran.out[ran.out.index("\n{\n") : ran.out.rindex("\n}\n") + 3]
    assert json.loads(shown) == found["job"] and "\x1b" not in ran.out and "\x7f" not in ran.out
    assert all(f" {word}  " in ran.out for word in words)


def test_plan_shows_what_the_settings_at_hand_decide(source: Path) -> None:
    put(source, Dockerfile=GOOD)
    here = {"kaniko_executor": "r.example/kaniko@sha256:" + "0" * 64, "registry": "r.example", "organization": "acme"}
    settings = local(source).replace(**here, registry_insecure=True, kaniko_cache=False, job_node_selector={"a": "b"})
    _, found = plan(str(source), settings=settings)
    pod = found["job"]["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], [one["name"] for one in pod["volumes"]]) == ({"a": "b"}, ["source"])
    (main,) = pod["containers"]
    assert main["image"] == here["kaniko_executor"]
    assert {"--insecure-registry=r.example", "--destination=r.example/acme/shop:build-BUILD-1"} <= {*main["args"]}
    assert found["placeholders"].keys() == {"BUILD", "SOURCE_URL", "FETCH_IMAGE"}
    _, found = plan(str(source), settings=settings.replace(server="http://127.0.0.1:1"))
    assert {"REGISTRY", "ORGANIZATION"} <= found["placeholders"].keys(), "a server decides by its own settings"


@pytest.mark.parametrize(
    ("project", "argument", "words"),
    [
        ("[_]\nschema-version = 'x'\n", "BP_A=1", "schema-version x is not known"),
        ("", "NODE_ENV=1", "the variable NODE_ENV is not allowed"),
    ],
)
def test_plan_refuses_what_a_worker_would_refuse_of_buildpacks(
    source: Path, project: str, argument: str, words: str
) -> None:
    put(source, project_dot_toml=project)
    ran = run("plan", str(source), "--buildpacks", "--build-arg", argument, settings=local(source))
    assert ran.code != 0 and words in ran.err


def test_buildpacks_are_asked_for_and_a_runtime_that_fits_does_not_count(source: Path) -> None:
    put(source, handler_dot_py="def handler(payload, ctx):\n    return 1\n")
    assert "plan" in plan(str(source))[1]
    code, found = plan(str(source), "--buildpacks")
    assert (code, found["image"]["strategy"], found["image"]["because"]) == (
        0,
        "buildpacks",
        "buildpacks are asked for",
    )
    ran = run("plan", str(source), "--buildpacks", settings=local(source).replace(server="http://127.0.0.1:1"))
    output, following = ran.out.splitlines()[-2:]
    assert output.endswith("by Cloud Native Buildpacks in a Kubernetes Job") and following.endswith(" --buildpacks")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--runtime", "go"), "--buildpacks and --runtime exclude each other"),
        (("--dockerfile", "Dockerfile"), "--buildpacks and --dockerfile exclude each other"),
    ],
)
def test_what_excludes_buildpacks_is_named(source: Path, argv: tuple[str, ...], words: str) -> None:
    put(source, Dockerfile="FROM nothing that could be one\n")
    for command in ("plan", "build"):
        ran = run(command, str(source), "--buildpacks", *argv, settings=local(source))
        assert ran.code == 2 and words in ran.err, ran.err


def test_buildpacks_that_are_asked_for_go_before_a_dockerfile(source: Path) -> None:
    put(source, Dockerfile="FROM nothing that could be one\n", app__x="x")
    code, found = plan(str(source), "--buildpacks")
    assert (code, found["image"]["strategy"], found["image"]["dockerfile"]) == (0, "buildpacks", "")
    found = plan_image(source, ImageRequest(sub_path="app", buildpacks=True))
    assert (found.strategy, found.because, found.sub_path) == ("buildpacks", "buildpacks are asked for", "app")
    with pytest.raises(BuildError, match="is not in the source"):
        plan_image(source, ImageRequest(sub_path="apps", buildpacks=True))


def test_without_a_cluster_buildpacks_say_what_to_do(source: Path) -> None:
    put(source, index_dot_html="x")
    ran = run("build", str(source), "--buildpacks", settings=local(source))
    assert ran.code == 75 and "ToolchainUnavailable" in ran.err and "--server=URL" in " ".join(ran.err.split())


def test_buildpacks_send_a_context_without_a_dockerfile(source: Path) -> None:
    put(source, app__index_dot_html="x")
    options = BuildOptions(path=str(source), build_args={"sub_path": "app", "BP_MODE": "fast"}, buildpacks=True)
    settings = local(source).replace(server="http://127.0.0.1:1")
    packed = pack(options.path, io.BytesIO(), Choice())
    request = request_of(options, packed)
    assert makes_image(settings, options, packed)
    as_image(request, options, settings)
    asked = request.code.image.from_code
    assert (asked.sub_path, dict(asked.build_args), asked.dockerfile_path) == ("app", {"BP_MODE": "fast"}, "")
    assert request.buildpacks


@pytest.mark.parametrize("options", [{"dockerfile": "./docker/Dockerfile"}, {"buildpacks": True}])
def test_a_commit_is_asked_for_as_an_image(source: Path, options: dict[str, Any]) -> None:
    settings = local(source).replace(server="http://127.0.0.1:1")
    asked = {"git": "https://example.com/acme/app.git#v1:service", "secret": "ci", "submodules": True, **options}
    request = git_request(BuildOptions(path="", build_args={"WHO": "us"}, **asked), (), settings)
    found = request.code.image.from_git
    assert (request.name, found.url, found.reference) == ("app", "https://example.com/acme/app.git", "v1")
    assert (found.sub_path, found.secret_ref, dict(found.build_args)) == ("service", "ci", {"WHO": "us"})
    assert found.submodules
    assert found.dockerfile_path == ("docker/Dockerfile" if "dockerfile" in options else "")
    assert not request.build_args and request.WhichOneof("source") == "code"
    assert request.buildpacks == ("buildpacks" in options)
    intake._check_image(request)


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"path": "my app"}, "'my app'"),
        ({"path": ".", "dockerfile": "x"}, ". --dockerfile x"),
        ({"git": "https://e.com/a.git#v1:b", "secret": "ci"}, "--git 'https://e.com/a.git#v1:b' --secret ci"),
        ({"git": "https://e.com/a.git", "buildpacks": True}, "--git https://e.com/a.git --buildpacks"),
        ({"git": "https://e.com/a.git", "submodules": True}, "--git https://e.com/a.git --submodules"),
    ],
)
def test_the_command_to_try_again_makes_the_same_thing(options: dict[str, Any], command: str) -> None:
    assert _again(BuildOptions(**{"path": "", **options})) == command


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--dockerfile", "Dockerfile"), 75, "a Dockerfile is built by a cluster behind a server"),
        (("--buildpacks",), 75, "buildpacks run in a cluster behind a server"),
        (("--dockerfile", "../x"), 2, "leads out of the source"),
        (("--dockerfile", "x", "--sub-path", "other"), 2, "the folder of --git and --sub-path differ"),
    ],
)
def test_a_commit_that_cannot_become_an_image_is_refused_before_anything_is_asked(
    source: Path, argv: tuple[str, ...], code: int, words: str
) -> None:
    server = "" if code == 75 else "http://127.0.0.1:1"
    settings = local(source).replace(server=server)
    ran = run("build", "--git", "https://example.com/a.git#main:app", *argv, settings=settings)
    text = " ".join(ran.err.split())
    assert ran.code == code and words in text, ran.err
    assert ("--server=URL" in text) == (code == 75) and "checked alone" not in text


def test_a_dockerfile_that_dockerignore_names_is_sent_when_it_is_named(source: Path) -> None:
    put(source, Dockerfile=GOOD, _dot_dockerignore="Dockerfile\n")
    code, found = plan(str(source), "--dockerfile", "Dockerfile")
    assert (code, found["image"]["dockerfile"]) == (0, "Dockerfile")


def test_what_cannot_be_built_is_refused_before_anything_is_sent(source: Path) -> None:
    put(source, Dockerfile="FROM alpine\nCOPY sources /x\n")
    for command in ("plan", "build"):
        ran = run(command, str(source), settings=local(source))
        assert ran.code == 1 and 'COPY names "sources"' in ran.err and "Dockerfile:2:6" in ran.err
    ran = run("build", str(source), "--dockerfile", "Dockerfile", "--runtime", "go", settings=local(source))
    assert ran.code == 2 and "--dockerfile makes an image" in ran.err


def test_without_a_cluster_a_build_of_a_dockerfile_says_what_to_do(source: Path) -> None:
    put(source, Dockerfile=GOOD)
    ran = run("build", str(source), settings=local(source))
    assert ran.code == 75 and ran.out == ""
    assert "ToolchainUnavailable" in ran.err and "ignite-builder build --image REF" in ran.err
    assert "--server=URL" in " ".join(ran.err.split()), "and first a server that has a cluster"


@pytest.mark.parametrize(
    ("server", "command"), [("", "build --image REF"), ("http://127.0.0.1:1", "--dockerfile Dockerfile")]
)
def test_the_plan_of_a_dockerfile_names_no_command_that_would_be_refused(
    source: Path, server: str, command: str
) -> None:
    put(source, Dockerfile=GOOD)
    settings = local(source).replace(server=server)
    ran = run("plan", str(source), "--dockerfile", "Dockerfile", settings=settings)
    output, following = ran.out.splitlines()[-2:]
    assert ran.code == 0 and output.endswith("by Kaniko in a Kubernetes Job"), ran
    assert following.startswith("next ") and following.endswith(command)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "there is nothing to build"),
        ((".", "--image", "alpine"), "PATH and --image exclude each other"),
        ((".", "--secret", "hub"), "--secret is for a private image or repository"),
        (("--image", "alpine", "--tag", "v1"), "--tag is of no use with --image"),
        (("--image", "alpine", "--dockerfile", "x"), "--dockerfile is of no use with --image"),
        (("--image", "alpine", "--buildpacks"), "--buildpacks is of no use with --image"),
        (("--image", "alpine", "--submodules"), "--submodules is for a repository"),
        (
            ("--git", "https://example.com/a.git", "--buildpacks", "--dockerfile", "x"),
            "--buildpacks and --dockerfile exclude each other",
        ),
        (("--git", "https://example.com/a.git", "--buildpacks", "--runtime", "go"), "--runtime compiles"),
        (("--git", "https://example.com/a.git", "--dockerfile", "x", "--target", "wasm"), "--target compiles"),
        (("--image", "https://alpine"), "is a URL"),
        (("--image", "alpine", "--entry", "x"), "the build argument entry is of no use with --image"),
    ],
)
def test_a_mistyped_source_is_named(argv: tuple[str, ...], words: str) -> None:
    ran = run("build", *argv)
    assert ran.code == 2 and words in ran.err, ran.err


def test_a_secret_without_a_value_says_how_one_is_sent(source: Path) -> None:
    ran = run("secret", "set", "hub", "--type", "build", settings=local(source))
    assert ran.code == 2 and "stdin has no value" in ran.err
    assert ran.err.splitlines()[-1] == "next   Send it there: ignite-builder secret set hub --type build < FILE"
