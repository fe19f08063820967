"""The catalog: what is found, what is refused and in which words."""

from __future__ import annotations

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
RUNTIMES = ", ".join(sorted(pipelines.names()))


def test_an_empty_version_is_the_default() -> None:
    assert {one: CATALOG.find(one).version for one in ("python", "rust", "go", "deno")} == {
        "python": "3.11",
        "rust": "1.95",
        "go": "1.26",
        "deno": "2.7",
    }


def test_a_row_names_toolchain_and_base() -> None:
    row = CATALOG.find("go", "1.26", "native")
    assert (row.name, row.base, row.target) == ("go-1.26", "go", "native")
    row = CATALOG.find("python", "3.11")
    assert (row.name, row.base, row.target) == ("python-3.11", "python-3.11", "")


def test_names_of_toolchains_are_unique_and_each_runtime_and_target_has_one_default() -> None:
    names = [row.toolchain.name for row in CATALOG.rows]
    assert len(names) == len(set(names))
    kinds = {(row.toolchain.runtime, row.toolchain.target) for row in CATALOG.rows}
    defaults = [(row.toolchain.runtime, row.toolchain.target) for row in CATALOG.rows if row.is_default]
    assert sorted(kinds) == sorted(defaults)


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        (("go", "1.19"), "UnknownRuntimeVersion", "go 1.19 is not in the catalog; it has 1.24, 1.25, 1.26, 1.27"),
        (("python", "2.7"), "UnknownRuntimeVersion", "python 2.7 is not in the catalog; it has 3.11, 3.12, 3.13, 3.14"),
        (("go", "1.26", "wasm"), "UnsupportedTarget", "go has no target wasm; it has native"),
        (("python", "", "wasm"), "UnsupportedTarget", "python has no target wasm; it has none"),
        (("ruby",), "UnsupportedTarget", f'there is no runtime "ruby"; the catalog has {RUNTIMES}'),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(asked: tuple[str, ...], reason: str, words: str) -> None:
    with pytest.raises(BuildError) as caught:
        CATALOG.find(*asked)
    assert (caught.value.reason, caught.value.message) == (reason, words)


def test_a_new_version_is_one_row() -> None:
    text = '[[row]]\nruntime = "x"\nversion = "1"\ntoolchain = "x-1"\nbase = "x"\n'
    assert catalog.parse(text).find("x").name == "x-1"


def test_other_defaults_stand_over_the_catalogs_and_must_be_in_it() -> None:
    other = CATALOG.with_defaults({"go": "1.24"})
    assert (other.find("go").version, other.find("python").version) == ("1.24", "3.11")
    with pytest.raises(BuildError, match=r"go 1\.19 is not in the catalog"):
        CATALOG.with_defaults({"go": "1.19"})


def test_the_versions_of_a_runtime_and_target_stand_oldest_first() -> None:
    kinds: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for row in CATALOG.toolchains():
        kinds.setdefault((row.runtime, row.target), []).append(tuple(map(int, row.version.split("."))))
    assert all(versions == sorted(versions) for versions in kinds.values()), kinds
