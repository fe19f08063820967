"""The settings of Jobs: what they become, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder import config
from builder.errors import BuildError
from builder.kube.job import JobLimits, Toleration
from builder.kube.site import buildpacks_site_of, limits_of, site_of
from builder.node.image import launcher_of
from builder.settings import MIB, Settings
from tests.golden.jobs import BUILDER, EXECUTOR, FETCHER, RUN

IMAGES = {"kaniko_executor": EXECUTOR, "fetch_image": FETCHER}


def loaded(**values: Any) -> Settings:
    return config.load(values, environ={}).settings


def test_all_settings_of_jobs_reach_the_site() -> None:
    site = site_of(
        loaded(
            **IMAGES,
            kaniko_namespace="builds",
            job_node_selector={"pool": "builds", "arch": "amd64"},
            job_tolerations=("spot", "builds=yes:NoSchedule", "old:NoExecute"),
            job_runtime_class="gvisor",
            job_priority_class="low",
            job_pull_secret="images",
        )
    )
    assert (site.namespace, site.executor, site.fetcher) == ("builds", EXECUTOR, FETCHER)
    assert site.node_selector == (("arch", "amd64"), ("pool", "builds"))
    assert site.tolerations == (
        Toleration(key="spot"),
        Toleration(key="builds", value="yes", effect="NoSchedule"),
        Toleration(key="old", effect="NoExecute"),
    )
    assert (site.runtime_class, site.priority_class, site.pull_secret) == ("gvisor", "low", "images")


def test_buildpacks_have_a_namespace_and_a_builder_of_their_own() -> None:
    images = {"buildpacks_builder": BUILDER, "buildpacks_run_image": RUN, "fetch_image": FETCHER}
    site = buildpacks_site_of(loaded(**images, buildpacks_namespace="packs", job_runtime_class="gvisor"))
    assert (site.namespace, site.executor, site.fetcher) == ("packs", BUILDER, FETCHER)
    assert site.runtime_class == "gvisor"
    for name in images:
        with pytest.raises(BuildError) as refused:
            buildpacks_site_of(loaded(**{**images, name: ""}))
        assert (refused.value.reason, refused.value.where) == ("InvalidRequest", name)


def test_a_worker_has_the_strategies_that_are_set_up_and_at_least_one() -> None:
    packs = {"buildpacks_builder": BUILDER, "buildpacks_run_image": RUN, "fetch_image": FETCHER}
    for values, names in (
        (IMAGES, {"kaniko"}),
        (packs, {"buildpacks"}),
        ({**IMAGES, **packs}, {"kaniko", "buildpacks"}),
    ):
        assert set(launcher_of(loaded(**values)).setups) == names
    for values, where in (
        ({}, "kaniko_executor"),
        ({**IMAGES, "buildpacks_builder": BUILDER}, "buildpacks_run_image"),
        ({**packs, "buildpacks_namespace": ""}, "buildpacks_namespace"),
    ):
        with pytest.raises(BuildError) as refused:
            launcher_of(loaded(**values))
        assert (refused.value.reason, refused.value.where) == ("InvalidRequest", where)


def test_a_worker_has_the_logins_of_its_table_by_organization() -> None:
    rows = [{"organization": name, "username": f"{name}-robot", "password": "word"} for name in ("acme", "beta")]
    launcher = launcher_of(loaded(**IMAGES, job_registry_username="all", job_registry_logins=tuple(rows)))
    assert launcher.logins == {"acme": ("acme-robot", "word"), "beta": ("beta-robot", "word")}
    assert launcher_of(loaded(**IMAGES)).logins == {}


def test_an_organization_with_a_row_has_its_own_resources_and_of_what_it_leaves_out_those_of_all() -> None:
    row = {"organization": "acme", "cpus": 0.5, "memory_bytes": 512 * MIB, "timeout_ms": 120_000}
    settings = loaded(job_resources=(row, {"organization": "beta", "disk_bytes": 64 * MIB}))
    own = ("cpus", "memory_bytes", "timeout_ms")
    given = JobLimits(cpus=0.5, memory_bytes=512 * MIB, disk_bytes=settings.disk_bytes, timeout_ms=120_000, own=own)
    assert limits_of(settings, "acme", 600_000) == given
    assert limits_of(settings, "acme", 60_000) == replace(given, timeout_ms=60_000, own=own[:2])
    found = limits_of(settings, "beta", 600_000)
    assert (found.cpus, found.disk_bytes, found.timeout_ms, found.own) == (2.0, 64 * MIB, 600_000, ("disk_bytes",))
    assert limits_of(settings, "gamma", 1).own == ()


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_without_an_image_there_are_no_jobs_and_the_setting_is_named(name: str) -> None:
    with pytest.raises(BuildError) as refused:
        site_of(loaded(**{**IMAGES, name: ""}))
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kaniko_executor", "registry.example/kaniko:latest"),
        ("kaniko_executor", "registry.example/kaniko@sha256:12"),
        ("fetch_image", "fetch"),
        ("buildpacks_builder", "registry.example/builder:latest"),
        ("buildpacks_run_image", "registry.example/run:latest"),
        ("job_tolerations", ("spot:Never",)),
        ("job_tolerations", ("",)),
        ("job_tolerations", ("a b",)),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BuildError) as refused:
        loaded(**{name: value})
    assert name in refused.value.message
