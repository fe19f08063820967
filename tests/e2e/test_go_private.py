"""Private modules of Go: a real `go` and git fetch them from a host behind TLS and a login, by the secret's name."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import git_fixtures as hosts
from tests.build_fixtures import Server, fetch_json, tar_of
from tests.e2e.conftest import Start
from tests.git_fixtures import NAME, TOKEN, USERNAME, Host

pytestmark = pytest.mark.e2e

PLAIN, FOUND = f"{NAME}/private-lib.git", f"{NAME}/private/found"
"""A path that names its repository, and one whose repository the host names on `?go-get=1`, after a login."""
VERSION = "v1.2.0"


@dataclass(frozen=True)
class World:
    """A server whose way to the host leads through an operator's proxy; go.sum lines of the host's modules."""

    server: Server
    host: Host
    sums: Mapping[str, str]

    def build(self, name: str, secret: str, *modules: str) -> pb.Build:
        imports = "".join(f'import m{number} "{module}"\n' for number, module in enumerate(modules))
        words = ", ".join(f"m{number}.Word" for number in range(len(modules)))
        requires = "".join(f"require {module} {VERSION}\n" for module in modules)
        files = {
            "go.mod": f"module example.com/app\n\ngo 1.24\n\n{requires}",
            "go.sum": "".join(self.sums[module] for module in modules),
            "main.go": f"package main\n\n{imports}\nfunc main() {{ println({words}) }}\n",
        }
        arguments = {"private": NAME, "private_secret": secret}
        return self.server.wait(self.server.submit(name, tar_of(files), "go", build_args=arguments))

    def log(self, build: pb.Build) -> str:
        return self.server.log(build.build_id).text


def hash1(files: Mapping[str, str]) -> str:
    """As go.sum has it (golang.org/x/mod/sumdb/dirhash, Hash1)."""
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items())]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def publish(host: Host, folder: Path, module: str, repository: str) -> str:
    """A module of one package with a tag on the host; its lines of go.sum."""
    files = {"go.mod": f"module {module}\n\ngo 1.24\n", "m.go": f'package m\n\nconst Word = "of {module}"\n'}
    hosts.commit(folder, files)
    hosts.git(folder, "tag", VERSION)
    hosts.publish(host, folder, repository)
    whole = {f"{module}@{VERSION}/{name}": text for name, text in files.items()}
    return f"{module} {VERSION} {hash1(whole)}\n{module} {VERSION}/go.mod {hash1({'go.mod': files['go.mod']})}\n"


@pytest.fixture(scope="module")
def world(start: Start, request: pytest.FixtureRequest) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-git-", dir="/var/tmp"))  # build users read the CA bundle
    folder.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    with hosts.serving(folder, load({}).settings.ca_bundle) as host, hosts.leading_to(host) as through:
        meta = (
            f'<html><head><meta name="go-import" content="{FOUND} git https://{NAME}/private-found.git"></head></html>'
        )
        host.pages["/private/found"] = meta
        sums = {
            PLAIN: publish(host, folder / "plain", PLAIN, "private-lib"),
            FOUND: publish(host, folder / "found", FOUND, "private-found"),
            f"{NAME}/private-other.git": publish(host, folder / "other", f"{NAME}/private-other.git", "private-other"),
        }
        settings = {"upstream_proxy": through, "git_hosts": (NAME,), "ca_bundle": str(host.bundle)}
        with start(start_check="off", **settings) as server:
            save = pb.SaveBuildSecretsRequest()
            save.named.add(name="ci", git_token=pb.GitToken(username=USERNAME, token=TOKEN))
            save.named.add(name="old", git_token=pb.GitToken(username=USERNAME, token="ghp_wrongwrongwrong"))
            server.api.call("SaveBuildSecrets", save)
            yield World(server, host, sums)


def test_private_modules_are_fetched_with_the_secret_and_named_by_their_hashes(world: World, registry: str) -> None:
    build = world.build("private", "ci", PLAIN, FOUND)
    log = world.log(build)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, log)
    assert any("git-upload-pack" in path for path in world.host.asked)
    found = dependencies(registry, build)
    for module in (PLAIN, FOUND):
        digest = base64.b64decode(world.sums[module].split()[2].removeprefix("h1:")).hex()
        assert found[f"pkg:golang/{module}@{VERSION}"] == {"dirHash": digest}
    forms = (TOKEN.encode(), base64.b64encode(f"{USERNAME}:{TOKEN}".encode()))
    assert not any(form.decode() in log + str(build) for form in forms)
    settings = world.server.embedded.settings
    left = [path for root in (settings.node_dir, settings.data_dir) for path in files_below(root)]
    assert left and [path for path in left if any(form in content_of(path) for form in forms)] == []


def test_a_wrong_token_is_the_users_and_names_host_and_secret(world: World) -> None:
    for module in (f"{NAME}/private-other.git", FOUND):
        build = world.build("refused", "old", module)
        failure, log = build.failure, world.log(build)
        found = (failure.reason, failure.where, failure.error_class, failure.phase)
        assert found == ("GitAuthFailed", "buildArgs.private_secret", "client", pb.BUILD_PHASE_BUILD), (failure, log)
        assert NAME in failure.message and '"old"' in failure.message, failure
        assert "ghp_wrongwrongwrong" not in log + str(build)


def files_below(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        yield from (os.path.join(folder, name) for name in names)


def content_of(path: str) -> bytes:
    """Nothing of what is no file, or is gone by now: a spool ends with its build."""
    try:
        return Path(path).read_bytes() if Path(path).is_file() and not Path(path).is_symlink() else b""
    except FileNotFoundError:
        return b""


def dependencies(registry: str, build: pb.Build) -> dict[str, dict[str, str]]:
    """The resolvedDependencies of the statement that is attached to a build's artifact, by name."""
    manifests = f"{build.repository}/manifests"
    index, _ = fetch_json(registry, f"{manifests}/{build.image_digest.replace(':', '-')}",
                          "application/vnd.oci.image.index.v1+json")  # fmt: skip
    (referrer,) = index["manifests"]
    attached, _ = fetch_json(
        registry, f"{manifests}/{referrer['digest']}", "application/vnd.oci.image.manifest.v1+json"
    )
    statement, _ = fetch_json(registry, f"{build.repository}/blobs/{attached['layers'][0]['digest']}")
    return {part["name"]: part["digest"] for part in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
