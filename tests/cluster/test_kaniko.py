"""Dockerfile builds by Kaniko's executor on a real cluster: what is pushed is pulled, unpacked and started."""

from __future__ import annotations

from pathlib import Path

import httpx

from builder.images.destination import DIGEST
from tests.cluster_fixtures import Jobs

SHELL = 'ENTRYPOINT ["/bin/sh", "-c"]'


def nonce_of(root: Path) -> str:
    return (root / "srv/nonce").read_text()


def test_an_image_with_run_on_a_debian_of_our_own_is_pushed_pulled_and_started(jobs: Jobs, tmp_path: Path) -> None:
    files = {
        "app/Dockerfile": f"FROM {jobs.debian}\n"
        "ARG WHO=nobody\n"
        "COPY hello.txt /srv/hello.txt\n"
        'RUN echo "built for $WHO" > /srv/built && chown app:app /srv/built && chmod 600 /srv/built\n'
        "USER app\n"
        'ENTRYPOINT ["/bin/sh", "-c", "cat /srv/hello.txt /srv/built; id -u"]\n',
        "app/hello.txt": "hello\n",
        "other/secret.txt": "not of this app\n",
    }
    build = jobs.build("first", sub_path="app", build_args=(("WHO", "a user; touch /pwned"),))
    ran = jobs.run(files, build)
    assert ran.ended.succeeded, (ran.ended, ran.log)
    assert any("RUN echo" in line for line in ran.log)
    root, config, digest = jobs.pulled(build, tmp_path)
    assert DIGEST.fullmatch(ran.ended.said) and ran.ended.said == digest, "the Job reports what the tag points at"
    assert (root / "srv/built").read_text() == "built for a user; touch /pwned\n"
    assert not (root / "pwned").exists() and not (root / "kaniko").exists()
    assert config["User"] == "app"
    assert jobs.start(f"{build.repository}@{digest}") == (0, "hello\nbuilt for a user; touch /pwned\n1000\n")
    owner = jobs.start(f"{build.repository}@{digest}", "/bin/sh", "-c", "stat -c '%U %a' /srv/hello.txt")
    assert owner == (0, "root 644\n"), "a copied file belongs to root, whoever fetched it"


HOSTILE = (
    "$(touch /pwned)", "`touch /pwned`", "; touch /pwned", "| touch /pwned", "&& touch /pwned", "x\ntouch /pwned",
    '"; touch /pwned; "', "'; touch /pwned; '", "x\nRUN touch /pwned", "\\", "x\\", "$HOME", "${HOME}", "$(HOME)",
    "$$(HOME)", "$(SOURCE_URL)", "--no-push", "--destination=registry.example/x", "-v=trace", "--", "-", "=x", "x=y",
    "../../etc/passwd", "/etc/passwd", "a  b ", " ", "\t", "*", "?", "~", "!!", "<x", ">x", "#x", "%s%n", "{{.}}",
    "é\u202e",
)  # fmt: skip
"""Values of build arguments: words to whoever reads them, and nothing else."""


def test_hostile_build_arguments_are_words_and_nothing_else(jobs: Jobs, tmp_path: Path) -> None:
    assert len(HOSTILE) > 30
    names = [f"A{number}" for number in range(len(HOSTILE))]
    words = " ".join(f'"${name}"' for name in names)
    arguments = "".join(f"ARG {name}\n" for name in names)
    files = {"Dockerfile": f"FROM {jobs.debian}\n{arguments}RUN printf '%s\\0' {words} > /srv/words\nCMD true\n"}
    build = jobs.build("hostile", build_args=tuple(zip(names, HOSTILE, strict=True)))
    ran = jobs.run(files, build)
    assert ran.ended.succeeded, (ran.ended, ran.log)
    root, _, _ = jobs.pulled(build, tmp_path)
    assert (root / "srv/words").read_text(encoding="utf-8").split("\0")[:-1] == list(HOSTILE)
    assert not (root / "pwned").exists()


def test_the_second_run_of_a_multi_stage_build_executes_no_run(jobs: Jobs, tmp_path: Path) -> None:
    files = {
        "Dockerfile": f"FROM {jobs.debian} AS made\n"
        "COPY input /srv/input\n"
        "RUN cat /proc/sys/kernel/random/uuid /srv/input > /srv/nonce\n"
        f"FROM {jobs.debian}\n"
        "COPY --from=made /srv/nonce /srv/nonce\n"
        "RUN cp /srv/nonce /srv/copy\n"
        "WORKDIR /srv\n"
        'ENTRYPOINT ["serve"]\n',
        "input": "one\n",
    }
    first, second, changed = (
        jobs.build("cached", tag=f"run-{number}", cache_repository=jobs.cache()) for number in (1, 2, 3)
    )
    for build in (first, second):
        ran = jobs.run(files, build)
        assert ran.ended.succeeded, (ran.ended, ran.log)
        executed = [line for line in ran.log if "Running: [" in line]
        assert len(executed) == (2 if build is first else 0), ran.log
    before, _, digest = jobs.pulled(first, tmp_path / "first")
    again, _, same = jobs.pulled(second, tmp_path / "second")
    assert nonce_of(before) == nonce_of(again) and digest == same
    with jobs.serving(f"{second.repository}@{same}") as url:
        assert httpx.get(f"{url}/copy", trust_env=False, timeout=120).text == nonce_of(before)
    ran = jobs.run({**files, "input": "two\n"}, changed)
    assert ran.ended.succeeded, (ran.ended, ran.log)
    assert nonce_of(jobs.pulled(changed, tmp_path / "changed")[0]) != nonce_of(before), "another input, another layer"


def test_the_same_source_gives_the_same_digest(jobs: Jobs, tmp_path: Path) -> None:
    files = {
        "docker/App.Dockerfile": f"FROM {jobs.debian} AS first\nRUN echo x > /srv/x\nFROM first AS final\n"
        'COPY a /a\nCMD ["true"]\nFROM first AS unused\nRUN false\n',
        "a": "a",
    }
    digests = set()
    for tag in ("one", "two"):
        build = jobs.build("same", tag=tag, dockerfile="docker/App.Dockerfile", target="final")
        ran = jobs.run(files, build)
        assert ran.ended.succeeded, (ran.ended, ran.log)
        digests.add(jobs.pulled(build, tmp_path / tag)[2])
    assert len(digests) == 1


def test_the_push_credential_is_there_for_the_job_and_gone_after_it(jobs: Jobs) -> None:
    files = {"Dockerfile": f"FROM {jobs.debian}\nRUN test -s /kaniko/.docker/config.json\n"}
    ran = jobs.run(files, jobs.build("credential"))
    assert ran.ended.succeeded, (ran.ended, ran.log)
    kubectl = jobs.cluster.kubectl
    kubectl("wait", f"secret/{ran.attempt.job}", "-n", "ignite-kaniko", "--for=delete", "--timeout=240s")


def test_a_store_that_stumbles_is_asked_again(jobs: Jobs) -> None:
    jobs.sources.failures = 2
    ran = jobs.run({"Dockerfile": f"FROM {jobs.debian}\nCOPY Dockerfile /\n"}, jobs.build("stumble"))
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    assert sum("503" in line for line in ran.lines["fetch"]) == 2
    assert not any("s3cret" in line for lines in ran.lines.values() for line in lines)
