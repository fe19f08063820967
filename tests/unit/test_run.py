"""An artifact that is run here: how it ends, what it says, where it is sought. Sandbox and wire are played."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.errors import BuildError
from builder.local import run as runs
from builder.sandbox import Result
from builder.sandbox.app import PORT
from builder.settings import Settings
from tests.cli_fixtures import build

DIGEST = "sha256:" + "3b" * 32
Client = httpx.Client
CONFIG = {"Entrypoint": ["/app"], "Env": ["A=1"]}


def result(exit_code: int = 0, reason: str | None = None, signal: int | None = None) -> Result:
    return Result(
        exit_code=exit_code, reason=reason, signal=signal, peak_memory=0, peak_disk=0, peak_pids=1, duration_ms=5
    )


class App:
    """A played app: `calls` in their order; it runs on until it is stopped, or ends by itself with `ends`."""

    address = ("127.0.0.1", 1)

    def __init__(self, ends: Result | None = None, *, at_once: bool = False) -> None:
        self.ends, self.ending = ends, threading.Event()
        if at_once:
            self.ending.set()
        self.calls: list[str] = []
        self.options: dict[str, Any] = {}
        self.command: Any = None
        self.home = Path()

    def serve(self, command: Any, root: Any, limits: Any, **options: Any) -> App:
        self.options, self.home, self.command = options, root.rootfs.parent, command
        options["placed"](1)
        for number in range(100):
            options["on_line"]("stdout", f"line {number}".encode())
        return self

    def stop(self) -> None:
        self.calls.append("stop")
        self.ending.set()

    def answered(self) -> None:
        if self.ends is not None:
            self.ending.set()

    def wait(self) -> Result:
        self.ending.wait(300)
        self.calls.append("ended with files" if self.home.is_dir() else "ended without files")
        return self.ends or result(143, "Cancelled")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[App], App]:
    def put(app: App) -> App:
        monkeypatch.setattr("builder.local.run.sandbox.serve", app.serve)
        answers(monkeypatch, 200, then=app.answered)
        return app

    monkeypatch.setattr(runs, "pull", lambda *args: CONFIG)
    monkeypatch.setattr("builder.local.run.app.listeners", lambda pid: (("0.0.0.0", PORT),))
    monkeypatch.setattr("builder.local.run.os.geteuid", lambda: 1000)
    return put


def answers(monkeypatch: pytest.MonkeyPatch, *statuses: int, then: Callable[[], None] = lambda: None) -> None:
    left = iter(statuses)

    def answer(request: httpx.Request) -> httpx.Response:
        then()
        return httpx.Response(next(left))

    transport = httpx.MockTransport(answer)
    client = Client(transport=transport)
    monkeypatch.setattr("builder.local.run.httpx.Client", lambda **options: client)


def settings(folder: Path, **changed: Any) -> Settings:
    return Settings(node_dir=str(folder / "node"), data_dir=str(folder / "data"), **changed)


def record(reference: str = "oci-layout/acme/hello") -> Any:
    return build(repository="acme/hello", image_digest=DIGEST, artifact_ref=f"{reference}@{DIGEST}")


def test_an_app_keeps_its_files_until_it_has_ended(tmp_path: Path, play: Callable[[App], App]) -> None:
    app = play(App())
    with runs.started(settings(tmp_path), record()):
        assert app.home.is_dir()
    assert app.calls == ["stop", "ended with files"]
    assert not app.home.exists()


@pytest.mark.parametrize(
    ("ends", "reason", "word"),
    [
        (result(3), "StartFailed", "exited 3"),
        (result(137, "OutOfMemory", 9), "OutOfMemory", "512 MiB"),
        (result(139, None, 11), "StartFailed", "signal 11"),
    ],
)
def test_an_app_that_ends_badly_is_a_failure_with_its_last_words(
    tmp_path: Path, play: Callable[[App], App], ends: Result, reason: str, word: str
) -> None:
    play(App(ends))
    lines: list[str] = []
    with pytest.raises(BuildError) as caught:
        runs.run_artifact(settings(tmp_path), record(), lambda url, ms: None, lines.append)
    assert caught.value.reason == reason and word in caught.value.message
    assert caught.value.said == ("line 99", *(f"line {number}" for number in range(94, 99)))
    assert len(lines) == 100


@pytest.mark.parametrize("ends", [result(0), result(143, "Cancelled")])
def test_an_app_that_ends_well_or_is_stopped_is_none(tmp_path: Path, play: Callable[[App], App], ends: Result) -> None:
    play(App(ends))
    assert runs.run_artifact(settings(tmp_path), record(), lambda url, ms: None) == 0


def test_an_app_that_ends_before_it_answers_says_how(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(App(result(127), at_once=True))
    answers(monkeypatch, *[503] * 10_000)
    with pytest.raises(BuildError, match="exited 127 before it answered"), runs.started(settings(tmp_path), record()):
        pass


def test_between_answers_that_are_no_success_there_is_a_pause(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(App())
    answers(monkeypatch, 503, 503, 200)
    slept: list[float] = []
    monkeypatch.setattr("builder.local.run.time.sleep", slept.append)
    with runs.started(settings(tmp_path), record()):
        assert len(slept) == 2


@pytest.mark.parametrize("use_cgroups", [True, False])
def test_the_setting_about_control_groups_is_passed_on(
    tmp_path: Path, play: Callable[[App], App], use_cgroups: bool
) -> None:
    app = play(App())
    with runs.started(settings(tmp_path, use_cgroups=use_cgroups), record()):
        assert app.options["use_cgroups"] is use_cgroups


@pytest.mark.parametrize(
    ("registry", "reference", "host", "username", "insecure"),
    [
        ("", "oci-layout/acme/hello", "", "", False),
        ("", "reg.example.com:5000/acme/hello", "reg.example.com:5000", "", False),
        ("mirror.example.com", "reg.example.com/acme/hello", "mirror.example.com", "me", True),
    ],
)
def test_the_artifact_is_sought_where_the_record_says_unless_a_registry_is_set(
    tmp_path: Path,
    play: Callable[[App], App],
    monkeypatch: pytest.MonkeyPatch,
    registry: str,
    reference: str,
    host: str,
    username: str,
    insecure: bool,
) -> None:
    play(App())
    asked: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(
        "builder.local.run.place.destination",
        lambda host, layout, **more: asked.append((host, more["username"], more["insecure"])),
    )
    own = settings(tmp_path, registry=registry, registry_username="me", registry_insecure=True)
    with runs.started(own, record(reference)):
        assert asked == [(host, username, insecure)], "login and plain HTTP are for the registry of the settings only"


def test_an_artifact_that_is_not_there_names_the_setting(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object) -> dict[str, Any]:
        raise BuildError("SourceNotFound", "acme/hello is not there any more")

    play(App())
    monkeypatch.setattr(runs, "pull", missing)
    with pytest.raises(BuildError) as caught, runs.started(settings(tmp_path), record()):
        pass
    assert "IGNITE_BUILDER_REGISTRY" in caught.value.next and "not set" in caught.value.where


def test_an_app_has_the_images_user_and_home_and_the_variables_that_were_given(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(target: object, repository: str, digest: str, home: Path, *more: object) -> dict[str, Any]:
        (home / "root/etc").mkdir(parents=True)
        (home / "root/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/false\n")
        return {**CONFIG, "User": "7:8"}

    app = play(App())
    monkeypatch.setattr(runs, "pull", pulled)
    with runs.started(settings(tmp_path), record(), {"A": "2", "KEY": "k", "PORT": "1"}):
        assert app.command.user == (7, 8)
        assert app.command.env == {"A": "2", "KEY": "k", "HOME": "/home/app", "PORT": str(PORT)}


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ((("127.0.0.1", 5000),), "listens on 127.0.0.1:5000"),
        ((("127.0.0.1", PORT),), f"listens on 127.0.0.1:{PORT}"),
        ((("0.0.0.0", 8080),), "listens on 0.0.0.0:8080"),
        ((), "did not listen"),
    ],
)
def test_an_app_that_nobody_can_reach_says_where_it_listens(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch, where: Any, words: str
) -> None:
    play(App())
    clock = iter(range(1000))
    monkeypatch.setattr("builder.local.run.app.listeners", lambda pid: where)
    monkeypatch.setattr("builder.local.run.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("builder.local.run.time.sleep", lambda seconds: None)
    with pytest.raises(BuildError) as caught, runs.started(settings(tmp_path), record()):
        pass
    assert caught.value.reason == "StartFailed" and words in caught.value.message and "PORT" in caught.value.next


@pytest.mark.parametrize(("config", "env"), [({"Env": None, "Cmd": None}, {}), ({"Env": ["A"]}, {"A": ""})])
def test_what_an_image_leaves_out_is_nothing(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch, config: Any, env: dict[str, str]
) -> None:
    app = play(App())
    monkeypatch.setattr(
        runs, "pull", lambda *args: {"Entrypoint": ["/app"], "User": None, "WorkingDir": None, **config}
    )
    with runs.started(settings(tmp_path), record()):
        assert app.command.env == {**env, "HOME": "/", "PORT": str(PORT)} and app.command.cwd == "/"


def test_a_folder_that_its_own_user_may_not_enter_is_the_images_fault(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(target: object, repository: str, digest: str, home: Path, *more: object) -> dict[str, Any]:
        (home / "root/srv/app").mkdir(parents=True)
        (home / "root/srv").chmod(0o700)
        return {**CONFIG, "User": "7:8", "WorkingDir": "/srv/app"}

    play(App())
    monkeypatch.setattr(runs, "pull", pulled)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    with pytest.raises(BuildError) as caught, runs.started(settings(tmp_path), record()):
        pass
    assert caught.value.reason == "ImageContractViolated" and caught.value.where == "config.WorkingDir"
    assert "is /srv/app, and its user 7 may not enter /srv" in caught.value.message


@pytest.mark.parametrize(
    ("user", "who"),
    [("app", (7, 8)), ("7", (7, 8)), ("7:9", (7, 9)), ("", (65532, 65532)), (":8", (65532, 65532)), ("nobody", None)],
)
def test_an_app_is_who_its_images_files_say(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch, user: str, who: tuple[int, int] | None
) -> None:
    expected = who

    def pulled(target: object, repository: str, digest: str, home: Path, most: int, who: Any) -> dict[str, Any]:
        (home / "root/etc").mkdir(parents=True)
        (home / "root/etc/passwd").write_text("app:x:7:8::/srv/app:/bin/sh\n")
        assert who(home / "root", user) == expected
        return {**CONFIG, "User": user}

    app = play(App())
    monkeypatch.setattr(runs, "pull", pulled)
    if who:
        with runs.started(settings(tmp_path), record()):
            assert app.command.user == who
        return
    with pytest.raises(BuildError) as caught, runs.started(settings(tmp_path), record()):
        pass
    assert caught.value.reason == "ImageContractViolated" and caught.value.where == "config.User"
    assert f"of acme/hello@{DIGEST} is nobody, a user that its /etc/passwd does not have" in caught.value.message


@pytest.mark.parametrize(
    ("workdir", "is_there"),
    [
        ("/srv/app", True),
        ("/linked", True),
        ("/tmp", True),
        ("/work", True),
        ("/srv/../srv/app/", True),
        ("/nowhere", False),
        ("/srv/app/file", False),
        ("/loop", False),
        ("/outside", False),
        ("/tmp/in-the-image", False),
        ("/" + "x" * 300, False),
    ],
)
def test_an_app_whose_folder_is_not_in_its_image_is_the_images_fault(
    tmp_path: Path, play: Callable[[App], App], monkeypatch: pytest.MonkeyPatch, workdir: str, is_there: bool
) -> None:
    def pulled(target: object, repository: str, digest: str, home: Path, *more: object) -> dict[str, Any]:
        (home / "root/srv/app").mkdir(parents=True)
        (home / "root/srv/app/file").write_text("")
        (home / "root/tmp/in-the-image").mkdir(parents=True)
        (home / "root/linked").symlink_to("/srv/app")
        (home / "root/loop").symlink_to("loop")
        (home / "root/outside").symlink_to(tmp_path)
        return {**CONFIG, "WorkingDir": workdir}

    app = play(App())
    monkeypatch.setattr(runs, "pull", pulled)
    if is_there:
        with runs.started(settings(tmp_path), record()):
            assert app.command.cwd == workdir
        return
    with pytest.raises(BuildError) as caught, runs.started(settings(tmp_path), record()):
        pass
    assert caught.value.reason == "ImageContractViolated" and caught.value.where == "config.WorkingDir"
