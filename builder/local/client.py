"""What the command line asks of a server, answered within this process: the calls of `builder.cli.client.Client`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local.here import Here
from builder.logs import log_to
from builder.services.errors import Status, not_found, status_of
from builder.services.parts import find_build
from builder.settings import Settings
from builder.store import logs
from builder.store.events import Event
from builder.store.transitions import TERMINAL

if TYPE_CHECKING:
    from builder.attempt.reader import Readers
    from builder.local.build import Owner
    from builder.services.nodes import OperateService

PAGE_LINES = 1000
POLL_S = 0.1
TIDY_S = 1.0
LEAVE_S = 3.0
"""How long whoever leaves waits for the end of the build whose sandbox was killed."""


class LocalClient:
    """`BuildService` over the store of the data folder. A refused call raises what `as_error` makes of it; a fault of
    ours, and a store that does not answer, stay what they are.

    With `readers` this process is also the owner of what it creates.
    """

    def __init__(
        self,
        settings: Settings,
        as_error: Callable[[Status], Exception],
        on_event: Callable[[Event], None] = lambda _: None,
        readers: Readers | None = None,
    ) -> None:
        log_to(Path(settings.data_dir) / "run" / "control.log")
        self._as_error = as_error
        self._here = Here(settings, on_event)
        self._owner: Owner | None = None
        self._thread: threading.Thread | None = None
        self._failed: Exception | None = None
        if readers is not None:
            from builder.local.build import Owner

            self._owner = Owner(self._here, readers)

    def create(self, request: pb.CreateBuildRequest) -> pb.Build:
        """Record a build, and begin it."""
        with self._calls():
            found = self._here.builds.create_build(self._here.caller, request).build
        if self._owner is not None:
            self._thread = threading.Thread(target=self._build, args=(found.build_id,), name="build", daemon=True)
            self._thread.start()
        return found

    def get(self, build_id: str) -> pb.Build:
        """The record."""
        with self._calls():
            return self._here.builds.get_build(self._here.caller, pb.GetBuildRequest(build_id=build_id))

    def builds(self, limit: int, cursor: str = "", label: Sequence[str] = ()) -> pb.ListBuildsResponse:
        """One page of the builds that have these labels (KEY=VALUE), newest first."""
        request = pb.ListBuildsRequest(limit=limit, cursor=cursor, label=label)
        with self._calls():
            return self._here.builds.list_builds(self._here.caller, request)

    def cancel(self, build_id: str) -> pb.Build:
        """Ask for the end of a build; the answer is its record."""
        with self._calls():
            return self._here.builds.cancel_build(self._here.caller, pb.CancelBuildRequest(build_id=build_id))

    def nodes(self) -> pb.ListNodesResponse:
        """Every build node, by name; one of them stands for the processes of this machine."""
        with self._calls():
            return self._operate.list_nodes(self._here.caller, pb.ListNodesRequest())

    def drain(self, node_id: str, *, undo: bool) -> pb.Node:
        """Let a node take no more builds, or again."""
        with self._calls():
            return self._operate.drain_node(self._here.caller, pb.DrainNodeRequest(node_id=node_id, undo=undo))

    def forget(self, node_id: str) -> pb.ForgetNodeResponse:
        """Delete a node and revoke its tokens."""
        with self._calls():
            return self._operate.forget_node(self._here.caller, pb.ForgetNodeRequest(node_id=node_id))

    def save_secret(self, secret: pb.NamedSecret) -> pb.Secret:
        """Store a secret, or a new value of one."""
        request = pb.SaveBuildSecretsRequest(named=[secret])
        with self._calls():
            return self._here.builds.save_build_secrets(self._here.caller, request).secrets[0]

    def secrets(self) -> pb.ListBuildSecretsResponse:
        """What is known of each secret, by name."""
        with self._calls():
            return self._here.builds.list_build_secrets(self._here.caller, pb.ListBuildSecretsRequest())

    def delete_secret(self, name: str) -> None:
        """Delete a secret."""
        with self._calls():
            self._here.builds.delete_build_secret(self._here.caller, pb.DeleteBuildSecretRequest(name=name))

    def upload(self, chunks: Callable[[], Iterable[bytes]]) -> pb.UploadBuildContextResponse:
        """Keep a large source."""
        from builder.services.uploads import Uploads

        messages = (pb.UploadBuildContextRequest(chunk=chunk) for chunk in chunks())
        with self._calls():
            return Uploads(self._here.parts).upload_build_context(self._here.caller, messages)

    def follow(self, build_id: str, after: int = 0) -> Iterator[pb.LogEntry]:
        """Every log line after sequence `after`, each once and in order, then the entry with `eof`."""
        store, changes = self._here.store, self._here.news
        with self._calls():
            found = find_build(self._here.parts, self._here.caller, build_id)["build_id"]
        while True:
            seen = changes.generation
            with self._calls():
                read = logs.read_on(store, found, after, PAGE_LINES)
                if read is None:
                    raise not_found(f"{found} was deleted meanwhile")
            lines, status, count = read
            for line in lines:
                after = line["s"]
                yield _entry(line)
            if status in TERMINAL and (after >= count or not lines):
                yield pb.LogEntry(sequence=count, eof=True, status=pb.BuildStatus.Value("BUILD_STATUS_" + status))
                return
            if self._failed is not None:
                raise self._failed
            if not lines:
                changes.wait(seen, POLL_S)

    def kill(self) -> None:
        """Leave: kill what the build of this process runs, and give its record a moment to end."""
        from builder.sandbox.processes import children

        if self._thread is None:
            return
        for pid in children(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._thread.join(LEAVE_S)

    def close(self) -> None:
        """Let the thread of an ended build remove its spool. The rest ends with the process."""
        if self._thread is not None:
            self._thread.join(TIDY_S)
        if self._owner is not None:
            self._owner.close()
            self._owner.retain()

    @property
    def _operate(self) -> OperateService:
        from builder.services.nodes import OperateService

        return OperateService(self._here.parts)

    @contextmanager
    def _calls(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            status = status_of(error)
            if status.mark or status.outage:  # a fault of ours: its trace goes into the report; a disk: no server's
                raise
            raise self._as_error(status) from None

    def _build(self, build_id: str) -> None:
        assert self._owner is not None
        try:
            self._owner.build(build_id)
        except Exception as error:
            self._failed = error
            self._here.news.tell()


def _entry(line: logs.Line) -> pb.LogEntry:
    return pb.LogEntry(
        timestamp_ms=line["t"],
        sequence=line["s"],
        phase=pb.BuildPhase.Value(f"BUILD_PHASE_{line['p'] or 'UNSPECIFIED'}"),
        stream=pb.LogStream.Value("LOG_STREAM_" + line["o"]),
        line=line["l"],
    )
