"""What the data plane asks of others. Everything synchronous here answers from memory."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.types import Receive, Scope, Send

from registry.audit.values import AuditEvent
from registry.auth.identity import UserContext
from registry.core.origin import UrlOrigin
from registry.gateway.values import Route
from registry.gateway.view.catalogue import Catalogue
from registry.usage.values import Facts, Measurements


class RouteTable(Protocol):
    """The servers that can be called now: active ones only."""

    def route(self, slug: str, tenant_id: str | None = None) -> Route | None:
        """Return the route of `/mcp/<slug>` for callers of a tenant, or None."""

    @property
    def catalogue(self) -> Catalogue:
        """What the combined server is made of."""

    def suspect(self, route: Route) -> None:
        """Take note that the server answered in a way that its stored era does not. Cheap."""

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


class CallNotes(Protocol):
    """Takes usage records."""

    def note(self, facts: Facts, measurements: Measurements) -> None:
        """Keep a call until it is written; never waits, never fails."""


class Refusals(Protocol):
    """Takes note of what was refused."""

    def note_later(self, actor: UserContext, event: AuditEvent, origin: UrlOrigin) -> None:
        """Record it soon, without making the caller wait."""


class Authenticate(Protocol):
    """Finds out who an Authorization header stands for."""

    def cached(self, authorization: str) -> UserContext | None:
        """Return the caller if the header was verified before and still holds."""

    def holds(self, authorization: str) -> bool:
        """Whether a token that was verified has neither expired nor been forgotten. No I/O.

        Says nothing of who its user is by now.
        """

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Return the caller.

        Raises:
            UnauthorizedError: There is no bearer token, or it cannot be accepted.
        """


class PeerGone(Exception):  # noqa: N818 - an event, not an error
    """There is no such worker, or no longer. Nothing was sent to the client yet."""


class Peers(Protocol):
    """The other processes that serve the same port, for what only one of them can answer.

    Attributes:
        own: This worker's id: 8 characters of `[a-z0-9]`, new at every start.
    """

    own: str

    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Have *worker* answer this request, and relay its answer as it comes.

        Method, path, query, headers and body are the same there, and the caller is authenticated
        again from them. An answer that breaks off is left incomplete, so that the server cuts the
        connection. A request that another worker forwarded is never forwarded again.

        Raises:
            PeerGone: Nobody answers under that id.
            ClientGone: There is nobody left to answer.
        """

    async def send(self, worker: str, message: bytes) -> bytes | None:
        """Send a message to one worker and return its reply; None when it is gone."""

    async def broadcast(self, message: bytes) -> list[bytes]:
        """Send a message to all others; return the replies that came within two seconds."""

    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Have *handler* reply to the messages of other workers."""
