"""What a fetch step may reach, and what it tried: decisions without any socket."""

from __future__ import annotations

import enum
import ipaddress
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from builder.addresses import Resolve, is_global, normalized, system_resolve
from builder.indexes import Indexes
from builder.text import size

DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_RECORDS = 10_000
MOST_SUMMARY_LINES = 20
MOST_NAME = 253  # of a host, RFC 1035
NAMED = re.compile(r"^(?:[\w.-]+=)?(?:sparse\+)?(?=https?://)")
Address = tuple[str, int]


class Verdict(enum.StrEnum):
    """`REFUSED`: not allowed, nothing was sent. `UNREACHABLE`: allowed, but it did not answer."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


ORDER = (Verdict.ALLOWED, Verdict.UNREACHABLE, Verdict.REFUSED)


@dataclass(frozen=True, kw_only=True)
class EgressRecord:
    """One connection that a step asked for. `bytes_out` is what the step sent; `why` is empty when allowed."""

    host: str
    port: int
    bytes_in: int
    bytes_out: int
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """`hosts`: the operator's package indexes, whatever their addresses. `request_hosts`: named by a request (a git
    host), allowed only when every address is global. Names in lower case, without a trailing dot."""

    hosts: frozenset[Address]
    request_hosts: frozenset[Address] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`addresses` are those to connect to (resolved once); empty unless allowed. `upstream`: through that proxy."""

    verdict: Verdict
    addresses: tuple[str, ...] = ()
    upstream: str = ""
    why: str = ""


def bypasses(host: str, port: int, no_proxy: tuple[str, ...]) -> bool:
    """Whether a host is reached without the upstream proxy, as Go reads `NO_PROXY`: a domain stands for itself and all
    below it, `.example.org` only for those, `host:port` for one port, a CIDR for hosts named by address, `*` for all.
    The machine itself is never behind a proxy."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy)


def _matches(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = normalized(entry.removeprefix("*"))
    below = entry if entry.startswith(".") else f".{entry}"
    return bool(entry) and (host == entry or (address is None and host.endswith(below)))


def hosts_of(values: Mapping[str, str]) -> frozenset[Address]:
    """Host and port of every URL in index settings: lists have blanks, commas or bars, and an entry may have a name
    (`mine=https://…`) or cargo's protocol (`sparse+https://…`)."""
    found = set()
    for value in values.values():
        for text in re.split(r"[\s,|]+", value):
            url = urlsplit(NAMED.sub("", text))
            if url.scheme in DEFAULT_PORTS and url.hostname:
                found.add((normalized(url.hostname), url.port or DEFAULT_PORTS[url.scheme]))
    return frozenset(found)


def index_hosts(client: Indexes, settings: Mapping[str, str]) -> frozenset[Address]:
    """The package indexes of the operator's settings that a client reads, and its own where they name none."""
    read = client.environment(settings)
    own = (row.host for row in client.hosts if not any(read.get(name) for name in row.unless))
    named = (host for name in client.named for host in _named_host(read.get(name, "")))
    found = hosts_of(read) | {(host, 443) for host in (*own, *named)}
    return found | {(client.files[host], 443) for host, port in found if host in client.files and port == 443}


def listed_hosts(client: Indexes, hosts: tuple[str, ...]) -> frozenset[Address]:
    """The hosts of an operator's list (`host`, `host:port`) where the client reaches them."""
    pairs = (host.partition(":") for host in hosts if client.listed)
    return frozenset((normalized(name), int(port or DEFAULT_PORTS["https"])) for name, _, port in pairs)


def _named_host(value: str) -> tuple[str, ...]:
    """The host of a variable that names one without a scheme: `off`, a name, `name+hash+key` and maybe a URL behind."""
    name, *url = value.split() or ["off"]
    host = name.partition("+")[0].partition("/")[0]
    return () if url or host == "off" else (normalized(host),)


@dataclass
class Egress:
    """The way out of one step: what is allowed, through which upstream proxy, and everything that was tried.

    `upstream_proxy` is `http://host:port` or empty, `no_proxy` whom it is not for (`bypasses`). Addresses are resolved
    once and stay while this lives. `tunnel`: what the step connects to is no proxy, but this one address, where the
    policy allows it: for a client that knows no proxy.
    """

    policy: EgressPolicy
    upstream_proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    resolve: Resolve = system_resolve
    tunnel: Address | None = None
    records: list[EgressRecord] = field(default_factory=list)
    _pinned: dict[Address, tuple[str, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def for_indexes(
        cls,
        client: Indexes,
        settings: Mapping[str, str],
        *,
        upstream_proxy: str = "",
        no_proxy: tuple[str, ...] = (),
        import_hosts: tuple[str, ...] = (),
    ) -> Egress:
        """The indexes of one runtime's client, as the operator's settings move them.

        `import_hosts`: the operator's list of hosts that modules come from, for a client that reaches them.
        """
        hosts = index_hosts(client, settings) | listed_hosts(client, import_hosts)
        return cls(EgressPolicy(hosts=hosts), upstream_proxy, no_proxy)

    def decide(self, host: str, port: int) -> Decision:
        """Whether and where to connect. Resolves a name that is allowed or may be; never another."""
        host = normalized(host)
        index = (host, port) in self.policy.hosts
        if not index and (host, port) not in self.policy.request_hosts:
            return Decision(verdict=Verdict.REFUSED, why="not a configured package index")
        upstream = "" if bypasses(host, port, self.no_proxy) else self.upstream_proxy
        if index and upstream:
            return Decision(verdict=Verdict.ALLOWED, addresses=(host,), upstream=upstream)
        try:
            addresses = self._resolved(host, port)
        except OSError as error:
            return Decision(verdict=Verdict.UNREACHABLE, why=f"its name does not resolve: {error}")
        private = [address for address in addresses if not is_global(address)]
        if not index and private:
            return Decision(verdict=Verdict.REFUSED, why=f"{private[0]} is not a public address")
        return Decision(verdict=Verdict.ALLOWED, addresses=addresses, upstream=upstream)

    def record(self, entry: EgressRecord) -> None:
        """Keep it; the first 10,000 of a step are enough for anybody."""
        with self._lock:
            if len(self.records) < MOST_RECORDS:
                self.records.append(entry)

    def unreachable(self) -> frozenset[str]:
        """Hosts that were allowed but never answered: the platform's trouble, not the user's."""
        return self._hosts(Verdict.UNREACHABLE) - self._hosts(Verdict.ALLOWED)

    def refused(self) -> frozenset[str]:
        """`host:port` of everything that was refused."""
        with self._lock:
            return frozenset(f"{r.host}:{r.port}" for r in self.records if r.verdict is Verdict.REFUSED)

    def summary_lines(self) -> tuple[str, ...]:
        """A line for each host and verdict, for the log; the indexes first: a step can name any number of others."""
        sums: dict[tuple[Verdict, str], tuple[int, int]] = {}
        with self._lock:
            for record in self.records:
                key = (record.verdict, f"{record.host[:MOST_NAME]}:{record.port}")
                came, went = sums.get(key, (0, 0))
                sums[key] = (came + record.bytes_in, went + record.bytes_out)
        ranked = sorted(sums.items(), key=lambda item: (ORDER.index(item[0][0]), item[0][1]))
        lines = [
            f"egress {where} {verdict}" + (f", {size(came)} in, {size(went)} out" if came or went else "")
            for (verdict, where), (came, went) in ranked[:MOST_SUMMARY_LINES]
        ]
        more = len(ranked) - MOST_SUMMARY_LINES
        return (*lines, *((f"egress: {more} more hosts",) if more > 0 else ()))

    def _hosts(self, verdict: Verdict) -> frozenset[str]:
        with self._lock:
            return frozenset(record.host for record in self.records if record.verdict is verdict)

    def _resolved(self, host: str, port: int) -> tuple[str, ...]:
        with self._lock:
            known = self._pinned.get((host, port))
        if known is None:
            known = self.resolve(host, port)
            with self._lock:
                known = self._pinned.setdefault((host, port), known)
        return known
