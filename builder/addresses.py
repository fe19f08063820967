"""Addresses of hosts that a stranger names: which are on the public internet, and how a name resolves."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
Resolve = Callable[[str, int], tuple[str, ...]]


def system_resolve(host: str, port: int) -> tuple[str, ...]:
    """Addresses of `host` by the host's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_global(text: str) -> bool:
    """Whether an address is on the public internet, also the IPv4 one inside an IPv6 one (mapped, 6to4, NAT64)."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address in NAT64:
            return is_global(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        inner = (address.sixtofour, *(address.teredo or ()))
        if address.is_site_local or any(part is not None and not is_global(str(part)) for part in inner):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def normalized(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def listed(host: str, port: int, hosts: Collection[str]) -> bool:
    """Whether an operator's list names a host: `host` for every port, `host:port` for one, `*` for all."""
    name = normalized(host)
    bracketed = f"[{name}]" if ":" in name else name
    return not {"*", name, f"{bracketed}:{port}"}.isdisjoint(entry.lower() for entry in hosts)


def does_not_exist(error: OSError) -> bool:
    """Whether a resolver is sure that there is no such name, so that to ask again is of no use."""
    return isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
