"""What the servers domain asks of others. Implemented above it, handed in by wiring."""

from collections.abc import Callable
from typing import Protocol

from registry.core.json import JsonObject
from registry.servers.values import ConnectionSpec, Discovered

Progressing = Callable[[int], None]


class Discovery(Protocol):
    """Reads upstreams. Never called inside a transaction."""

    async def discover(
        self, connection: ConnectionSpec, progress: Progressing | None = None
    ) -> Discovered:
        """Connect, read capabilities and all tools, disconnect.

        *progress* is told how many tools were read so far, after each page of them.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached or answered badly.
        """

    async def oauth_metadata(self, connection: ConnectionSpec) -> JsonObject | None:
        """Return the upstream's RFC 9728 document, or None when it publishes none.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached.
        """

    async def check_url(self, url: str) -> None:
        """Refuse a URL that may not be contacted, without contacting it.

        Raises:
            UnsafeUrlError: Scheme, userinfo or an address behind the name is not allowed.
        """


class ServerChanges(Protocol):
    """Hears of committed changes, so that the gateway follows at once on this replica."""

    async def server_changed(self, server_id: str) -> None:
        """Take note that the server, its tools or its grants changed or went away."""
