"""BuildService for a person at a terminal: the one client, whose ends are the command line's `Stop`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from google.protobuf.message import Message

from builder.cli.foreign import SEE_SERVER, foreign
from builder.cli.stop import lost_server, refused_call
from builder.client.api import CHECK_SCHEME, Api, ApiError, ApiUnreachable
from builder.client.patient import Clock, NullWatcher, OutOfPatience, PatientApi, SystemClock, Watcher
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.settings import without_credentials

if TYPE_CHECKING:
    import httpx

ANSWER_S = 30.0
__all__ = ["Client", "Watcher"]


class Client:
    """Calls of BuildService. Raises `Stop`: REFUSED by the contract's table, LOST (exit 9) when patience ends."""

    def __init__(
        self,
        server: str,
        token: str,
        *,
        ca_bundle: str = "",
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.server, clock, watcher = server.rstrip("/"), clock or SystemClock(), watcher or NullWatcher()
        self._shown = without_credentials(self.server)
        trust_env = not _is_loopback(self.server)
        self._api = Api(
            self.server,
            token,
            ANSWER_S,
            ca_bundle=ca_bundle,
            transport=transport,
            trust_env=trust_env,
            called=watcher.called,
            clock=clock.now,
        )
        self._patient = PatientApi(self._api, clock, watcher)

    def create(self, request: pb.CreateBuildRequest) -> pb.Build:
        """Ask for a build. The request must carry an idempotency key: a lost answer is asked for again."""
        answer: pb.CreateBuildResponse = self._call("CreateBuild", request)
        build = answer.build
        build.build_id = build.build_id or answer.build_id
        build.status = build.status or answer.status
        return build

    def get(self, build_id: str) -> pb.Build:
        """The record; any unique start of the id of four characters or more will do. One that fits several builds is
        refused by the server, which lists them: only it sees all."""
        build: pb.Build = self._call("GetBuild", pb.GetBuildRequest(build_id=build_id), build_id)
        return build

    def builds(self, limit: int, cursor: str = "", label: Sequence[str] = ()) -> pb.ListBuildsResponse:
        """One page of the builds that have these labels (KEY=VALUE), newest first."""
        request = pb.ListBuildsRequest(limit=limit, cursor=cursor, label=label)
        page: pb.ListBuildsResponse = self._call("ListBuilds", request)
        return page

    def cancel(self, build_id: str) -> pb.Build:
        """Ask for the end of a build; the answer is its record."""
        build: pb.Build = self._call("CancelBuild", pb.CancelBuildRequest(build_id=build_id), build_id)
        return build

    def nodes(self) -> pb.ListNodesResponse:
        """Every build node, by name."""
        found: pb.ListNodesResponse = self._call("ListNodes", pb.ListNodesRequest())
        return found

    def drain(self, node_id: str, *, undo: bool) -> pb.Node:
        """Let a node take no more builds, or again."""
        node: pb.Node = self._call("DrainNode", pb.DrainNodeRequest(node_id=node_id, undo=undo))
        return node

    def forget(self, node_id: str) -> pb.ForgetNodeResponse:
        """Delete a node and revoke its tokens."""
        done: pb.ForgetNodeResponse = self._call("ForgetNode", pb.ForgetNodeRequest(node_id=node_id))
        return done

    def save_secret(self, secret: pb.NamedSecret) -> pb.Secret:
        """Store a secret, or a new value of one."""
        saved: pb.SaveBuildSecretsResponse = self._call("SaveBuildSecrets", pb.SaveBuildSecretsRequest(named=[secret]))
        return saved.secrets[0]

    def secrets(self) -> pb.ListBuildSecretsResponse:
        """What is known of each secret, by name."""
        found: pb.ListBuildSecretsResponse = self._call("ListBuildSecrets", pb.ListBuildSecretsRequest())
        return found

    def delete_secret(self, name: str) -> None:
        """Delete a secret."""
        self._call("DeleteBuildSecret", pb.DeleteBuildSecretRequest(name=name))

    def upload(self, chunks: Callable[[], Iterable[bytes]]) -> pb.UploadBuildContextResponse:
        """Stream a source. A broken upload is not repeated: it creates no build."""
        with self._stops(lambda _: ""):
            try:
                return self._patient.upload(chunks)
            except ApiUnreachable as error:
                if error.refusal is not None:
                    raise error.refusal from None
                hint = CHECK_SCHEME if error.is_mistake else ""
                raise lost_server(self._shown, f"broke off the upload ({error}); no build exists", hint) from None

    def follow(self, build_id: str, after: int = 0) -> Iterator[pb.LogEntry]:
        """Every log line after sequence `after`, each once and in order, then the entry with `eof`."""
        with self._stops(lambda line: f"ignite-builder logs -f {build_id} --from {line}", always=True):
            yield from self._patient.follow(build_id, after)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _call(self, name: str, request: Message, known: str = "") -> Any:
        """`known`: the build that the call is about. It exists whatever the server answers."""
        with self._stops(lambda _: f"ignite-builder get {known}" if known else ""):
            return self._patient.call(name, request, known=bool(known))

    @contextmanager
    def _stops(self, goes_on: Callable[[int], str], *, always: bool = False) -> Iterator[None]:
        """How a call ends without an answer. `goes_on` gives the command that continues at a line.

        A server that was never reached is more likely the wrong one, so it is named only when one was, or `always`:
        who follows a log had the build's id from somewhere.
        """
        try:
            yield
        except ApiError as error:
            raise (
                foreign(error) if error.is_foreign else refused_call(error.code, error.message, error.detail)
            ) from None
        except OutOfPatience as error:
            hint = goes_on(error.after + 1) if error.reached or always else ""
            hint = CHECK_SCHEME if error.is_mistake else hint or SEE_SERVER
            raise lost_server(self._shown, str(error), hint) from None


def _is_loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
