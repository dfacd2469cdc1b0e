"""Users' access tokens for servers in memory.

The gateway asks here for each call. What was read is kept until a change event of the collection
`tokens` says otherwise, so a warm call reads nothing; tokens are renewed ahead of their expiry.
Below are the stored tokens and their renewal. Tokens that can be obtained at any time without
their user are in memory alone.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from typing import TypeAlias

import structlog

from packages.database.errors import DatabaseUnavailable
from packages.models.states import FlowStatus
from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.oauth.authorization_servers import (
    AuthorizationServers,
    asked_scopes,
    oauth_of,
    place_of,
)
from registry.oauth.errors import (
    AGAIN_SECONDS,
    AuthorizationRequiredError,
    AuthorizationUnavailableError,
    TokenRefusedError,
)
from registry.oauth.policy import grant_of
from registry.oauth.ports import AuthorizationLinks
from registry.oauth.renewal import (
    EXCHANGE_SECONDS,
    NO_ANSWER,
    PASSING,
    Renewal,
    UsableToken,
)
from registry.oauth.repository import OAuthFlowRepository
from registry.oauth.stored_tokens import (
    ASSUMED_LIFETIME,
    MARGIN,
    MAX_MARGIN,
    OAuthTokenRepository,
)
from registry.oauth.values import (
    AccessToken,
    AuthorizationState,
    Grant,
    OAuthServer,
    RemovedTokens,
    TokenProblem,
)
from registry.tokens.values import TokenRow
from registry.upstream.oauth.errors import OAuthError
from registry.upstream.oauth.token_endpoint import Sign, TokenEndpoint
from registry.upstream.oauth.values import TokenRequest, Tokens

log = structlog.get_logger()

MAX_ENTRIES = 20_000
"""Users and servers whose tokens are kept, about 2.5 kB each; the least recently used are dropped
first."""

NO_TIME = timedelta(0)
AHEAD, MAX_AHEAD = 0.2, timedelta(minutes=5)
"""Part of its lifetime, and longest time, that a token is renewed ahead of its expiry."""

AHEAD_AGAIN_SECONDS = 30.0
"""Pause after a renewal ahead of the expiry failed."""

JUST_RENEWED_SECONDS = 10.0
"""A new token that is refused within this time is not renewed: the next would be refused too."""

FLOW_SECONDS = 0.5
"""Pause between two looks at a flow that a call waits for."""

FLOW_RESULTS = {
    FlowStatus.COMPLETED: True,
    FlowStatus.FAILED: False,
    FlowStatus.CANCELLED: False,
}
"""Whether a flow that has ended brought a token."""

NEW_REFUSED = "The server refuses those that the authorization server issues."

ASSERTION_SECONDS = 120
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"

Key: TypeAlias = tuple[str, str]
"""A user and a server, by id."""

EVERYONE = ""
"""In place of a user's id where a token is for all users."""


@dataclass(slots=True)
class _Entry:
    """What is known of a user's authorization at a server.

    Attributes:
        token: The last one, usable or not: it stays the same object while it is the same token.
        usable_until: Monotonic seconds; in the past if the token must not be used.
        renew_from: When it is renewed in the background.
        is_outdated: Whether what is stored has changed. Only who asked before is answered from it:
            they would be told to authorise again because somebody renewed the token.
        fails_until: Until when calls fail without another attempt.
        failure: Why there is no token, if only the authorization server can help.
        failed_at: When it was found, UTC.
        obtained_at: When the token was obtained, if this process did; else in the past.
        was_used: Whether it was used since it was last spared or stored.
    """

    user: UserContext
    server: OAuthServer
    token: AccessToken | None = None
    usable_until: float = -inf
    renew_from: float = inf
    is_outdated: bool = False
    fails_until: float = -inf
    failure: AuthorizationUnavailableError | None = None
    failed_at: datetime | None = None
    obtained_at: float = -inf
    was_used: bool = False
    row_ids: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Flight:
    """An attempt to find or to obtain a token, shared by all that wait for it."""

    task: asyncio.Task[_Entry]
    server: OAuthServer
    is_outdated: bool = field(default=False)


class UpstreamTokens:
    """Users' access tokens. Implements `CachedTokens`, `TokenStore` and `AuthorizationStates`.

    Args:
        sign: Signs assertions about callers for token exchange; None if the registry has no key.
        issuer: The `iss` of these assertions.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        stored: OAuthTokenRepository,
        flows: OAuthFlowRepository,
        renewal: Renewal,
        authorization_servers: AuthorizationServers,
        endpoint: TokenEndpoint,
        links: AuthorizationLinks,
        background: BackgroundTasks,
        *,
        clock: Clock,
        sign: Sign | None,
        issuer: str,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._stored = stored
        self._flows = flows
        self._renewal = renewal
        self._authorization_servers = authorization_servers
        self._endpoint = endpoint
        self._links = links
        self._background = background
        self._clock = clock
        self._monotonic = clock.monotonic
        self._sign = sign
        self._issuer = issuer
        self._max_entries = max_entries
        self._entries: dict[Key, _Entry] = {}
        self._server_ids: dict[str, set[str]] = {}
        self._flights: dict[Key, _Flight] = {}
        self._arrivals: dict[Key, set[asyncio.Event]] = {}

    def cached(self, user_id: str, server_id: str) -> AccessToken | None:
        """Return a usable token from memory, if there is one. No I/O.

        One that is due for renewal is renewed in the background.
        """
        entry = self._entries.get((user_id, server_id))
        if entry is None:
            entry = self._entries.get((EVERYONE, server_id))
            if entry is None:
                return None
        now = self._monotonic()
        if entry.is_outdated or now >= entry.usable_until:
            return None
        entry.was_used = True
        if now >= entry.renew_from:
            self._renew_ahead(_key(entry.user, entry.server), entry)
        return entry.token

    async def get(self, user: UserContext, server: OAuthServer) -> AccessToken:
        """Return a usable token; read, renew or obtain it if necessary.

        Raises:
            AuthorizationRequiredError: Only the user can help.
            AuthorizationUnavailableError: It cannot be renewed now.
            DatabaseUnavailable: It cannot be read.
        """
        key = _key(user, server)
        entry = self._entries.get(key)
        if entry is None or self._must_look(entry, server):
            entry = await self._shared(key, user, server, None, was_refused=False)
        elif self._monotonic() >= entry.renew_from:
            self._renew_ahead(key, entry)
        return self._usable(entry, user, server)

    async def renewed(
        self, user: UserContext, server: OAuthServer, rejected: AccessToken
    ) -> AccessToken:
        """Return another token than *rejected*, which the server answered with 401.

        Raises:
            AuthorizationRequiredError: There is none: only the user can help.
            AuthorizationUnavailableError: It cannot be renewed now.
            DatabaseUnavailable: It cannot be read.
        """
        key = _key(user, server)
        while True:
            entry = self._entries.get(key)
            flight = self._flights.get(key)
            if flight is not None:
                entry = await asyncio.shield(flight.task)
                if entry.token is None or entry.token.value != rejected.value:
                    return self._usable(entry, user, server)
                continue
            if (
                entry is not None
                and not entry.is_outdated
                and server.takes_tokens_of(entry.server)
            ):
                token = entry.token
                if token is None or token.value != rejected.value:
                    return await self.get(user, server)
                if self._monotonic() < entry.obtained_at + JUST_RENEWED_SECONDS:
                    raise self._required(user, server)
            entry = await self._shared(key, user, server, rejected.value, was_refused=True)
            return self._usable(entry, user, server)

    async def arrived(self, user_id: str, server_id: str, flow_id: str, seconds: float) -> bool:
        """Wait until a user has a usable token for a server; return whether they have."""
        key = (user_id, server_id)
        until = self._monotonic() + seconds
        event = asyncio.Event()
        self._arrivals.setdefault(key, set()).add(event)
        try:
            while True:
                has_arrived = await self._has_arrived(key, flow_id)
                rest = until - self._monotonic()
                if has_arrived is not None or rest <= 0:
                    return has_arrived is True
                await self._pause(event, min(rest, FLOW_SECONDS))
        finally:
            waiting = self._arrivals[key]
            waiting.discard(event)
            if not waiting:
                del self._arrivals[key]

    async def _has_arrived(self, key: Key, flow_id: str) -> bool | None:
        """Whether a user has a usable token; None if that is still open."""
        entry = self._entries.get(key)
        if self.cached(*key) is not None:
            return True
        try:
            flow = await self._flows.find(flow_id)
            if flow is not None:
                result = FLOW_RESULTS.get(flow.status_at(self._clock.now()))
                if result:
                    # The change event of what another replica stored may still be on its way.
                    self._outdate(key)
                return result
            if entry is not None and entry.is_outdated:
                # Perhaps by another flow.
                await self.get(entry.user, entry.server)
                return True
        except (DatabaseUnavailable, AuthorizationRequiredError, AuthorizationUnavailableError):
            pass
        return None

    async def store(
        self,
        user: UserContext,
        server: OAuthServer,
        request: TokenRequest,
        tokens: Tokens,
        flow_id: str,
    ) -> Sequence[TokenRow]:
        """Store what a flow obtained, in place of what there is, and complete the flow.

        Returns:
            What was replaced although it did not fit: the server has moved since it was obtained.

        Raises:
            FlowEndedError: The flow was ended meanwhile; nothing was stored.
            DatabaseUnavailable: Nothing was stored.
        """
        replaced = await self._stored.store(user, server, request, tokens, flow_id)
        self._outdate((user.user_id, server.id))
        return replaced

    async def granted(self, user: UserContext, server: OAuthServer) -> tuple[str, ...]:
        """Return the scopes of the stored access token, as far as they are known."""
        access = (await self._stored.read(user.user_id, server)).access
        return tuple(sorted((access.scopes if access is not None else None) or ()))

    async def remove(self, user: UserContext, server: OAuthServer) -> RemovedTokens | None:
        """Remove a user's tokens for a server; return what they were, None if there were none.

        Raises:
            DatabaseUnavailable: Nothing was removed.
        """
        removed = await self._stored.remove(user.user_id, server)
        self._drop((user.user_id, server.id))
        self._outdate((user.user_id, server.id))
        access, refresh = removed.access, removed.refresh
        if access is None and refresh is None:
            return None
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                request = await self._renewal.request_of(server, removed)
        except (RegistryError, TimeoutError):
            request = None
        return RemovedTokens(
            request,
            None if access is None else access.value,
            None if refresh is None else refresh.value,
        )

    async def states(
        self, user: UserContext, servers: Collection[OAuthServer]
    ) -> Mapping[str, AuthorizationState]:
        """Return the states of a user's authorizations, by server id.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        of_user = [one for one in servers if grant_of(one.config) is Grant.AUTHORIZATION_CODE]
        others = {one.id for one in servers} - {one.id for one in of_user}
        states = {server_id: AuthorizationState(is_authorized=True) for server_id in others}
        if not of_user:
            return states
        now = self._clock.now()
        found = await self._stored.read_all(user.user_id, of_user)
        flows = await self._flows.latest_of(user.user_id, [one.id for one in of_user], now)
        for server in of_user:
            stored, flow = found[server.id], flows.get(server.id)
            status = None if flow is None else flow.status_at(now)
            is_authorized = stored.usable(now) is not None or stored.renewable is not None
            tokens = [one for one in (stored.access, stored.refresh) if one is not None]
            states[server.id] = AuthorizationState(
                is_authorized=is_authorized,
                needs_reauth=not is_authorized and any(one.needs_reauth for one in tokens),
                is_renewing=stored.refresh is not None and stored.refresh.lease_holder is not None,
                has_failed=status is FlowStatus.FAILED,
                is_under_way=status in {FlowStatus.PENDING, FlowStatus.EXCHANGING},
                identity=None if stored.renewable is None else stored.renewable.identity,
            )
        return states

    def problem(self, user_id: str, server_id: str) -> TokenProblem | None:
        """Return why this process could obtain no access token the last time. No I/O.

        Also after a change of what is stored, which may be of another server's tokens, or older
        than the problem: callers compare it with the state of what is stored now.
        """
        entry = self._entries.get((user_id, server_id), self._entries.get((EVERYONE, server_id)))
        if entry is None or entry.failure is None or entry.failed_at is None:
            return None
        return TokenProblem(
            entry.failure.message,
            entry.failed_at,
            entry.server.updated_at,
            entry.failure.authorization,
        )

    def changed(self, user_ids: Collection[str], row_ids: Collection[str]) -> None:
        """Note that stored tokens have changed: they are read again when they are needed.

        Args:
            user_ids: Whose tokens were written.
            row_ids: Those that were deleted.
        """
        users, rows = frozenset(user_ids), frozenset(row_ids)
        for user_id in users:
            for server_id in self._server_ids.get(user_id, ()):
                self._entries[user_id, server_id].is_outdated = True
        for entry in self._entries.values() if rows else ():
            if not entry.row_ids.isdisjoint(rows):
                entry.is_outdated = True
        for key, flight in self._flights.items():
            if key[0] in users or rows:
                flight.is_outdated = True
        for key, events in self._arrivals.items():
            for event in events if key[0] in users else ():
                event.set()

    def clear(self) -> None:
        """Note that any stored token may have changed."""
        for entry in self._entries.values():
            entry.is_outdated = True
        for flight in self._flights.values():
            flight.is_outdated = True

    def forget(self, server_ids: Collection[str]) -> None:
        """Note that servers have changed: their tokens may be for another place now."""
        gone = frozenset(server_ids)
        # Why there is none stays known: it is looked at again if what it depends on has changed.
        dropped = [key for key, entry in self._entries.items() if entry.failure is None]
        for key in [key for key in dropped if key[1] in gone]:
            self._drop(key)
        for key, flight in self._flights.items():
            if key[1] in gone:
                flight.is_outdated = True

    def _must_look(self, entry: _Entry, server: OAuthServer) -> bool:
        """Whether what is known of an authorization does not suffice to answer."""
        if entry.is_outdated or not server.takes_tokens_of(entry.server):
            return True
        now = self._monotonic()
        if entry.token is not None:
            return now >= entry.usable_until
        return entry.fails_until != -inf and now >= entry.fails_until

    def _usable(self, entry: _Entry, user: UserContext, server: OAuthServer) -> AccessToken:
        if entry.token is not None and self._monotonic() < entry.usable_until:
            return entry.token
        failure = entry.failure
        if failure is not None:
            raise failure.again()
        raise self._required(user, server)

    def _required(self, user: UserContext, server: OAuthServer) -> RegistryError:
        if grant_of(server.config) is not Grant.AUTHORIZATION_CODE:
            return TokenRefusedError(server.title, NEW_REFUSED, is_renewal=False)
        return AuthorizationRequiredError(server.title, self._links.link(user, server))

    async def _shared(
        self,
        key: Key,
        user: UserContext,
        server: OAuthServer,
        former: str | None,
        *,
        was_refused: bool,
    ) -> _Entry:
        """Obtain a token, together with all that ask meanwhile; it goes on if they give up."""
        while True:
            flight = self._flights.get(key)
            if flight is None or not server.takes_tokens_of(flight.server):
                flight = self._start(key, user, server, former, was_refused=was_refused)
            # What it read may be from before a change that this caller knows of.
            is_behind = flight.is_outdated
            entry = await asyncio.shield(flight.task)
            if not is_behind:
                return entry

    def _start(
        self,
        key: Key,
        user: UserContext,
        server: OAuthServer,
        former: str | None,
        *,
        was_refused: bool,
    ) -> _Flight:
        async def run() -> _Entry:
            try:
                entry = await self._obtain(user, server, former, was_refused=was_refused)
                return self._remember(key, entry, flight)
            finally:
                if self._flights.get(key) is flight:
                    del self._flights[key]

        flight = _Flight(self._background.start(run()), server)
        self._flights[key] = flight
        return flight

    async def _obtain(
        self, user: UserContext, server: OAuthServer, former: str | None, *, was_refused: bool
    ) -> _Entry:
        grant = grant_of(server.config)
        entry = _Entry(user, server)
        try:
            if grant is Grant.CLIENT_CREDENTIALS:
                found: UsableToken | None = await self._requested(user, server, self._own)
            elif grant is Grant.TOKEN_EXCHANGE:
                found = await self._requested(user, server, self._exchanged)
            else:
                found = await self._renewal.usable(user, server, former, was_refused=was_refused)
        except AuthorizationUnavailableError as exc:
            entry.fails_until = self._monotonic() + AGAIN_SECONDS
            entry.failure, entry.failed_at = exc.again(), self._clock.now()
            return entry
        if found is not None:
            self._use(entry, found, is_new=former is not None)
        return entry

    def _use(self, entry: _Entry, found: UsableToken, *, is_new: bool) -> None:
        monotonic, now = self._monotonic(), self._clock.now()
        margin = min(found.lifetime * MARGIN, MAX_MARGIN) if found.is_renewable else NO_TIME
        usable = max((found.expires_in - margin).total_seconds(), 0.0)
        # By its lifetime, which may be assumed: its expiry may be a year on.
        rest = found.lifetime - found.age - min(found.lifetime * AHEAD, MAX_AHEAD)
        ahead = min(max(rest.total_seconds(), 0.0), usable)
        entry.row_ids = found.row_ids
        entry.usable_until = monotonic + usable
        entry.renew_from = monotonic + ahead if found.is_renewable else inf
        if is_new:
            entry.obtained_at = monotonic
        entry.token = AccessToken(
            found.value,
            found.token_id,
            now + timedelta(seconds=usable),
            now + timedelta(seconds=ahead if found.is_renewable else usable),
            found.scopes,
        )

    def _remember(self, key: Key, entry: _Entry, flight: _Flight) -> _Entry:
        """Keep what was found, unless it was changed meanwhile: then it serves who waits alone."""
        before = self._entries.get(key)
        if before is not None and _is_same_token(before.token, entry.token):
            # What was made of it stays valid.
            entry.token = before.token
        if before is not None and entry.failure is not None:
            # So that it is looked at again when they are deleted.
            entry.row_ids = before.row_ids
        if self._flights.get(key) is not flight:
            return entry
        if flight.is_outdated:
            entry.is_outdated = True
        kept = entry
        if entry.is_outdated:
            kept = _Entry(
                entry.user,
                entry.server,
                entry.token,
                is_outdated=True,
                failure=entry.failure,
                failed_at=entry.failed_at,
            )
        self._put(key, kept)
        return entry

    def _put(self, key: Key, entry: _Entry) -> None:
        """Keep an entry; with too many, drop one that was not used for longest."""
        self._drop(key)
        while len(self._entries) >= self._max_entries:
            oldest, spared = next(iter(self._entries.items()))
            self._drop(oldest)
            if spared.was_used:
                spared.was_used = False
                self._entries[oldest] = spared
                self._server_ids.setdefault(oldest[0], set()).add(oldest[1])
        self._entries[key] = entry
        self._server_ids.setdefault(key[0], set()).add(key[1])

    def _drop(self, key: Key) -> None:
        if self._entries.pop(key, None) is None:
            return
        server_ids = self._server_ids[key[0]]
        server_ids.discard(key[1])
        if not server_ids:
            del self._server_ids[key[0]]

    def _renew_ahead(self, key: Key, entry: _Entry) -> None:
        """Renew a token in the background; it is used until then, and if that fails."""
        entry.renew_from = inf
        if key in self._flights or entry.token is None:
            return
        token = entry.token

        async def renew() -> None:
            try:
                found = await self._obtain(
                    entry.user, entry.server, token.value, was_refused=False
                )
            except DatabaseUnavailable:
                found = None
            if found is not None and found.token is not None:
                found.obtained_at = self._monotonic()
                # Other tokens may have been stored meanwhile, or these removed.
                found.is_outdated = entry.is_outdated
                if self._entries.get(key) is entry:
                    self._entries[key] = found
            elif found is None or found.fails_until > self._monotonic():
                entry.renew_from = self._monotonic() + AHEAD_AGAIN_SECONDS

        self._background.soon(renew())

    async def _requested(
        self,
        user: UserContext,
        server: OAuthServer,
        ask: Callable[[UserContext, TokenRequest], Awaitable[Tokens]],
    ) -> UsableToken:
        """Obtain a token that can be obtained at any time.

        Raises:
            TokenRefusedError: It was refused.
            AuthorizationUnavailableError: It failed for now.
        """
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                found = await self._authorization_servers.discover(server)
                scopes = asked_scopes(found, oauth_of(server.config), ())
                client = await self._authorization_servers.client(server, found, scopes)
                request = TokenRequest(found.server, client, found.resource.resource, scopes)
                tokens = await ask(user, request)
        except (RegistryError, TimeoutError) as exc:
            reason = exc.message if isinstance(exc, RegistryError) else NO_ANSWER
            log.warning("oauth_token_not_obtained", server_id=server.id, reason=reason)
            is_passing = isinstance(exc, PASSING)
            failure = AuthorizationUnavailableError if is_passing else TokenRefusedError
            raise failure(server.title, reason, is_renewal=False) from exc
        seconds = tokens.expires_in
        lifetime = ASSUMED_LIFETIME if seconds is None else timedelta(seconds=seconds)
        granted = tokens.scopes if tokens.scopes is not None else scopes
        return UsableToken(
            tokens.access_token,
            None,
            lifetime,
            lifetime,
            scopes=None if granted is None else frozenset(granted),
            is_renewable=True,
        )

    async def _own(self, user: UserContext, request: TokenRequest) -> Tokens:
        del user
        return await self._endpoint.client_credentials(request)

    async def _exchanged(self, user: UserContext, request: TokenRequest) -> Tokens:
        """Exchange an assertion about a user. Their own token leaves the registry nowhere."""
        if self._sign is None:
            raise OAuthError("The registry has no key to sign assertions with.")
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": self._issuer,
            "sub": user.user_id,
            "aud": place_of(request.server),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": uuid.uuid4().hex,
            "preferred_username": user.username,
        }
        return await self._endpoint.exchange(
            request, subject_token=self._sign(claims), subject_token_type=JWT_TYPE
        )

    def _outdate(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.is_outdated = True
        flight = self._flights.get(key)
        if flight is not None:
            flight.is_outdated = True
        for event in self._arrivals.get(key, ()):
            event.set()

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for an event, but not longer than *seconds*."""
        waits = [
            asyncio.ensure_future(event.wait()),
            asyncio.ensure_future(self._clock.sleep(seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        event.clear()


def _key(user: UserContext, server: OAuthServer) -> Key:
    if grant_of(server.config) is Grant.CLIENT_CREDENTIALS:
        return EVERYONE, server.id
    return user.user_id, server.id


def _is_same_token(one: AccessToken | None, other: AccessToken | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one.value, one.token_id, one.scopes) == (other.value, other.token_id, other.scopes)
    )
