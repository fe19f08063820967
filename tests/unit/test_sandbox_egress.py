"""What the egress proxy allows and how it reads requests, without a socket."""

from __future__ import annotations

import pytest

from builder import indexes
from builder.addresses import is_global
from builder.indexes import Indexes
from builder.sandbox import Egress, EgressPolicy, EgressRecord, Verdict
from builder.sandbox.policy import bypasses, hosts_of
from builder.sandbox.proxy import BadRequest, environment, parse

PUBLIC = "93.184.216.34"


class Names:
    """A name server: answers from a table, a different address each time where there are several lists."""

    def __init__(self, table: dict[str, list[tuple[str, ...]]]) -> None:
        self.table = table
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        self.asked.append(host)
        answers = self.table.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def egress(names: Names, *, upstream: str = "", request: tuple[str, ...] = ()) -> Egress:
    requested = frozenset((name, 443) for name in request)
    policy = EgressPolicy(hosts=frozenset({("pypi.corp", 443)}), request_hosts=requested)
    return Egress(policy, upstream, resolve=names)


def test_an_index_may_be_private() -> None:
    decision = egress(Names({"pypi.corp": [("10.1.2.3",)]})).decide("PyPI.corp.", 443)
    assert (decision.verdict, decision.addresses) == (Verdict.ALLOWED, ("10.1.2.3",))


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("pypi.corp", 80),
        ("evil.example", 443),
        ("x.pypi.corp", 443),
        ("pypi.corp.evil", 443),
        ("10.1.2.3", 443),
        ("", 443),
    ],
)
def test_everything_else_is_refused_and_not_even_looked_up(host: str, port: int) -> None:
    names = Names({host: [(PUBLIC,)]})
    assert egress(names).decide(host, port).verdict is Verdict.REFUSED
    assert names.asked == []


def test_a_requested_host_needs_all_its_addresses_to_be_public() -> None:
    names = Names({"git.example": [(PUBLIC,)], "mixed.example": [(PUBLIC, "10.0.0.1")]})
    way = egress(names, request=("git.example", "mixed.example"))
    assert way.decide("git.example", 443).verdict is Verdict.ALLOWED
    refused = way.decide("mixed.example", 443)
    assert refused.verdict is Verdict.REFUSED
    assert "10.0.0.1 is not a public address" in refused.why


def test_a_requested_host_is_reached_at_the_port_of_its_url_alone() -> None:
    names = Names({"git.example": [(PUBLIC,)]})
    assert egress(names, request=("git.example",)).decide("git.example", 8443).verdict is Verdict.REFUSED
    assert names.asked == []


def test_addresses_are_pinned_against_rebinding() -> None:
    names = Names({"git.example": [(PUBLIC,), ("127.0.0.1",)]})
    way = egress(names, request=("git.example",))
    assert way.decide("git.example", 443).addresses == way.decide("git.example", 443).addresses == (PUBLIC,)
    assert names.asked == ["git.example"]


def test_a_name_that_does_not_resolve_is_unreachable_not_refused() -> None:
    assert egress(Names({})).decide("pypi.corp", 443).verdict is Verdict.UNREACHABLE


def test_behind_an_upstream_proxy_an_index_goes_by_name_and_a_requested_host_by_checked_address() -> None:
    names = Names({"git.example": [(PUBLIC,)]})
    way = egress(names, upstream="http://proxy:3128", request=("git.example",))
    assert way.decide("pypi.corp", 443).addresses == ("pypi.corp",)
    assert way.decide("git.example", 443).addresses == (PUBLIC,)


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("pypi.corp", "pypi.corp", True),
        ("corp", "pypi.corp", True),
        (".corp", "pypi.corp", True),
        ("*.corp", "pypi.corp", True),
        ("PyPI.Corp.", "pypi.corp", True),
        ("*", "pypi.corp", True),
        ("pypi.corp:443", "pypi.corp", True),
        ("pypi.corp:8443", "pypi.corp", False),
        (".pypi.corp", "pypi.corp", False),
        ("i.corp", "pypi.corp", False),
        ("", "pypi.corp", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("2.3", "10.1.2.3", False),
        ("10.0.0.0/8", "pypi.corp", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00::1", "fd00::1", True),
        ("fd00:0:1::2:443", "fd00:0:1::2", False),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]:444", "fd00::1", False),
        ("other", "localhost", True),
        ("other", "127.0.0.2", True),
        ("other", "::1", True),
    ],
)
def test_whom_the_upstream_proxy_is_not_for(entry: str, host: str, direct: bool) -> None:
    assert bypasses(host, 443, ("x.example", entry)) is direct


def test_an_internal_mirror_behind_a_corporate_proxy_is_reached_by_itself() -> None:
    names = Names({"pypi.corp": [("10.1.2.3",)], "out.example": [(PUBLIC,)]})
    moved = {"UV_DEFAULT_INDEX": "https://pypi.corp/simple", "UV_INDEX": "https://out.example/simple"}
    way = Egress.for_indexes(CLIENTS["python"], moved, upstream_proxy="http://proxy:3128", no_proxy=("corp",))
    way.resolve = names
    inside, outside = way.decide("pypi.corp", 443), way.decide("out.example", 443)
    assert (inside.addresses, inside.upstream) == (("10.1.2.3",), "")
    assert (outside.addresses, outside.upstream) == (("out.example",), "http://proxy:3128")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_global(address)


def test_hosts_are_read_from_the_operators_settings() -> None:
    found = hosts_of(
        {
            "GOPROXY": "https://go.corp:8443/mod,https://second.corp|direct",
            "PIP_EXTRA_INDEX_URL": "https://user:word@pypi.corp/simple http://plain.corp/simple",
            "GOSUMDB": "sum.golang.org",
            "UV_INDEX_URL": "https://[fd00::1]:444/simple",
            "CARGO_REGISTRIES_MIRROR_INDEX": "sparse+https://crates.corp/",
        }
    )
    assert found == {
        ("go.corp", 8443),
        ("second.corp", 443),
        ("pypi.corp", 443),
        ("plain.corp", 80),
        ("fd00::1", 444),
        ("crates.corp", 443),
    }


CLIENTS = indexes.shipped()
PYPI = {"pypi.org", "files.pythonhosted.org"}
CRATES = {"index.crates.io", "static.crates.io"}
GO_PROXY = {"proxy.golang.org"}
GO_SUM = {"sum.golang.org"}
CORP = "https://pypi.corp/simple"


@pytest.mark.parametrize(
    ("runtime", "settings", "hosts"),
    [
        ("python", {}, PYPI),
        ("python", {"UV_DEFAULT_INDEX": CORP}, {"pypi.corp"}),
        ("python", {"UV_INDEX_URL": CORP}, {"pypi.corp"}),
        ("python", {"UV_DEFAULT_INDEX": ""}, PYPI),
        ("python", {"UV_INDEX": f"mine={CORP}"}, {"pypi.corp"} | PYPI),
        ("python", {"UV_DEFAULT_INDEX": "https://pypi.org/simple"}, PYPI),
        ("python", {"UV_DEFAULT_INDEX": CORP, "UV_INDEX": "https://pypi.org/simple"}, {"pypi.corp"} | PYPI),
        ("python", {"UV_DEFAULT_INDEX": CORP, "FILES": "https://files.corp"}, {"pypi.corp", "files.corp"}),
        ("python", {"UV_DEFAULT_INDEX": CORP, "GOPROXY": "https://go.corp"}, {"pypi.corp"}),
        ("go", {}, GO_PROXY | GO_SUM),
        ("go", {"UV_DEFAULT_INDEX": CORP}, GO_PROXY | GO_SUM),
        ("go", {"GOPROXY": "https://go.corp,direct"}, {"go.corp"} | GO_SUM),
        ("go", {"GOPROXY": "https://go.corp|https://proxy.golang.org"}, {"go.corp"} | GO_PROXY | GO_SUM),
        ("go", {"GOPROXY": "off"}, GO_SUM),
        ("go", {"GOPROXY": "https://go.corp", "GONOSUMDB": "corp/*", "GOPRIVATE": "corp/*"}, {"go.corp"} | GO_SUM),
        ("go", {"GOSUMDB": "off"}, GO_PROXY),
        ("go", {"GO_FILES": "https://buckets.example"}, GO_PROXY | GO_SUM | {"buckets.example"}),
        ("python", {"GO_FILES": "https://buckets.example"}, PYPI),
        ("go", {"GOSUMDB": "sum.golang.org"}, GO_PROXY | GO_SUM),
        ("go", {"GOSUMDB": "sum.corp+033de0ae+Ac4z"}, GO_PROXY | {"sum.corp"}),
        ("go", {"GOSUMDB": "sum.golang.org+033de0ae+Ac4z https://sum.corp/x"}, GO_PROXY | {"sum.corp"}),
    ],
)
def test_a_runtimes_public_indexes_are_open_only_where_no_setting_moves_its_client(
    runtime: str, settings: dict[str, str], hosts: set[str]
) -> None:
    found = Egress.for_indexes(CLIENTS[runtime], settings).policy.hosts
    assert found == {(host, 443) for host in hosts}


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, PYPI | CRATES),
        ({"UV_INDEX": f"mine={CORP}"}, {"pypi.corp"} | PYPI | CRATES),
        ({"UV_DEFAULT_INDEX": CORP}, {"pypi.corp"}),
        ({"CARGO_REGISTRIES_MIRROR_INDEX": "sparse+https://crates.corp/"}, PYPI | {"crates.corp"}),
    ],
)
def test_the_registry_of_crates_is_open_to_python_only_where_a_step_asks_for_it(
    settings: dict[str, str], hosts: set[str]
) -> None:
    python = CLIENTS["python"]
    asked = Egress.for_indexes(python.with_others({"crates"}), settings).policy.hosts
    assert asked == {(host, 443) for host in hosts}
    without = Egress.for_indexes(python.with_others(()), settings).policy.hosts
    assert without == {(host, 443) for host in hosts - CRATES - {"crates.corp"}}


def test_the_setting_of_another_index_is_read_from_the_machine_and_reaches_no_step_without_it() -> None:
    machine = {"CARGO_REGISTRIES_MIRROR_INDEX": "sparse+https://crates.corp/"}
    python = CLIENTS["python"]
    assert python.from_machine(machine) == machine
    assert python.environment(machine) == {}
    assert python.with_others({"crates"}).environment(machine) == machine


def test_a_runtime_that_lists_no_index_reaches_none() -> None:
    assert Egress.for_indexes(Indexes(), {"UV_DEFAULT_INDEX": CORP, "GOPROXY": CORP}).policy.hosts == frozenset()


def test_records_tell_refused_from_unreachable() -> None:
    way = egress(Names({}))
    for host, verdict in (("a", "refused"), ("b", "unreachable"), ("c", "unreachable"), ("c", "allowed")):
        way.record(EgressRecord(host=host, port=443, bytes_in=0, bytes_out=0, verdict=Verdict(verdict)))
    assert way.refused() == {"a:443"}
    assert way.unreachable() == {"b"}, "c answered in the end"


def test_what_was_reached_is_said_a_line_for_each_host_the_indexes_first() -> None:
    way = egress(Names({}))
    for host, came, went, verdict in (
        ("evil.example", 0, 0, "refused"),
        ("pypi.corp", 1 << 20, 900, "allowed"),
        ("pypi.corp", 1 << 18, 200, "allowed"),
        ("go.corp", 0, 0, "unreachable"),
    ):
        way.record(EgressRecord(host=host, port=443, bytes_in=came, bytes_out=went, verdict=Verdict(verdict)))
    assert way.summary_lines() == (
        "egress pypi.corp:443 allowed, 1.2 MiB in, 1.1 KiB out",
        "egress go.corp:443 unreachable",
        "egress evil.example:443 refused",
    )


def test_a_step_that_asks_for_many_hosts_cannot_fill_the_log_nor_hide_an_index() -> None:
    way = egress(Names({}))
    for number in range(100):
        refused = EgressRecord(host=f"{number}.{'x' * 999}", port=1, bytes_in=0, bytes_out=0, verdict=Verdict.REFUSED)
        way.record(refused)
    way.record(EgressRecord(host="z.corp", port=443, bytes_in=1, bytes_out=2, verdict=Verdict.ALLOWED))
    lines = way.summary_lines()
    assert (len(lines), lines[0], lines[-1]) == (
        21,
        "egress z.corp:443 allowed, 1 B in, 2 B out",
        "egress: 81 more hosts",
    )
    assert max(map(len, lines)) < 300


# --- requests


def test_connect() -> None:
    request = parse(b"CONNECT PyPI.org:443 HTTP/1.1\r\nHost: other\r\n\r\nhello")
    assert (request.host, request.port, request.tunnel, request.first) == ("pypi.org", 443, True, b"hello")
    assert parse(b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n").host == "::1"


def test_absolute_form_is_sent_on_in_origin_form_one_request_a_connection() -> None:
    head = b"GET http://index.corp:8080/simple/?a=1 HTTP/1.1\r\nHost: index.corp\r\nProxy-Authorization: x\r\n"
    request = parse(head + b"Connection: keep-alive\r\nAccept: */*\r\n\r\nbody")
    assert (request.host, request.port, request.tunnel) == ("index.corp", 8080, False)
    assert request.first == (
        b"GET /simple/?a=1 HTTP/1.1\r\nHost: index.corp:8080\r\nAccept: */*\r\nConnection: close\r\n\r\nbody"
    )


@pytest.mark.parametrize(
    "head",
    [
        b"", b"GET / HTTP/1.1", b"GET https://a/ HTTP/1.1", b"GET ftp://a/ HTTP/1.1", b"CONNECT a HTTP/1.1",
        b"CONNECT a:b HTTP/1.1", b"CONNECT a:99999 HTTP/1.1", b"CONNECT u@a:443 HTTP/1.1", b"CONNECT a:443/x HTTP/1.1",
        b"CONNECT a:443", b"CONNECT a:443 HTTP/2", b"GET http://a/\nHost:b HTTP/1.1", b"GET http://a/ HTTP/1.1\nX: y",
        b"GET http://a/\tb HTTP/1.1", b"GET http://a/ HTTP/1.10", b"get http://a/ HTTP/1.1",
        b"GET http:///x HTTP/1.1", b"GET http://[::1/ HTTP/1.1",
    ],
)  # fmt: skip
def test_what_is_no_proxy_request(head: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(head + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://index.corp/", b"index.corp"),
        (b"http://index.corp:80/", b"index.corp"),
        (b"http://user@INDEX.corp.:8080/", b"index.corp:8080"),
        (b"http://[::1]:8080/", b"[::1]:8080"),
    ],
)
def test_a_server_sees_the_host_that_was_judged(target: bytes, host: bytes) -> None:
    head = b"GET " + target + b" HTTP/1.1\r\nhOST: internal-vhost\r\nHost:\r\nAccept: a\tb\r\nUpgrade: h2c\r\n\r\n"
    assert parse(head).first == (b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nAccept: a\tb\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    "field",
    [
        b"Host : internal-vhost", b" folded", b"\tfolded", b"X: a\nHost: internal-vhost", b"X: a\rHost: b", b"X: \x00",
        b"no colon", b": no name", b"X\x0b: a",
        b"X: a\n\nGET / HTTP/1.1\nHost: internal-vhost",
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", [b"GET http://index.corp/ HTTP/1.1", b"CONNECT index.corp:443 HTTP/1.1"])
def test_a_header_that_servers_read_in_different_ways_is_refused(start: bytes, field: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(start + b"\r\nAccept: */*\r\n" + field + b"\r\n\r\n")


def test_clients_are_told_in_both_spellings() -> None:
    assert environment()["HTTPS_PROXY"] == environment()["https_proxy"] == "http://127.0.0.1:3128"
