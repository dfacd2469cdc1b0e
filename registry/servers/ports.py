"""Ports of the servers domain: what it needs from others. Wiring supplies the implementations."""

from collections.abc import Callable
from typing import Protocol

from packages.models.states import Effect
from registry.auth.identity import UserContext
from registry.core.json import JsonObject
from registry.servers.values import ConnectionSpec, Discovered

Progressing = Callable[[int], None]


class DefaultEffects(Protocol):
    """What follows for callers from the default of a server. Lies above servers."""

    async def default_of(self, owner_id: str) -> Effect:
        """Return what holds for tools of a server that no policy allows. No access check."""

    async def default_consequence(
        self, owner_id: str, former: Effect, user: UserContext
    ) -> str | None:
        """Return in words what followed from another default than *former*, if it is known."""


class Discovery(Protocol):
    """Reads upstreams. Never called inside a transaction."""

    async def discover(
        self, connection: ConnectionSpec, progress: Progressing | None = None
    ) -> Discovered:
        """Connect, read capabilities and all tools, disconnect.

        *progress* is called with the number of tools so far, after each page of them.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached, or sent an invalid response.
        """

    async def oauth_metadata(self, connection: ConnectionSpec) -> JsonObject | None:
        """Return the upstream's RFC 9728 document, or None if it publishes none.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached.
        """

    async def check_url(self, url: str) -> None:
        """Refuse a URL that may not be contacted, without contacting it.

        Raises:
            UnsafeUrlError: Scheme, userinfo or an address behind the name is not allowed.
        """


class Descriptions(Protocol):
    """Descriptions of REST APIs that were given, not fetched."""

    async def description(self, server_id: str) -> bytes | None:
        """Return that of an API; None if there is none, or it cannot be read."""


class ServerChanges(Protocol):
    """Notified of committed changes, so that the gateway follows at once on this replica."""

    async def server_changed(self, server_id: str) -> None:
        """Handle a change or removal of the server, its tools or its grants."""
