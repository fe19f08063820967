"""The way out of a fetch step: the real proxy between a hostile client and listeners that must hear nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from builder import sandbox
from builder.sandbox import proxy
from tests.edges import probe
from tests.edges.world import World

INDEX = "index.example"
PUBLIC = "8.8.8.8"


@dataclass
class Hosts:
    """An allowed index, which keeps the heads it got, and a neighbour on the same address that must hear nothing."""

    index: int
    neighbour: int
    proxy: tuple[str, int]
    egress: sandbox.Egress
    heads: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> bytes:
        """What a step gets for these bytes, to the end of the connection."""
        with socket.create_connection(self.proxy, 120) as one:
            one.settimeout(120)
            try:
                one.sendall(data)
                with suppress(OSError):  # it may be closed by now, its answer unread
                    one.shutdown(socket.SHUT_WR)
                got = b""
                while more := one.recv(65536):
                    got += more
            except (BrokenPipeError, ConnectionResetError):  # refused before all of it was read
                return b"HTTP/1.1 400 reset"
            return got

    def status(self, data: bytes) -> str:
        got = self.send(data)
        return got.split(b" ", 2)[1].decode() if got.startswith(b"HTTP/1.") else repr(got)

    def asked(self, *targets: str) -> str:
        """One verdict for CONNECT and absolute requests to these hosts and ports; and what the neighbour heard."""
        got = {self.status(f"CONNECT {one} HTTP/1.1\r\nHost: {one}\r\n\r\n".encode()) for one in targets}
        got |= {self.status(f"GET http://{one}/ HTTP/1.1\r\nHost: {INDEX}\r\n\r\n".encode()) for one in targets}
        bad = got - {"400", "403"}
        return (
            "refused, unheard" if not bad and not self.heard and not self.heads else f"{bad} {self.heard} {self.heads}"
        )


@contextmanager
def hosts(**policy: Any) -> Iterator[Hosts]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(3)]
        index, neighbour, front = listeners
        ports = [one.getsockname()[1] for one in listeners]
        resolve = policy.pop("resolve", lambda host, port: ("127.0.0.1",))
        requested = frozenset((name, ports[1]) for name in policy.pop("requested", ()))
        allowed = sandbox.EgressPolicy(hosts=frozenset({(INDEX, ports[0])}), request_hosts=requested, **policy)
        egress = sandbox.Egress(allowed, resolve=resolve)
        made = Hosts(ports[0], ports[1], ("127.0.0.1", ports[2]), egress)
        for listener, found in ((index, made.heads), (neighbour, made.heard)):
            thread = threading.Thread(target=answering, args=(listener, found), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
        stack.enter_context(proxy.serving(front, egress))
        yield made


def answering(listener: socket.socket, found: list[bytes]) -> None:
    """Answer each request of a connection, as a server does that keeps it open unless it is told to close."""
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        with one:
            one.settimeout(120)
            data = b""
            while b"\r\n\r\n" in data or (more := one.recv(65536)):
                data += more if b"\r\n\r\n" not in data else b""
                if b"\r\n\r\n" not in data:
                    continue
                head, _, data = data.partition(b"\r\n\r\n")
                found.append(head)
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                if b"connection: close" in head.lower():
                    break


@probe("refused, unheard")
def addresses_in_every_spelling(world: World) -> str:
    """Loopback and the metadata address: decimal, octal, hexadecimal, short, padded."""
    with hosts() as one:
        loopback: tuple[str, ...] = (
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0x7f.1",
            "0177.0.0.1",
            "0",
        )
        loopback += ("localhost", "127.0.0.1.", "0.0.0.0", "127.000.000.001", "①②⑦.0.0.1", "127.0.0.1.nip.example")
        metadata = (
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "metadata.google.internal",
        )
        spelled = [f"{host}:{port}" for host in loopback for port in (one.neighbour, one.index)]
        return one.asked(*spelled, *(f"{host}:80" for host in metadata))


@probe("refused, unheard")
def addresses_of_ipv6(world: World) -> str:
    with hosts() as one:
        spelled = (
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1%25lo",
            "fd00::1",
        )
        return one.asked(*(f"[{host}]:{port}" for host in spelled for port in (one.neighbour, one.index)))


@probe("refused, unheard")
def names_that_look_like_the_index(world: World) -> str:
    with hosts() as one:
        named = (
            f"{INDEX}.evil.example", f"evil-{INDEX}", f"x.{INDEX}", "index.example\u0130", "\uff49ndex.example",
            "index%2eexample",
            f"{INDEX}%00.evil.example", f"{INDEX}\\", f"{INDEX}..", f" {INDEX}", f"{INDEX}\t", "*", "",
        )  # fmt: skip
        return one.asked(*(f"{name}:{one.index}" for name in named if not name.endswith("..")))


@probe("refused, unheard")
def users_in_front_of_a_host(world: World) -> str:
    """What one reader takes for the host, another takes for a user."""
    with hosts() as one:
        near = f"127.0.0.1:{one.neighbour}"
        allowed = f"{INDEX}:{one.index}"
        return one.asked(f"{allowed}@{near}", f"{INDEX}@{near}", f"u:p@{near}", f"{allowed}%40{near}")


@probe("refused, unheard")
def other_ports_of_the_index(world: World) -> str:
    with hosts() as one:
        ports = (one.neighbour, 22, 25, 80, 443, 6379, 0, 65536, one.index + 65536, -1)
        return one.asked(*(f"{INDEX}:{port}" for port in ports), INDEX)


@probe("200")
def the_index_in_other_spellings(world: World) -> str:
    """Not every other spelling is an attack: case and the root's dot are the same host."""
    with hosts() as one:
        named = (INDEX, INDEX.upper(), f"{INDEX}.")
        got = {one.status(f"GET http://{name}:{one.index}/ HTTP/1.1\r\n\r\n".encode()) for name in named}
        return " ".join(sorted(got))


@probe("400")
def other_schemes_and_forms(world: World) -> str:
    with hosts() as one:
        at = f"{INDEX}:{one.index}"
        targets = (
            f"https://{at}/", f"ftp://{at}/", "file:///etc/passwd", f"//{at}/", "/", "*", f"gopher://{at}/",
            f"http:/{at}/",
            f"http:///{at}/", f"http://[{at}/", f"HTTP//{at}", "",
        )  # fmt: skip
        lines = [f"GET {target} HTTP/1.1" for target in targets]
        lines += [
            f"CONNECT http://{at} HTTP/1.1",
            f"CONNECT {at}/ HTTP/1.1",
            f"CONNECT {INDEX} HTTP/1.1",
            f"CONNECT {at}",
        ]
        lines += [
            f"GET http://{at}/ HTTP/2",
            f"GET http://{at}/ HTTP/1.1 x",
            f"GET  http://{at}/ HTTP/1.1",
            "\x16\x03\x01",
        ]
        return " ".join(sorted({one.status(f"{line}\r\n\r\n".encode()) for line in lines}))


@probe("the index's own")
def another_host_in_the_header(world: World) -> str:
    """A virtual host of the index's server: the header is made from the URI that was judged."""
    with hosts() as one:
        sent = (b"Host: internal-vhost", b"hOsT:internal-vhost", b"Host: a\r\nHost: internal-vhost", b"X-Forwarded: 1")
        for each in sent:
            one.send(b"GET http://%s:%d/ HTTP/1.1\r\n%s\r\n\r\n" % (INDEX.encode(), one.index, each))
        own = f"Host: {INDEX}:{one.index}".encode()
        wrong = [head for head in one.heads if head.count(b"ost:") != 1 or own not in head.split(b"\r\n")]
        return "the index's own" if len(one.heads) == len(sent) and not wrong else str(wrong)


@probe("400, unheard")
def headers_that_two_readers_read_apart(world: World) -> str:
    """A bare line feed, a folded line, white space before the colon: each can carry another Host or a request."""
    with hosts() as one:
        start = b"GET http://%s:%d/ HTTP/1.1\r\n" % (INDEX.encode(), one.index)
        fields = (
            b"X: y\nHost: internal-vhost", b"X: y\r\n Host: internal-vhost", b"Host : internal-vhost", b"X: y\rHost: z",
            b"X: \x00", b"\xffHost: internal-vhost", b"Connection : keep-alive", b"X",
            b"X: y\n\nGET / HTTP/1.1\nHost: internal-vhost\n",
        )  # fmt: skip
        got = {one.status(start + each + b"\r\n\r\n") for each in fields}
        return f"{' '.join(sorted(got))}, {'heard' if one.heads else 'unheard'}"


@probe("one")
def requests_behind_a_request(world: World) -> str:
    """The second one names another host; the connection is closed after the first."""
    with hosts() as one:
        second = b"GET http://internal-vhost/ HTTP/1.1\r\nHost: internal-vhost\r\n\r\n"
        keep = b"Connection: keep-alive\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\n"
        one.send(b"GET http://%s:%d/ HTTP/1.1\r\n%s\r\n" % (INDEX.encode(), one.index, keep) + second * 3)
        return "one" if len(one.heads) == 1 else str(one.heads)


@probe("refused, unheard")
def a_name_whose_addresses_change(world: World) -> str:
    """A host that a request names: public when it is judged, private when it is asked again; or both at once."""
    answers = iter([(PUBLIC,), ("127.0.0.1",), ("127.0.0.1",)])
    pinned = sandbox.Egress(
        sandbox.EgressPolicy(hosts=frozenset(), request_hosts=frozenset({("git.example", 443)})),
        resolve=lambda *_: next(answers),
    )
    assert [pinned.decide("git.example", 443).addresses for _ in range(3)] == [(PUBLIC,)] * 3
    for mixed in (
        (PUBLIC, "127.0.0.1"),
        ("127.0.0.1",),
        ("::ffff:10.0.0.1",),
        ("fe80::1%lo",),
        ("0.0.0.0",),
        ("100.64.0.1",),
    ):
        with hosts(requested=("git.example",), resolve=lambda *_, all=mixed: all) as one:
            if (got := one.asked(f"git.example:{one.neighbour}")) != "refused, unheard":
                return got
    return "refused, unheard"


@probe("400")
def a_head_without_end(world: World) -> str:
    with hosts() as one:
        start = f"GET http://{INDEX}:{one.index}/ HTTP/1.1\r\n".encode()
        return one.status(start + b"X: " + b"a" * 300_000)


@probe("an honest request is served")
def three_hundred_slow_connections(world: World) -> str:
    """Each sends a byte now and then. Another step's proxy is not concerned, and this one gives them up in time."""
    with mock.patch.object(proxy, "HEAD_TIMEOUT_S", 1.0), hosts() as one, hosts() as other, ExitStack() as stack:
        slow = [stack.enter_context(closing(socket.create_connection(one.proxy, 120))) for _ in range(300)]
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):
                for each in slow:
                    try:
                        each.send(b"G")
                    except OSError:
                        continue

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        stack.callback(dripping.join)
        stack.callback(ended.set)
        got = [each.status(f"GET http://{INDEX}:{each.index}/ HTTP/1.1\r\n\r\n".encode()) for each in (other, one)]
    return "an honest request is served" if got == ["200", "200"] else str(got)


@probe("no thread is left")
def connections_that_outlive_the_step(world: World) -> str:
    """Tunnels and half heads are cut when the step ends."""
    with ExitStack() as stack:
        with hosts() as one:
            for data in (b"", b"GET ", b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (INDEX.encode(), one.index)) * 20:
                client = stack.enter_context(closing(socket.create_connection(one.proxy, 120)))
                client.sendall(data)
        until = time.monotonic() + 120
        while left := [each for each in threading.enumerate() if each.name.startswith("sandbox-egress")]:
            if time.monotonic() > until:
                return f"{len(left)} threads"
            left[0].join(0.1)
    return "no thread is left"


@probe("cut, and no error of ours")
def a_connection_as_the_step_ends(world: World) -> str:
    """The step ends after the connection was accepted and before its thread runs."""
    start, failed = threading.Thread.start, list[BaseException]()
    listener = socket.create_server(("127.0.0.1", 0))
    served = proxy.serving(listener, sandbox.Egress(sandbox.EgressPolicy(hosts=frozenset())))

    def end() -> None:
        try:
            served.__exit__(None, None, None)
        except BaseException as error:
            failed.append(error)

    ending = threading.Thread(target=end)

    def ends_first(thread: threading.Thread) -> None:
        if thread.name == "sandbox-egress-one":
            start(ending)
            ending.join(0.2)
        start(thread)

    with mock.patch.object(threading.Thread, "start", ends_first):
        served.__enter__()
        with socket.create_connection(listener.getsockname(), 120) as client:
            client.settimeout(120)
            got = client.recv(100)
        ending.join(120)
    return "cut, and no error of ours" if not (got or failed or ending.is_alive()) else f"{got!r} {failed}"
