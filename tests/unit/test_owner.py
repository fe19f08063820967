"""An owner against an API that forgets, refuses, goes away: every line is kept in the end, nothing waits for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.build import Outcome
from builder.claims import owner
from builder.claims.spool import Spool, forget_dead_owners, is_owned, left_behind, own, spool_path
from builder.client.api import ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError, PlatformError

DEAD = "4194999 1"  # above the kernel's largest pid


class ForgetfulApi:
    """Keeps lines as the store does (`builder/store/logs.py`); before `forgets` answers of Finish it loses some."""

    def __init__(self, forgets: int = 0, keep: int = 0, refuses: tuple[str, ...] = ()) -> None:
        self.kept: dict[str, list[str]] = {}
        self.finished: list[pb.FinishRequest] = []
        self.handed_back: list[str] = []
        self.forgets, self.keep, self.refuses = forgets, keep, refuses

    def call(self, name: str, request: Any) -> Any:
        if request.build_id in self.refuses:
            raise ApiError(403, "PERMISSION_DENIED", "not yours", {})
        return getattr(self, "on_" + name)(request)

    def on_ClaimBuild(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        return pb.ClaimBuildResponse(granted=True, build_id=request.build_id, claim=1, attempt=1, lease_ms=60_000)

    def on_Heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse(lease_ms=60_000)

    def on_AppendLog(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        kept = self.kept.setdefault(request.build_id, [])
        if request.first_index <= len(kept):
            kept += [line.line for line in request.lines][len(kept) - request.first_index :]
        return pb.AppendLogResponse(kept_until_index=len(kept))

    def on_Finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        if self.forgets:
            self.forgets -= 1
            del self.kept[request.build_id][self.keep :]
        kept = len(self.kept.get(request.build_id, []))
        if kept < request.log_count:
            return pb.FinishResponse(log_incomplete=True, kept_until_index=kept)
        self.finished.append(request)
        return pb.FinishResponse(status=pb.BUILD_STATUS_FAILED)

    def on_HandBack(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        self.handed_back.append(request.build_id)
        return pb.HandBackResponse()


def node(api: Any, folder: Path, lines: int, log_bytes: int = 1 << 20) -> owner.Node:
    def run(granted: pb.ClaimBuildResponse, held: owner.Ownership) -> Outcome:
        for number in range(lines):
            held.said(f"line {number}")
        return Outcome(verdict="GO_ON", failure=BuildError("CompileFailed", "no"))

    def listen(build_id: str, done: threading.Event, seconds: float) -> None:
        done.wait(seconds)

    return owner.Node(
        api=api, node_id="n", spool_dir=folder, log_bytes=log_bytes, beat_s=30, draining=lambda: False,
        run=run, listen=listen,
    )  # fmt: skip


@pytest.mark.parametrize(("forgets", "keep"), [(1, 0), (1, 700), (3, 1199)])
def test_a_finish_that_is_short_of_lines_sends_them_again(tmp_path: Path, forgets: int, keep: int) -> None:
    api = ForgetfulApi(forgets, keep)
    assert owner.own_build("b", node(api, tmp_path, 1200)) == "finished"
    assert api.kept["b"] == [f"line {number}" for number in range(1200)]
    assert [request.log_count for request in api.finished] == [1200]
    assert list(tmp_path.iterdir()) == []


def test_an_api_that_forgets_in_mid_build_gets_its_lines_again(tmp_path: Path) -> None:
    api = ForgetfulApi()
    spool = Spool(tmp_path / "b.1.jsonl", lambda: 5, 1 << 20)
    held = owner.Ownership(
        api=api, build_id="b", claim=1, attempt=1, spool=spool, lease_s=60, beat_s=30,  # type: ignore[arg-type]
        draining=lambda: False, listen=lambda *_: None,
    )  # fmt: skip
    sender = threading.Thread(target=held.send)
    sender.start()
    for number in range(100):
        held.said(str(number))
    held.wait_until_kept()
    del api.kept["b"][10:]
    held.said("100")
    held.wait_until_kept()
    held.done.set()
    sender.join(5)
    spool.close()
    assert api.kept["b"] == [str(number) for number in range(101)]


def test_a_finish_whose_lines_are_gone_from_the_disk_is_given_up(tmp_path: Path) -> None:
    class Damaging(ForgetfulApi):
        def on_Finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            (tmp_path / "b.1.jsonl").write_text("")
            return super().on_Finish(request)

    assert owner.own_build("b", node(Damaging(1, 0), tmp_path, 5)) == "lost"
    assert list(tmp_path.iterdir()) == []


def test_a_log_over_its_cap_ends_like_any_other(tmp_path: Path) -> None:
    api = ForgetfulApi(1, 3)
    assert owner.own_build("b", node(api, tmp_path, 5000, log_bytes=64 * 1024)) == "finished"
    assert api.kept["b"][-1] == "line 4999"
    assert len(api.kept["b"]) == api.finished[0].log_count < 2000


def test_an_owner_that_fails_waits_for_no_api(tmp_path: Path) -> None:
    class Away(ForgetfulApi):
        def on_AppendLog(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            raise ApiUnreachable("away")

    def broken(granted: pb.ClaimBuildResponse, held: owner.Ownership) -> Outcome:
        held.said("x")
        raise RuntimeError("the disk is gone")

    parts = node(Away(), tmp_path, 0)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        owner.own_build("b", owner.Node(**{**vars(parts), "run": broken}))


def test_the_record_carries_how_long_the_other_side_asked_to_wait() -> None:
    busy = PlatformError("RegistryUnavailable", "answered 429", retry_after_ms=3_600_000)
    assert owner.failure_record(busy, "PUSH").retry_after_ms == 3_600_000
    assert owner.failure_record(BuildError("CompileFailed", "no"), "BUILD").retry_after_ms == 0


# --- the lease


class Beats:
    """A clock that a heartbeat's waiting moves; the owner listens until `done` or two hundred beats."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: pb.HeartbeatResponse | None) -> None:
        self.now, self.answer, self.asked = 100.0, answer, 0
        self.stopped_at = 0.0
        monkeypatch.setattr(owner, "time", SimpleNamespace(monotonic=lambda: self.now))

    def call(self, name: str, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        assert (name, request.build_id, request.claim) == ("Heartbeat", "b", 1)
        self.asked += 1
        if self.answer is None:
            raise ApiUnreachable("away")
        return self.answer

    def beat(self, folder: Path, draining: bool = False) -> owner.Ownership:
        def listen(build_id: str, done: threading.Event, seconds: float) -> None:
            if held.must_stop():
                self.stopped_at = self.stopped_at or self.now
            self.now += seconds
            if self.stopped_at or self.asked == 200:
                done.set()

        held = owner.Ownership(
            api=self, build_id="b", claim=1, attempt=1, spool=Spool(folder / "b.1.jsonl", lambda: 5, 1 << 20),  # type: ignore[arg-type]
            lease_s=30, beat_s=10, draining=lambda: draining, listen=listen,
        )  # fmt: skip
        held.spool.close()
        held.beat()
        return held


def test_a_stale_claim_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, pb.HeartbeatResponse(stale=True))
    held = beats.beat(tmp_path)
    assert (held.lost.is_set(), held.cancelled.is_set(), beats.asked) == (True, False, 1)


def test_two_leases_of_silence_are_the_end_and_not_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, None)
    held = beats.beat(tmp_path)
    assert held.lost.is_set() and not held.cancelled.is_set()
    assert 60 < beats.stopped_at - 100 <= 62


def test_a_cancel_is_heard_by_the_heartbeat_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Beats(monkeypatch, pb.HeartbeatResponse(cancel=True)).beat(tmp_path)
    assert (held.lost.is_set(), held.cancelled.is_set()) == (False, True)


def test_a_node_that_drains_stops_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Beats(monkeypatch, pb.HeartbeatResponse()).beat(tmp_path, draining=True)
    assert held.drained.is_set() and held.must_stop()


def test_a_quiet_lease_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, pb.HeartbeatResponse())
    assert not beats.beat(tmp_path).must_stop()
    assert beats.asked == 200


@pytest.mark.parametrize(("stale", "word", "finished"), [(True, "lost", []), (False, "finished", ["Timeout"])])
def test_a_lost_claim_says_nothing_and_a_timeout_does(
    tmp_path: Path, stale: bool, word: str, finished: list[str]
) -> None:
    class Stale(ForgetfulApi):
        def on_Heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
            return pb.HeartbeatResponse(stale=stale)

    def run(granted: pb.ClaimBuildResponse, held: owner.Ownership) -> Outcome:
        if stale:
            assert held.lost.wait(10)
        return Outcome(verdict="GO_ON", failure=BuildError("Timeout", "over"))

    api = Stale()
    parts = owner.Node(**{**vars(node(api, tmp_path, 0)), "run": run, "beat_s": 0.001})
    assert owner.own_build("b", parts) == word
    assert [request.failure.reason for request in api.finished] == finished


# --- what a killed process left


def left(folder: Path, build_id: str, lines: int) -> Path:
    path = spool_path(folder, build_id, 1)
    spool = Spool(path, lambda: 5, 1 << 20)
    for number in range(lines):
        spool.add("BUILD", "STDOUT", str(number))
    spool.close()
    os.symlink(DEAD, path.with_suffix(".pid"))
    return path


def test_a_refused_spool_keeps_no_other_waiting(tmp_path: Path) -> None:
    refused, fine = left(tmp_path, "a", 3), left(tmp_path, "b", 1200)
    api = ForgetfulApi(refuses=("a",))
    assert owner.send_left_behind(api, tmp_path) == 1  # type: ignore[arg-type]
    assert api.kept == {"b": [str(number) for number in range(1200)]}
    assert api.handed_back == ["b"]
    assert refused.exists() and not fine.exists()
    api.refuses = ()
    assert owner.send_left_behind(api, tmp_path) == 1  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_spool_of_bytes_that_are_no_text_is_sent_as_far_as_it_goes(tmp_path: Path) -> None:
    path = left(tmp_path, "a", 2)
    with path.open("ab") as torn:
        torn.write(b"\xff\xfe\x00\x00")
    api = ForgetfulApi()
    assert owner.send_left_behind(api, tmp_path) == 1  # type: ignore[arg-type]
    assert api.kept["a"] == ["0", "1"]


def test_an_identity_without_a_spool_goes_only_when_its_process_is_gone(tmp_path: Path) -> None:
    dead, live = spool_path(tmp_path, "dead", 1), spool_path(tmp_path, "live", 1)
    os.symlink(DEAD, dead.with_suffix(".pid"))
    own(live)
    own(live)  # a second time is no error
    assert (is_owned(dead), is_owned(live)) == (False, True)
    forget_dead_owners(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["live.1.pid"]
    assert list(left_behind(tmp_path)) == []
