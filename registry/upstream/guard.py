"""Which addresses upstream connections may go to (protection against SSRF).

A name is judged by all addresses it resolves to, at the moment of connecting, and the
connection goes to an address that was judged: a second look-up cannot change the target.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from registry.upstream.errors import UnsafeAddressError, UpstreamConnectError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


NEVER_ALLOWED = _networks(
    # "This network", link-local, multicast, reserved and broadcast.
    "0.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    # Metadata and credential services of clouds, where they are not link-local: Oracle's among the
    # protocol assignments, Alibaba, Azure, Amazon, Google.
    "192.0.0.0/24",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "fd00:ec2::/32",
    "fd20:ce::/32",
)
"""No setting allows these."""

NOT_PUBLIC = _networks(
    # https://www.iana.org/assignments/iana-ipv4-special-registry, what is not globally reachable.
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    # https://www.iana.org/assignments/iana-ipv6-special-registry, within 2000::/3.
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
)
"""`UPSTREAM_ALLOWED_NETWORKS` can allow these. Kept here, for the table of Python's `ipaddress` is
another one with each release."""

PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is allocated for unicast between networks; what is beyond it is not public either."""

EMBEDDED_IPV4 = _networks(
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
    "::/96",
    "::ffff:0:0:0/96",
)
"""Forms of IPv6 that lead to an IPv4 address: NAT64, 6to4, Teredo, IPv4-compatible and
IPv4-translated."""

MAPPED_IPV4 = ipaddress.IPv6Network("::ffff:0:0/96")
LOOPBACK_IPV6 = ipaddress.IPv6Address("::1")


@dataclass(frozen=True, slots=True)
class CheckedAddress:
    """An address that may be connected to.

    Attributes:
        family: `socket.AF_INET` or `socket.AF_INET6`.
    """

    host: str
    port: int
    family: socket.AddressFamily


AddressInfo: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]
"""Returns what `getaddrinfo` does, of a name and a port."""


async def look_up(host: str, port: int) -> Sequence[AddressInfo]:
    """Return the addresses of *host*, asked for in the event loop's own threads."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class UrlGuard:
    """Judges URLs and addresses.

    Args:
        allowed_networks: Private networks (CIDR) that may be contacted all the same.
    """

    def __init__(self, allowed_networks: Sequence[str]) -> None:
        self._allowed = tuple(ipaddress.ip_network(network) for network in allowed_networks)

    def check_syntax(self, url: str) -> SplitResult:
        """Return the parts of *url*.

        Raises:
            UnsafeAddressError: It is no http(s) URL, or one of a form that hides its target.
        """
        if len(url) > MAX_URL_CHARACTERS:
            raise UnsafeAddressError("is longer than 2,048 characters")
        if any(ord(character) <= 32 or ord(character) == 127 for character in url):  # noqa: PLR2004 - ASCII
            raise UnsafeAddressError("holds spaces or control characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UnsafeAddressError("is not a valid URL") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise UnsafeAddressError("must start with http:// or https://")
        if not parts.hostname or port == 0 or "\\" in url:
            raise UnsafeAddressError("names no host")
        if "@" in parts.netloc:
            raise UnsafeAddressError(
                "must not hold a user name or password; use apiKey or headers instead"
            )
        if "%" in parts.netloc:
            raise UnsafeAddressError("must not hold an escaped host or a zone")
        self._refuse_odd_number(parts.hostname)
        return parts

    async def check(self, url: str) -> None:
        """Judge *url* and every address behind it, without connecting.

        Raises:
            UnsafeAddressError: It may not be contacted.
            UpstreamConnectError: Its name cannot be resolved.
        """
        parts = self.check_syntax(url)
        await self.resolve(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])

    async def resolve(
        self, host: str, port: int, *, lookup: Lookup | None = None
    ) -> list[CheckedAddress]:
        """Return the addresses of *host*, all of which may be connected to.

        Args:
            host: A name or an address.
            port: Goes into the result.
            lookup: Asks for the addresses of a name; the event loop's own way by default.

        Raises:
            UnsafeAddressError: One of them may not.
            UpstreamConnectError: There are none.
        """
        self._refuse_odd_number(host)
        literal = _literal(host)
        if literal is not None:
            self._judge(literal, host)
            family = socket.AF_INET if literal.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IP version
            return [CheckedAddress(str(literal), port, family)]
        try:
            infos = await (lookup or look_up)(host, port)
        except (OSError, UnicodeError):
            raise UpstreamConnectError(f"The name {host} cannot be resolved.") from None
        found: list[CheckedAddress] = []
        for family, _kind, _protocol, _name, address in infos:
            text = str(address[0])
            self._judge(ipaddress.ip_address(text.partition("%")[0]), host)
            found.append(CheckedAddress(text, port, family))
        if not found:
            raise UpstreamConnectError(f"The name {host} has no address.")
        return found

    def judge_literal(self, host: str) -> None:
        """Judge *host* if it is an IP address; names are judged when they are resolved.

        Raises:
            UnsafeAddressError: It may not be contacted.
        """
        self._refuse_odd_number(host)
        literal = _literal(host)
        if literal is not None:
            self._judge(literal, host)

    def _judge(self, address: IPAddress, host: str) -> None:
        if isinstance(address, ipaddress.IPv6Address):
            # Without its zone, which would be compared, too.
            address = ipaddress.IPv6Address(int(address))
            if address in MAPPED_IPV4:
                self._judge(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF), host)
                return
        is_hidden = address != LOOPBACK_IPV6 and _is_in(address, EMBEDDED_IPV4)
        if is_hidden or _is_in(address, NEVER_ALLOWED):
            raise UnsafeAddressError(f"{host} leads to an address that may not be contacted")
        if not is_public(address) and not _is_in(address, self._allowed):
            raise UnsafeAddressError(
                f"{host} leads to a private address; "
                "UPSTREAM_ALLOWED_NETWORKS can allow its network"
            )

    @staticmethod
    def _refuse_odd_number(host: str) -> None:
        # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to some resolvers and a name to others.
        last = host.rstrip(".").rpartition(".")[2].lower()
        looks_numeric = last.isdigit() or last.startswith("0x")
        if looks_numeric and _literal(host) is None:
            raise UnsafeAddressError("names its host by a non-canonical IP address")


def is_public(address: IPAddress) -> bool:
    """Whether an address is a public one, by its form."""
    if isinstance(address, ipaddress.IPv6Address) and address not in PUBLIC_IPV6:
        return False
    return not _is_in(address, NOT_PUBLIC) and not _is_in(address, NEVER_ALLOWED)


def _is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
