"""Which wheel is taken of what an index offers: the best that the source allows, and none that is not the package's."""

from __future__ import annotations

import json

import pytest

from builder.errors import BuildError
from builder.pipelines.python import wheels
from builder.plan import Fetched
from builder.source.tree import DictTree

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


def offered(
    *files: tuple[str, str], name: str = "x", version: str = "1.0", host: str = "https://files.example/"
) -> str:
    """A resolver's lock of one package with these files as (name, SHA-256)."""
    each = ", ".join(f'{{ url = "{host}{file}", hashes = {{ sha256 = "{digest}" }} }}' for file, digest in files)
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = [{each}]\n'


def taken(lock: str, requirements: str = "x\n") -> Fetched:
    tree = DictTree({"pylock.toml": lock, "requirements.txt": requirements})
    found = wheels.fetched(tree, "requirements.txt", "requirements.txt", "3.11")
    assert found is not None
    return found


def test_nothing_is_known_before_the_resolver_has_run() -> None:
    tree = DictTree({"requirements.txt": "x\n"})
    assert wheels.fetched(tree, "requirements.txt", "requirements.txt", "3.11") is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("x-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "x-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"),
        ("x-1.0-cp311-cp311-manylinux2014_x86_64.whl", "x-1.0-cp311-abi3-manylinux_2_28_x86_64.whl"),
        ("x-1.0-cp39-abi3-manylinux_2_17_x86_64.whl", "x-1.0-cp37-abi3-manylinux_2_28_x86_64.whl"),
        ("x-1.0-cp37-abi3-manylinux_2_17_x86_64.whl", "x-1.0-py3-none-any.whl"),
        ("x-1.0-py3-none-manylinux_2_17_x86_64.whl", "x-1.0-py3-none-any.whl"),
        ("x-1.0-py311-none-any.whl", "x-1.0-py2.py3-none-any.whl"),
    ],
)
def test_the_most_specific_wheel_is_taken_in_whatever_order_they_come(better: str, worse: str) -> None:
    for files in (((better, ONE), (worse, TWO)), ((worse, TWO), (better, ONE))):
        (one,) = taken(offered(*files)).wanted
        assert (one.path, one.digest, one.package) == (f"{ONE}/{better}", f"sha256:{ONE}", "pkg:pypi/x@1.0")


def test_what_the_source_pins_goes_before_what_fits_better() -> None:
    files = ("x-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", ONE), ("x-1.0-py3-none-any.whl", TWO)
    found = taken(offered(*files), f"X==1.0 ; python_version >= '3' --hash=sha256:{TWO} --hash=sha256:{THREE}\n")
    assert [one.digest for one in found.wanted] == [f"sha256:{TWO}"]
    install = next(file.content for file in found.files if file.path == wheels.INSTALL)
    assert install == f"--find-links ${{WHEELS}}/{TWO}\nx==1.0 --hash=sha256:{TWO}\n"
    (download,) = json.loads(next(file.content for file in found.files if file.path == wheels.DOWNLOAD))
    assert download == {"url": "https://files.example/x-1.0-py3-none-any.whl", "path": f"{TWO}/x-1.0-py3-none-any.whl"}


def test_a_constraint_pins_as_a_requirement_does() -> None:
    files = {"pylock.toml": offered(("x-1.0-py3-none-any.whl", ONE)), "requirements.txt": "x\n"}
    for digest, reason in ((ONE, ""), (TWO, "LockOutdated")):
        tree = DictTree(files | {"constraints.txt": f"x==1.0 --hash=sha256:{digest}\n"})
        try:
            wheels.fetched(tree, "requirements.txt", "requirements.txt", "3.11")
            found = ""
        except BuildError as error:
            found = error.reason
        assert found == reason


def test_a_hash_behind_no_requirement_is_the_manifests_fault() -> None:
    with pytest.raises(BuildError) as caught:
        taken(offered(("x-1.0-py3-none-any.whl", ONE)), f"x y z --hash=sha256:{ONE}\n")
    assert caught.value.reason == "ManifestInvalid"


def test_pins_are_read_over_the_lines_that_uv_writes() -> None:
    lock = offered(("x-1.0-py3-none-any.whl", TWO))
    assert taken(
        lock, f"# by uv\nx==1.0 ; python_version >= '3' \\\n    --hash=sha256:{ONE} \\\n    --hash=sha256:{TWO}\n"
    )


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (f"x==1.0 --hash=sha256:{THREE}\n", "x==1.0 is not the one requirements.txt pins by hash"),
        (f"y==1.0 --hash=sha256:{ONE}\nx\n", "x is needed, but requirements.txt pins others by hash"),
    ],
)
def test_what_no_pin_allows_is_an_outdated_lock(requirements: str, words: str) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        taken(offered(("x-1.0-py3-none-any.whl", ONE)), requirements)
    assert caught.value.reason == "LockOutdated"


@pytest.mark.parametrize(
    "lock",
    [
        offered(("y-1.0-py3-none-any.whl", ONE)),
        offered(("x-2.0-py3-none-any.whl", ONE)),
        offered(("x-1.0.tar.gz", ONE)),
        offered(("x-1.0-py3-none-any.whl", "0" * 63)),
        offered(("x-1.0-py3-none-any.whl", "../" * 21 + "x")),
        offered(("x-1.0-py3-none-any.whl", ONE), host="file:///work/src/"),
        offered(("..%2F..%2Fx-1.0-py3-none-any.whl", ONE)),
        offered(("x-1.0-1%2F..%2F..-py3-none-any.whl", ONE)),
        offered(("x-1.0-1%00-py3-none-any.whl", ONE)),
        '[[packages]]\nname = "x"\nversion = "1.0"\n',
        '[[packages]]\nname = "x"\nversion = "1.0"\nwheels = 5\n',
    ],
    ids=[
        "another's", "another version's", "a source", "no digest", "a path", "a local file", "a name that leads out",
        "a tag that leads out", "a NUL", "none", "no list",
    ],
)  # fmt: skip
def test_what_is_no_wheel_of_the_package_is_not_taken(lock: str) -> None:
    with pytest.raises(BuildError, match="neither a wheel"):
        taken(lock)
