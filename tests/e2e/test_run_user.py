"""`run` of a stranger's image, as the user that its own files name, in a folder that is for this user alone."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.images import place
from builder.images.image import ImageConfig, build_image
from builder.images.layer import press_layer
from builder.images.layout import Layout
from builder.images.store import pull
from builder.local import run
from tests.build_fixtures import Server

pytestmark = pytest.mark.e2e
REPOSITORY = "acme/named"
UID, GID, OTHER = 1234, 1300, 1400
WHO = """\
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	folder, err := os.Getwd()
	own, failed := os.ReadFile("own.txt")
	said := fmt.Sprintf("%d:%d in %q (%v), home %q, %q (%v)",
		os.Getuid(), os.Getgid(), folder, err, os.Getenv("HOME"), own, failed)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, said) })
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"""
PASSWD = f"""\
root:x:0:0:root:/root:/bin/sh
shop:x:{UID}:{GID}::/srv/home:/bin/sh
"""
GROUP = f"root:x:0:\nshop:x:{GID}:\nstaff:x:{OTHER}:shop\n"


@pytest.fixture(scope="module")
def program(server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static binary that answers who it is, and what it reads where it starts."""
    build = server.build("who", WHO, runtime="go")
    settings, folder = server.embedded.settings, tmp_path_factory.mktemp("who")
    registry = place.destination(settings.registry, "", insecure=settings.registry_insecure)
    assert pull(registry, build.repository, build.image_digest, folder) is not None
    return (folder / "root/app/app").read_bytes()


def pushed(data: Path, work: Path, program: bytes, user: str, workdir: str) -> pb.Build:
    """An image whose folders belong to a user of its own, in the data folder `data`; the record that names it."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, mode, owner, content in (
            ("app", 0o755, (0, 0), program),
            ("etc/passwd", 0o644, (0, 0), PASSWD.encode()),
            ("etc/group", 0o644, (0, 0), GROUP.encode()),
            ("srv/shop", 0o700, (UID, GID), None),
            ("srv/shop/own.txt", 0o600, (UID, GID), b"mine"),
            ("srv/staff", 0o770, (0, OTHER), None),
            ("srv/staff/own.txt", 0o640, (0, OTHER), b"ours"),
        ):
            entry = tarfile.TarInfo(name)
            entry.mode, (entry.uid, entry.gid) = mode, owner
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            out.addfile(entry, io.BytesIO(content or b""))
    tar.seek(0)
    layer = press_layer(tar, work / "layer.tar.gz", limit=2**30)
    image = build_image(None, (layer,), ImageConfig(entrypoint=("/app",), user=user, workdir=workdir))
    reference = Layout(data / "artifacts").push(image, REPOSITORY, None).reference
    return pb.Build(repository=REPOSITORY, image_digest=image.digest, artifact_ref=reference)


@pytest.mark.parametrize(
    ("user", "workdir", "said"),
    [
        ("shop", "/srv/shop", f'{UID}:{GID} in "/srv/shop" (<nil>), home "/srv/home", "mine" (<nil>)'),
        (f"{UID}", "/srv/shop", f'{UID}:{GID} in "/srv/shop" (<nil>), home "/srv/home", "mine" (<nil>)'),
        ("shop:staff", "/srv/staff", f'{UID}:{OTHER} in "/srv/staff" (<nil>), home "/srv/home", "ours" (<nil>)'),
        ("7", "/", '7:0 in "/" (<nil>), home "/", "" (open own.txt: no such file or directory)'),
        ("root", "/", '0:0 in "/" (<nil>), home "/root", "" (open own.txt: no such file or directory)'),
    ],
)
def test_an_app_is_its_images_user_and_starts_in_a_folder_of_this_user_alone(
    server: Server, program: bytes, tmp_path: Path, user: str, workdir: str, said: str
) -> None:
    settings = server.embedded.settings.replace(registry="", data_dir=str(tmp_path))
    build = pushed(tmp_path, tmp_path, program, user, workdir)
    with run.started(settings, build) as app:
        assert httpx.get(app.url, timeout=120, trust_env=False).text == said


@pytest.mark.parametrize(
    ("user", "workdir", "where", "words"),
    [
        ("7", "/srv/shop", "config.WorkingDir", "is /srv/shop, and its user 7 may not enter /srv/shop"),
        ("shop", "/srv/staff", "config.WorkingDir", f"its user {UID} may not enter /srv/staff"),
        ("nobody", "/", "config.User", "is nobody, a user that its /etc/passwd does not have"),
        ("shop:wheel", "/", "config.User", "is shop:wheel, with a group that its /etc/group does not have"),
    ],
)
def test_an_image_that_its_own_user_cannot_start_is_named(
    server: Server, program: bytes, tmp_path: Path, user: str, workdir: str, where: str, words: str
) -> None:
    settings = server.embedded.settings.replace(registry="", data_dir=str(tmp_path))
    build = pushed(tmp_path, tmp_path, program, user, workdir)
    with pytest.raises(BuildError) as caught, run.started(settings, build):
        pass
    assert (caught.value.reason, caught.value.where) == ("ImageContractViolated", where)
    assert words in caught.value.message
