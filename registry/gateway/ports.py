"""What the data plane asks of others. Everything synchronous here answers from memory."""

from collections.abc import Mapping
from typing import Protocol

from registry.audit.values import AuditEvent
from registry.auth.identity import UserContext
from registry.core.origin import Origin
from registry.gateway.values import Route


class RouteTable(Protocol):
    """The servers that can be called now: active ones only."""

    def route(self, slug: str) -> Route | None:
        """Return the route of `/mcp/<slug>`, or None."""

    def is_fresh(self) -> bool:
        """Whether the table agrees with the database, or did so a moment ago."""

    async def changed(self, seen: int) -> int:
        """Wait until there is another version of the view than *seen*, and return it.

        A version ends with each change that may decide otherwise about a caller or a server.
        """

    async def user_headers(self, user: UserContext, route: Route) -> Mapping[str, str]:
        """Return the headers with the caller's own credentials; no I/O once remembered.

        Raises:
            RegistryError: The caller has stored no key for this server, or it is unreadable.
        """


class Refusals(Protocol):
    """Takes note of what was refused."""

    def note_later(self, actor: UserContext, event: AuditEvent, origin: Origin) -> None:
        """Record it soon, without making the caller wait."""


class Authenticate(Protocol):
    """Finds out who an Authorization header stands for."""

    def cached(self, authorization: str) -> UserContext | None:
        """Return the caller if the header was verified before and still holds."""

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Return the caller.

        Raises:
            UnauthorizedError: There is no bearer token, or it cannot be accepted.
        """
