"""The measurements' own arithmetic and page: no number in docs/benchmarks.md is better than these."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import __main__ as measuring
from bench import attack, before, document, kaniko, peer_examples, results, statements, watched
from bench.document import Machine
from bench.pairs import differences, interleave, percentile, ratios, spread
from bench.projects import read
from bench.results import MET, NO_TARGET, NOT_KNOWN, SHORT, Row, Section
from bench.servers import Server
from tests.golden import jobs

MACHINE = Machine(cores=2, memory_gib=8, cpu="A CPU | 3 GHz", system="Linux 6.1", tools="go1.26")


def test_spread_of_known_values() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.median, found.least, found.most, found.count) == (3.0, 1.0, 5.0, 5)
    assert (found.low, found.high) == (2.0, 4.0)
    assert found.p95 == pytest.approx(4.8)


def test_median_lies_between_two_when_there_is_no_middle() -> None:
    assert spread([1.0, 2.0, 10.0, 20.0]).median == 6.0


def test_spread_of_one_value_is_that_value() -> None:
    found = spread([0.5])
    assert {found.median, found.p95, found.least, found.most, found.low, found.high} == {0.5}


def test_nothing_has_no_spread() -> None:
    with pytest.raises(ValueError):
        spread([])


@pytest.mark.parametrize(("percent", "expected"), [(0, 10.0), (50, 15.0), (95, 19.5), (100, 20.0)])
def test_percentile_interpolates(percent: float, expected: float) -> None:
    assert percentile([10.0, 20.0], percent) == expected


def test_a_round_is_compared_with_itself_only() -> None:
    assert ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]
    assert differences([2.0, 30.0], [1.0, 10.0]) == [1.0, 20.0]
    for compare in (ratios, differences):
        with pytest.raises(ValueError):
            compare([1.0], [1.0, 2.0])


def test_arms_take_turns_in_alternating_order_and_warm_rounds_do_not_count() -> None:
    calls: list[tuple[str, int]] = []

    def arm(name: str, seconds: float) -> Callable[[int], float]:
        def run(number: int) -> float:
            calls.append((name, number))
            return seconds * number

        return run

    took = interleave({"a": arm("a", 1.0), "b": arm("b", 10.0)}, 3, warm=1)
    assert took == {"a": [2.0, 3.0, 4.0], "b": [20.0, 30.0, 40.0]}
    assert calls == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3), ("b", 4), ("a", 4)]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.10, MET), (1.15, MET), (1.151, SHORT)])
def test_a_ratio_is_judged_by_its_median(ratio: float, verdict: str) -> None:
    row = results.ratio_row("x", spread([ratio, 0.1, 9.0]), [ratio, 0.1, 9.0], 1.15)
    assert (row.verdict, row.pairs, row.target) == (verdict, 3, "≤ 1.15×")


def test_times_are_shown_in_ms_and_p95_is_judged_apart() -> None:
    found = spread([0.01, 0.02, 0.5])
    assert results.time_row("x", found, [], 60).verdict == MET
    assert results.time_row("x", found, [], 60).measured == "20.0 ms"
    assert results.p95_row("x", found, 150).verdict == SHORT
    assert results.time_row("x", found, [], None).verdict == results.NO_TARGET


@pytest.mark.parametrize(("count", "verdict"), [(0, MET), (1, SHORT)])
def test_a_count_is_judged_against_zero(count: int, verdict: str) -> None:
    assert results.count_row("x", count, 0, 10).verdict == verdict


def test_a_count_that_lost_something_proves_nothing_but_that_there_were_some() -> None:
    assert results.count_row("x", 0, 0, 10, complete=False).verdict == NOT_KNOWN
    assert results.count_row("x", 1, 0, 10, complete=False).verdict == SHORT


@pytest.mark.parametrize(("seconds", "verdict"), [(1.0, MET), (0.99, NO_TARGET)])
def test_a_target_for_long_builds_judges_no_short_one(seconds: float, verdict: str) -> None:
    row = results.ratio_row("x", spread([1.1]), [1.1], 1.15)
    assert results.if_long(row, [seconds]).verdict == verdict


def section(metric: str, verdict: str, notes: tuple[str, ...] = ()) -> Section:
    row = Row(what=f"{metric} a|b", target="≤ 1×", measured="2×", spread="1–3×", pairs=10, verdict=verdict, raw=(2.0,))
    return Section(metric=metric, commit="abc", date="2030-01-02", rows=(row,), notes=notes)


def test_the_page_says_commit_date_machine_command_and_every_row() -> None:
    text = document.render({"P7": section("P7", MET, ("a note",))}, MACHINE)
    for part in (
        "Commit abc, 2030-01-02.",
        "2 cores of A CPU",
        "8 GiB",
        "make bench",
        "P7 a\\|b",
        "| 10 | met |",
        "- a note.",
    ):
        assert part in text
    assert "fall" not in text.partition("## ")[2]


def test_a_row_stands_beside_what_it_was_before() -> None:
    row = Row(what="bare spawn alone", target="–", measured="1 ms", spread="–", pairs=9, verdict=NO_TARGET)
    new = replace(row, what="a new row")
    found = Section(metric="P7", commit="abc", date="2030-01-02", rows=(row, new))
    text = document.render({"P7": found}, MACHINE)
    assert f"| bare spawn alone | – | {before.FIGURES['P7']['bare spawn alone']} | 1 ms |" in text
    assert "| a new row | – | – | 1 ms |" in text


def test_what_was_before_belongs_to_metrics_of_the_page() -> None:
    assert set(before.FIGURES) <= set(document.PROSE)


def test_a_shortfall_is_marked_and_explained() -> None:
    text = document.render({"P8": section("P8", SHORT)}, MACHINE)
    assert "| **falls short** |" in text
    assert "**1 of 1 falls short.** " + document.PROSE["P8"].short[:30] in text


def test_metrics_come_in_their_order_whatever_was_measured_last() -> None:
    text = document.render({"P8": section("P8", MET), "P1": section("P1", MET)}, MACHINE)
    assert text.index("## P1") < text.index("## P8")
    assert "## P12" not in text


def test_what_was_measured_elsewhere_stays_on_the_page_as_it_is() -> None:
    page = document.render({name: section(name, SHORT, ("a note",)) for name in ("P1", "P7", "P8")}, MACHINE)
    assert document.render({}, MACHINE, page) == page
    again = document.render({"P7": replace(section("P7", MET), commit="new")}, MACHINE, page)
    assert again.count("Commit abc") == 2 and again.index("Commit new") < again.rindex("Commit abc")
    assert document.render({"P7": section("P7", SHORT, ("a note",))}, MACHINE, again) == page


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert results.load(path) == {}
    kept = {"P1": section("P1", SHORT, ("n",))}
    results.save(path, kept)
    assert results.load(path) == kept


@pytest.mark.parametrize("name", ["go-service", "go-small", "python-service", "python-small"])
def test_a_revision_changes_one_line_of_one_file(name: str) -> None:
    project = read(name)
    first, second = project.revision(1), project.revision(2)
    assert [path for path in first if first[path] != second[path]] == [project.edited]
    old, new = first[project.edited].splitlines(), second[project.edited].splitlines()
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
    assert project.archive(1) != project.archive(2)


def test_an_attack_that_breaks_off_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> str:
        raise OSError("no attack was sent")

    monkeypatch.setattr(attack, "_submitted", refused)
    server = cast(Server, SimpleNamespace(url="http://127.0.0.1:1", token=""))
    with pytest.raises(OSError, match="no attack was sent"), attack.attacker(server, (b"",), []):
        pass


def test_what_takes_a_cluster_is_measured_where_there_is_one_or_when_it_is_named() -> None:
    named = set(measuring.METRICS)
    assert set(measuring.ON_CLUSTER) <= named & set(document.PROSE)
    assert set(measuring.chosen(has_cluster=True)) == named
    assert set(measuring.chosen(has_cluster=False)) == named - set(measuring.ON_CLUSTER)


@pytest.mark.parametrize(("mib", "threads", "verdicts"), [(40, 20, [MET, MET]), (41, 21, [SHORT, SHORT])])
def test_a_watcher_is_judged_at_its_most_above_one_job(mib: int, threads: int, verdicts: list[str]) -> None:
    one = ([100 * watched.MIB, 90 * watched.MIB], [3, 4], 0.001)
    many = ([(100 + mib) * watched.MIB, 120 * watched.MIB], [threads, 5], 0.0123)
    found, _ = watched.rows(one, many)
    assert [row.verdict for row in found[:2]] == verdicts
    assert [row.measured for row in found] == [f"{mib:.1f} MiB", str(threads), "1.23 %"]


def test_a_bare_job_has_the_services_pod_and_kaniko_alone_has_nothing_fetched() -> None:
    found = jobs.manifests()["plain"]["spec"]["template"]["spec"]
    bare = kaniko.bare_pod(found, "http://h/x", "sha256:1", 7, "t-1")
    assert found == jobs.manifests()["plain"]["spec"]["template"]["spec"], "not changed"
    (fetch,), (main,) = bare["initContainers"], bare["containers"]
    assert fetch["args"][:2] == ["--digest=sha256:1", "--max-bytes=7"]
    assert next(one for one in main["args"] if one.startswith("--destination=")).endswith(":t-1")
    assert main["resources"] == found["containers"][0]["resources"] and bare["volumes"] == found["volumes"]
    alone = kaniko.pod_alone(found, "c", ("Dockerfile", "x"), "t-2")
    assert "initContainers" not in alone
    places = [one["mountPath"] for one in alone["containers"][0]["volumeMounts"] if one["name"] == "source"]
    assert places == ["/kaniko/buildcontext/Dockerfile", "/kaniko/buildcontext/x"]
    assert [one for one in alone["volumes"] if one["name"] == "source"] == [
        {"name": "source", "configMap": {"name": "c"}}
    ]


def test_the_statements_of_the_store_are_counted_and_met() -> None:
    rows = statements.measure()
    assert [row.verdict for row in rows] == [MET] * len(statements.MOST)
    were = [row.what for row in rows if before.figure("P4", row.what) != "–"]
    assert were == [f"statements of `{name}`" for name in ("finish", "succeed", "append")], "beside what they were"


def test_of_a_peers_example_what_it_serves_comes_first(tmp_path: Path) -> None:
    cases: dict[str, list[dict[str, Any]]] = {
        "a": [{"expectedOutput": "launched"}, {"httpCheck": {"path": "/", "expected": 200}}],
        "b": [{"expectedOutput": "one"}, {"expectedOutput": "two"}],
        "c": [],
    }
    for name, rows in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.json").write_text(f"// as people write it\n{json.dumps(rows)}")
    found = {folder.name: case for folder, case in peer_examples.examples(tmp_path)}
    assert found == {"a": cases["a"][1], "b": cases["b"][0], "c": {}}
