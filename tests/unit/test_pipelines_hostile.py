"""Every parser and every diagnosis over hostile text: a failure of the table. In what time is in tests/slow."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from builder.errors import BuildError
from builder.pipelines import go, python
from builder.pipelines.python import planning
from builder.plan import Step
from tests.growth import assert_linear
from tests.hostile_text import DIAGNOSES, MAIN, MODULE, PARSERS, SHAPES, of_python, plan, spent

FLOOR_S = 0.05


@pytest.mark.parametrize("name", [*PARSERS, *DIAGNOSES])
def test_hostile_text_is_read_or_refused_by_the_table(name: str) -> None:
    for text in SHAPES.values():
        spent((PARSERS | DIAGNOSES)[name], text(1024))


@pytest.mark.parametrize(("small", "large", "seen"), [(0.1, 1.6, True), (0.1, 0.5, False), (0.01, 0.5, True)])
def test_a_growth_that_squares_is_seen(small: float, large: float, seen: bool) -> None:
    with pytest.raises(AssertionError, match=r"^it: ") if seen else nullcontext():
        assert_linear(lambda: small, lambda: large, FLOOR_S, "it")


@pytest.mark.parametrize(
    ("small", "power", "left_out"), [(0.007, 3, True), (0.008, 3, False), (0.028, 2, True), (0.029, 2, False)]
)
def test_a_large_input_that_cannot_cost_much_is_left_out(small: float, power: int, left_out: bool) -> None:
    with nullcontext() if left_out else pytest.raises(AssertionError):
        assert_linear(lambda: small, lambda: small * 64, FLOOR_S, power=power)


@pytest.mark.parametrize("entry", ["/", "/x", "//x/y", "../..", "/x/main.go"])
def test_a_package_outside_of_the_source_is_none(entry: str) -> None:
    with pytest.raises(BuildError) as caught:
        plan({"lib.go": "package lib\n", "go.mod": MODULE}, "go", entry=entry)
    assert caught.value.reason == "EntryPointMissing"


def test_many_files_that_include_each_other_are_refused() -> None:
    files = {f"{number}.txt": f"-r {number + 1}.txt\n" for number in range(1200)}
    with pytest.raises(BuildError) as caught:
        plan({"handler.py": "", "requirements.txt": "-r 0.txt\n", **files, "1200.txt": "six\n"}, "python")
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "49.txt")


def test_many_requirements_are_refused() -> None:
    with pytest.raises(BuildError) as caught:
        of_python(requirements="a\n" * 10_001)
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "requirements.txt:10001")


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("\n" + "a." * 16 + "a = 1\n", "pyproject.toml:2", "a key has more than 16 parts"),
        ('"""\n"""."b" = 1\n' + '"a" . ' * 16 + "a = 1\n", "pyproject.toml:3", "a key has more than 16 parts"),
        ("a = [\n" * 40, "pyproject.toml:33", "nested more than 32 deep"),
        ("a = " + "{a = " * 40, "pyproject.toml:1", "nested more than 32 deep"),
        ("a = " + "1" * 5000, "pyproject.toml", "is no TOML"),
        ("#" * 1024 * 1024 + "\n", "pyproject.toml", "is larger than 1048576 bytes"),
    ],
    ids=["bare key", "quoted key", "brackets", "braces", "digits", "size"],
)
def test_toml_that_costs_too_much_is_refused(text: str, where: str, words: str) -> None:
    with pytest.raises(BuildError) as caught:
        of_python(pyproject_toml=text)
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", where)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        '[project]\nname = "x"\ndescription = """\n' + "." * 100 + "[" * 100 + '\n"""\n',
        "[project]\nname = \"x\"\ndescription = '''\n" + "{" * 100 + "\\'''\n",
        "# " + "a." * 100 + "[" * 100 + '\n[project]\nname = "' + "{." * 100 + '\\""\n',
        "[tool.a.b.c.d.e.f]\n" + 'x.y.z = [{ a = { b = ["c"] } }]\n',
        "[tool]\nfiles = [\n" + '  "a.b.c.d",\n' * 100 + "]\nnumbers = [" + "1.5, " * 100 + "]\n",
    ],
)
def test_honest_toml_is_read(text: str) -> None:
    of_python(pyproject_toml=text)


def test_a_constraint_that_is_too_deep_is_refused_with_its_line() -> None:
    with pytest.raises(BuildError) as caught:
        plan({"main.go": MAIN, "a.go": "// a\n\n//go:build " + "(" * 40 + "linux\n\npackage main\n"}, "go")
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "a.go:3")


def test_many_negations_are_refused_as_go_refuses_them() -> None:
    with pytest.raises(BuildError) as caught:
        plan({"main.go": "//go:build " + "!" * 2000 + "linux\n\n" + MAIN}, "go")
    assert (caught.value.reason, caught.value.where) == ("CompileFailed", "main.go:1")


def test_what_nests_too_deeply_for_a_pipeline_is_the_sources_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object) -> None:
        endless()

    monkeypatch.setattr(planning, "read_dependencies", endless)
    with pytest.raises(BuildError) as caught:
        of_python(requirements="six\n")
    assert caught.value.reason == "ManifestInvalid"


def test_the_check_of_python_may_print_what_is_no_report() -> None:
    deep = "{" + '"a":[' * 3000
    step = Step(name="compile", argv=())
    report = '{"reason": "CompileFailed", "message": "m", "where": "w", "next": "n", "said": 5}'
    assert python.diagnose(step, 1, [deep, report]).said == ()


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ("go: example.com/dep@v1.0.0 requires go >= 1.99", "example.com/dep@v1.0.0"),
        ("go: ./dep: requires go >= 1.99 (running go 1.26)", "./dep"),
    ],
)
def test_who_requires_a_newer_go_is_named(line: str, who: str) -> None:
    found = go.diagnose(Step(name="compile", argv=()), 1, [line])
    assert found.message.startswith(f"{who} needs go 1.99")
