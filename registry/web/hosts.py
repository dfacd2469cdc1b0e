"""Host and Origin checks: the defence against DNS rebinding.

A web page can have its own name resolve to our address. Its requests are then same-origin, and
only the Host header reveals it. So Host is checked before everything else.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from registry.core.settings import LOOPBACK_HOSTS, Settings
from registry.web.errors import JsonAnswer

DEFAULT_PORTS = {"http": 80, "https": 443}


class HostGuard:
    """Checks hosts and origins against the names of this registry.

    Args:
        base_url: The address clients use.
        bind_host: Where the registry listens; loopback names count only if that is loopback.
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

    @classmethod
    def from_settings(cls, settings: Settings) -> "HostGuard":
        """Return the guard of a registry with these settings."""
        return cls(
            base_url=settings.base_url,
            bind_host=settings.registry_host,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
        )

    def is_addressed(self, scope: Scope) -> bool:
        """Whether an HTTP request has exactly one Host header, which names this registry."""
        sent = [value for name, value in scope["headers"] if name == b"host"]
        server = scope.get("server")
        return len(sent) == 1 and self.is_our_name(
            sent[0].strip(b" \t").decode("latin-1"), server[1] if server else None
        )

    def is_our_name(self, host: str, port: int | None) -> bool:
        """Whether *host*, as sent, names this registry. *port* is the one it arrived on."""
        names = self._names_at(port)
        if host in names:
            return True
        lowered = host.lower()
        return lowered in names or _without_port(lowered) in self._any_port

    def is_allowed_origin(self, origin: str, port: int | None) -> bool:
        """Whether a page of *origin* may call. *port* is the one the request arrived on."""
        lowered = origin.lower()
        if lowered in self._origins:
            return True
        # A page served by us on one loopback name may call us on any other.
        scheme, _, netloc = lowered.partition("://")
        return self._is_loopback and scheme == "http" and netloc in self._names_at(port)

    def _names_at(self, port: int | None) -> frozenset[str]:
        names = self._by_port.get(port)
        if names is None:
            names = self._by_port[port] = self._names(port)
        return names

    def _names(self, port: int | None) -> frozenset[str]:
        if not self._is_loopback or port is None:
            return frozenset(self._exact)
        bracketed = (f"[{name}]" if ":" in name else name for name in LOOPBACK_HOSTS)
        return frozenset(self._exact | {f"{name}:{port}" for name in bracketed})


async def answer_misdirected(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an HTTP request whose Host does not name this registry."""
    answer = JsonAnswer(
        {
            "error": "misdirected_request",
            "message": "This Host is not served here; ALLOWED_HOSTS lists further ones.",
        },
        421,
        # The next request of that connection would be refused as well.
        {"Connection": "close"},
    )
    await answer(scope, receive, send)


def _has_port(host: str) -> bool:
    return _without_port(host) != host


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host
