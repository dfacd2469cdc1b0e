"""Ports of the data plane: what it needs from others. Synchronous methods answer from memory."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from registry.audit.values import AuditEvent
from registry.auth.identity import UserContext
from registry.auth.jwt import VerifiedToken
from registry.core.origin import UrlOrigin
from registry.gateway.values import Credentials, Route
from registry.gateway.view.catalogue import Catalogue
from registry.oauth.values import AccessToken
from registry.usage.values import Facts, Measurements


class RouteTable(Protocol):
    """The servers that can be called now: active ones only."""

    def route(self, slug: str, tenant_id: str | None = None) -> Route | None:
        """Return the route of `/mcp/<slug>` for callers of a tenant, or None."""

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue of the aggregate server."""

    def probe_eras(self, route: Route) -> None:
        """Queue an era re-probe: the server's answer contradicts its stored era. Cheap."""

    def is_fresh(self) -> bool:
        """Whether the table agrees with the database, or did so recently enough."""

    async def changed(self, seen: int) -> int:
        """Wait until the version of the view is not *seen*, and return it.

        A version ends with each change that may change a decision about a caller or a server.
        """

    async def user_headers(self, user: UserContext, route: Route) -> Credentials:
        """Return the headers with the caller's own credentials; no I/O once cached.

        Raises:
            AuthorizationRequiredError: The caller has not authorised the registry at the server.
            RegistryError: The caller has stored no key for this server, or it is unreadable.
        """

    async def renewed_headers(
        self, user: UserContext, route: Route, rejected: AccessToken
    ) -> Credentials:
        """Do the same with another access token than *rejected*, which the server refused."""


class CallNotes(Protocol):
    """Receives usage records."""

    def note(self, facts: Facts, measurements: Measurements) -> None:
        """Queue a call for writing; never waits, never fails."""


class Refusals(Protocol):
    """Records refusals."""

    def note_later(self, actor: UserContext, event: AuditEvent, origin: UrlOrigin) -> None:
        """Record it soon, without delaying the caller."""


class Authenticate(Protocol):
    """Authenticates callers by their Authorization header."""

    def cached(self, authorization: str) -> UserContext | None:
        """Return the caller if the header was verified before and is still valid."""

    def holds(self, authorization: str) -> bool:
        """Whether a verified token has neither expired nor left the cache. No I/O.

        Does not say whether its user has changed since.
        """

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Return the caller.

        Raises:
            UnauthorizedError: There is no bearer token, or it cannot be accepted.
        """

    async def current(self, token: VerifiedToken) -> UserContext:
        """Return the caller of a token that was verified before, as they are now.

        Its expiry is not looked at.

        Raises:
            UnauthorizedError: They do not exist any more, are disabled, or the token is revoked.
            DatabaseUnavailable: That cannot be known now.
        """


class PeerGone(Exception):  # noqa: N818 - an event, not an error
    """The worker does not exist, or no longer. Nothing was sent to the client yet."""


class Peers(Protocol):
    """The other workers of this port, for requests that only one of them can answer.

    Attributes:
        own: This worker's id: 8 characters of `[a-z0-9]`, new at every start.
    """

    own: str

    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Have *worker* answer this request, and relay its response as it arrives.

        Method, path, query, headers and body are passed on, and the caller is authenticated again
        from them. A response that breaks off is left incomplete, so that the server cuts the
        connection. A request that another worker forwarded is never forwarded again.

        Raises:
            PeerGone: No worker with that id answers.
            ClientGone: The client disconnected.
        """

    async def send(self, worker: str, message: bytes) -> bytes | None:
        """Send a message to one worker and return its reply; None when it is gone."""

    async def broadcast(self, message: bytes) -> list[bytes]:
        """Send a message to all other workers; return the replies of the next two seconds."""

    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Let *handler* reply to the messages of other workers."""
