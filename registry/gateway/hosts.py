"""Which Host and Origin headers are answered: the defence against DNS rebinding. Pure."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from registry.core.settings import LOOPBACK_HOSTS
from registry.gateway.errors import HostNotAllowed, OriginNotAllowed

DEFAULT_PORTS = {"http": 80, "https": 443}


class HostGuard:
    """Knows the names this gateway goes by.

    Args:
        base_url: The address clients use.
        bind_host: Where the gateway listens; loopback names count only if that is loopback.
        allowed_hosts: Further names, with a port or (any port) without.
        allowed_origins: Origins of browser pages that may call, besides our own.
    """

    def __init__(
        self,
        *,
        base_url: str,
        bind_host: str,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
    ) -> None:
        base = urlsplit(base_url.lower())
        netlocs = {base.netloc}
        if base.port is None:
            netlocs.add(f"{base.netloc}:{DEFAULT_PORTS[base.scheme]}")
        hosts = {host.lower() for host in allowed_hosts}
        self._exact = netlocs | hosts
        self._any_port = frozenset(host for host in hosts if not _has_port(host))
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}
        self._origins |= {f"{base.scheme}://{netloc}" for netloc in netlocs}
        self._is_loopback = bind_host in LOOPBACK_HOSTS
        self._by_port: dict[int | None, frozenset[str]] = {}

    def check(self, host: str | None, origin: str | None, port: int | None) -> None:
        """Refuse a request that was not meant for us. *port* is the one it arrived on.

        Raises:
            HostNotAllowed: *host* is missing or none of our names.
            OriginNotAllowed: *origin* is a page of someone else's.
        """
        names = self._by_port.get(port)
        if names is None:
            names = self._by_port[port] = self._names(port)
        if host not in names and not self._is_further_name(host, names):
            raise HostNotAllowed
        if origin is not None and not self._is_allowed_origin(origin.lower(), names):
            raise OriginNotAllowed

    def _names(self, port: int | None) -> frozenset[str]:
        if not self._is_loopback or port is None:
            return frozenset(self._exact)
        bracketed = (f"[{name}]" if ":" in name else name for name in LOOPBACK_HOSTS)
        return frozenset(self._exact | {f"{name}:{port}" for name in bracketed})

    def _is_further_name(self, host: str | None, names: frozenset[str]) -> bool:
        if not host:
            return False
        lowered = host.lower()
        return lowered in names or _without_port(lowered) in self._any_port

    def _is_allowed_origin(self, origin: str, names: frozenset[str]) -> bool:
        if origin in self._origins:
            return True
        # A page that we served on a loopback name is ours, whichever of the names it used.
        scheme, _, netloc = origin.partition("://")
        return self._is_loopback and scheme == "http" and netloc in names


def _has_port(host: str) -> bool:
    return _without_port(host) != host


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host
