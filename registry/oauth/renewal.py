"""Renewal of users' access tokens: once for all calls, processes and programs.

Refresh tokens of many authorization servers can be used once. Whoever renews takes a lease on the
row of the refresh token, asks the authorization server, and stores what it answers if the row is
still the one that was read. The others wait for the row to change and use what they find.

A lease has no time, because clocks of replicas differ. It is taken from a holder that has had it
for longer than a renewal can take, by the clock of whoever takes it.
"""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog
from cachetools import TTLCache

from packages.database.errors import DatabaseUnavailable
from packages.models.states import AuditOutcome
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.json import members
from registry.core.metrics import Metrics
from registry.oauth.authorization_servers import AuthorizationServers, oauth_of
from registry.oauth.errors import AuthorizationUnavailableError, TokenRefusedError
from registry.oauth.stored_tokens import (
    ASSUMED_LIFETIME,
    YEAR,
    AuthorizationToken,
    OAuthTokenRepository,
    StoredAuthorization,
)
from registry.oauth.values import OAuthServer
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    InvalidClientError,
    OAuthError,
    OAuthMetadataError,
)
from registry.upstream.oauth.metadata import Discovered, configured_server
from registry.upstream.oauth.token_endpoint import TokenEndpoint
from registry.upstream.oauth.values import (
    ProtectedResource,
    TokenRequest,
    Tokens,
)

log = structlog.get_logger()

EXCHANGE_SECONDS = 15.0
"""Longest time for a request at a token endpoint."""

LEASE_SECONDS = 20.0
"""How long a lease is left to a holder that does not renew: longer than a renewal takes."""

WAIT_SECONDS = 30.0
"""How long a call waits for another process to renew: longer than one that crashed is awaited."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.02, 0.2
"""Pauses between two looks at a row that another process renews. The feed of changes is slower: it
batches."""

STORE_AGAIN_SECONDS = 0.5
"""Pause between two attempts to store tokens while the database is unavailable."""

MAX_LEASES = 1_000

NO_ANSWER = "The authorization server did not answer in time."
RENEWED_ELSEWHERE = "Another process is renewing it."

PASSING = (AuthorizationServerUnavailableError, OAuthMetadataError, TimeoutError)
"""Failures that say nothing of the tokens or the grant: it may work later."""


@dataclass(frozen=True, slots=True)
class UsableToken:
    """An access token that can be used from now on.

    Attributes:
        token_id: `_id` of its row; None if it is not stored.
        expires_in: From now.
        lifetime: From its issue; assumed where none is known.
        age: Since its issue.
        row_ids: Of all rows of that authorization.
        is_renewable: Whether another one can be obtained without its user.
    """

    value: str = field(repr=False)
    token_id: str | None
    expires_in: timedelta
    lifetime: timedelta
    age: timedelta = timedelta(0)
    scopes: frozenset[str] | None = None
    row_ids: frozenset[str] = frozenset()
    is_renewable: bool = False


@dataclass(slots=True)
class _Unsaved:
    """Tokens that were obtained and are not stored yet.

    Attributes:
        used: The refresh token that was exchanged for them.
        obtained_at: Monotonic seconds.
    """

    user: UserContext
    server: OAuthServer
    used: AuthorizationToken
    former: StoredAuthorization
    request: TokenRequest
    tokens: Tokens
    obtained_at: float


class Renewal:
    """Finds or renews users' access tokens.

    Callers ask once at a time for each user and server. The work goes on when they are cancelled
    only if they run it as a task of its own.
    """

    def __init__(
        self,
        stored: OAuthTokenRepository,
        endpoint: TokenEndpoint,
        authorization_servers: AuthorizationServers,
        background: BackgroundTasks,
        audit: AuditTrail,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._stored = stored
        self._endpoint = endpoint
        self._authorization_servers = authorization_servers
        self._background = background
        self._audit = audit
        self._clock = clock
        self._counted = metrics.oauth_refreshes
        self._unsaved: dict[tuple[str, str], _Unsaved] = {}
        self._observed: TTLCache[tuple[str, str], float] = TTLCache(
            MAX_LEASES, 10 * LEASE_SECONDS, timer=clock.monotonic
        )

    async def usable(
        self,
        user: UserContext,
        server: OAuthServer,
        former: str | None = None,
        *,
        was_refused: bool = False,
    ) -> UsableToken | None:
        """Return an access token; renew the stored one if necessary.

        Args:
            user: Whose.
            server: For which server.
            former: One that must not be returned.
            was_refused: Whether the server refused it; otherwise it is about to expire.

        Returns:
            None if only the user can help.

        Raises:
            AuthorizationUnavailableError: It cannot be renewed now.
            DatabaseUnavailable: What is stored cannot be read.
        """
        try:
            found = await self._usable(user, server, former)
            if found is None and was_refused:
                await self._note_refused(user, server, former)
        except DatabaseUnavailable:
            # A holder that cannot reach the database either must not lose its lease for that.
            self._observed.clear()
            raise
        return found

    async def _usable(
        self, user: UserContext, server: OAuthServer, former: str | None
    ) -> UsableToken | None:
        deadline = self._clock.monotonic() + WAIT_SECONDS
        pause = FIRST_PAUSE_SECONDS
        found = await self._stored.read(user.user_id, server)
        first = None if found.access is None else found.access.value
        while True:
            access = found.usable(self._clock.now(), former)
            if access is not None:
                return self._stored_token(found, access)
            access = found.access
            if access is not None and access.value not in {first, former}:
                # Just renewed: by this process's clock it may have expired before.
                return self._stored_token(found, access, is_new=True)
            token = found.renewable
            if token is None:
                return None
            unsaved = self._of_memory(user, server, token, former)
            if unsaved is not None:
                return unsaved
            if await self._may_renew(token):
                holder = uuid.uuid4().hex
                if await self._stored.take_lease(token, holder, token.lease_holder):
                    renewed = await self._renew(user, server, found, token, holder)
                    if renewed is not None:
                        return renewed
                    await self._stored.release_lease(token, holder)
            elif self._clock.monotonic() > deadline:
                raise AuthorizationUnavailableError(
                    server.title, RENEWED_ELSEWHERE, authorization=token.identity
                )
            else:
                await self._clock.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            found = await self._stored.read(user.user_id, server)

    async def _may_renew(self, token: AuthorizationToken) -> bool:
        """Whether nobody renews a token, or its lease was abandoned."""
        holder = token.lease_holder
        if holder is None:
            return True
        now = self._clock.monotonic()
        since = self._observed.setdefault((token.token_id, holder), now)
        return now - since >= LEASE_SECONDS

    async def _renew(
        self,
        user: UserContext,
        server: OAuthServer,
        found: StoredAuthorization,
        token: AuthorizationToken,
        holder: str,
    ) -> UsableToken | None:
        """Exchange a refresh token; None if the stored tokens have to be looked at again."""
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                request = await self.request_of(server, found)
                tokens = await self._endpoint.refresh(request, token.value)
        except InvalidClientError as exc:
            await self._client_refused(user, server, found, token, holder, exc)
            return None
        except PASSING as exc:
            raise await self._unavailable(server, token, holder, exc) from exc
        except OAuthError as exc:
            await self._refused(user, server, token, exc.code or "refused")
            return None
        except RegistryError as exc:
            # A URL that may not be contacted, or a configured secret that cannot be decrypted.
            raise await self._unavailable(server, token, holder, exc) from exc
        unsaved = _Unsaved(user, server, token, found, request, tokens, self._clock.monotonic())
        # From here on the refresh token may be used up: this is the only copy of the new one.
        self._unsaved[user.user_id, server.id] = unsaved
        self._counted.labels("renewed").inc()
        is_ours = asyncio.get_running_loop().create_future()
        self._background.soon(self._keep(unsaved, is_ours))
        return self._unsaved_token(unsaved) if await is_ours else None

    async def request_of(self, server: OAuthServer, found: StoredAuthorization) -> TokenRequest:
        """Return what requests about stored tokens contain.

        Raises:
            OAuthError: There is no authorization server or client that can be used, or not now.
            RegistryError: The configured secret cannot be decrypted, or a URL is not allowed.
        """
        oauth = oauth_of(server.config)
        authorization_server = configured_server(oauth) or found.authorization_server
        if authorization_server is None:
            authorization_server = (await self._authorization_servers.discover(server)).server
        client = found.client
        if client is None or oauth.get("client_id"):
            discovered = Discovered(ProtectedResource(None), authorization_server)
            client = await self._authorization_servers.client(server, discovered, None)
        return TokenRequest(authorization_server, client, _resource(server, found))

    async def _keep(self, unsaved: _Unsaved, is_ours: asyncio.Future[bool]) -> None:
        """Store tokens, as soon as the database takes them.

        Args:
            unsaved: The tokens.
            is_ours: Told whether they may be used. That is before they are stored: once nobody
                else can replace or remove those before, or the database is unavailable.
        """
        key = unsaved.user.user_id, unsaved.server.id
        is_late = False
        try:
            while self._unsaved.get(key) is unsaved:
                try:
                    is_stored = await self._store(unsaved, partial(_tell, is_ours))
                except (DatabaseUnavailable, RegistryError) as exc:
                    _tell(is_ours)
                    if not is_late:
                        reason = type(exc).__name__
                        log.warning("oauth_tokens_not_stored", server_id=key[1], error=reason)
                    is_late = True
                    await self._clock.sleep(STORE_AGAIN_SECONDS)
                    continue
                _tell(is_ours, outcome=is_stored)
                if is_stored:
                    event = AuditEvent(AuditAction.REFRESH, EntityType.AUTHORIZATION, key[1])
                    await self._audit.note(unsaved.user, event)
        finally:
            _tell(is_ours)
        if is_late:
            log.info("oauth_tokens_stored_late", server_id=key[1])

    async def _store(self, unsaved: _Unsaved, claimed: Callable[[], None]) -> bool:
        """Store tokens; return False if others were stored or removed meanwhile.

        Raises:
            DatabaseUnavailable: Nothing was stored.
        """
        user, server = unsaved.user, unsaved.server
        access = unsaved.former.access
        scopes = None if access is None else access.scopes
        while True:
            if await self._stored.renew(
                *(user, server, unsaved.used, scopes, unsaved.request, unsaved.tokens),
                claimed=claimed,
            ):
                break
            again = (await self._stored.read(user.user_id, server)).refresh
            if again is None or again.value != unsaved.used.value:
                self._forget(unsaved)
                return False
            # The same token, encrypted again with another key or noted with other facts.
            unsaved.used = again
        self._forget(unsaved)
        return True

    def _forget(self, unsaved: _Unsaved) -> None:
        key = unsaved.user.user_id, unsaved.server.id
        if self._unsaved.get(key) is unsaved:
            del self._unsaved[key]

    def _of_memory(
        self, user: UserContext, server: OAuthServer, token: AuthorizationToken, former: str | None
    ) -> UsableToken | None:
        """Return what *token* was exchanged for in this process, if that is not stored yet."""
        unsaved = self._unsaved.get((user.user_id, server.id))
        if unsaved is None or unsaved.used.value != token.value:
            return None
        found = self._unsaved_token(unsaved)
        return None if found.value == former or found.expires_in <= timedelta(0) else found

    async def _client_refused(
        self,
        user: UserContext,
        server: OAuthServer,
        found: StoredAuthorization,
        token: AuthorizationToken,
        holder: str,
        error: InvalidClientError,
    ) -> None:
        if oauth_of(server.config).get("client_id"):
            # Whoever configured the client has to correct it; the tokens stay valid.
            raise await self._unavailable(server, token, holder, error) from error
        client, authorization_server = found.client, found.authorization_server
        if client is not None and authorization_server is not None:
            await self._authorization_servers.forget(
                server, authorization_server, client.client_id
            )
        await self._refused(user, server, token, error.code or "invalid_client")

    async def _refused(
        self, user: UserContext, server: OAuthServer, token: AuthorizationToken, reason: str
    ) -> None:
        """Note that only the user can help, unless the token was replaced meanwhile."""
        again = (await self._stored.read(user.user_id, server)).refresh
        if again is None or again.value != token.value:
            return
        if not await self._stored.mark(again, reason):
            return
        self._counted.labels("refused").inc()
        event = AuditEvent(
            AuditAction.REFRESH,
            EntityType.AUTHORIZATION,
            server.id,
            {"needs_reauth": True},
            outcome=AuditOutcome.FAILED,
            reason=reason,
        )
        self._background.soon(self._audit.note(user, event))

    async def _note_refused(
        self, user: UserContext, server: OAuthServer, former: str | None
    ) -> None:
        """Note that the server refused a token that cannot be renewed."""
        access = (await self._stored.read(user.user_id, server)).access
        if access is not None and access.value == former and not access.needs_reauth:
            await self._stored.mark(access, "invalid_token")

    async def _unavailable(
        self, server: OAuthServer, token: AuthorizationToken, holder: str, error: Exception
    ) -> AuthorizationUnavailableError:
        self._counted.labels("unavailable").inc()
        is_passing = isinstance(error, PASSING)
        reason = error.message if isinstance(error, RegistryError) else NO_ANSWER
        log.warning("oauth_refresh_failed", server_id=server.id, reason=reason)
        await self._stored.release_lease(token, holder)
        failure = AuthorizationUnavailableError if is_passing else TokenRefusedError
        return failure(server.title, reason, authorization=token.identity)

    def _stored_token(
        self, found: StoredAuthorization, access: AuthorizationToken, *, is_new: bool = False
    ) -> UsableToken:
        now = self._clock.now()
        issued_at = now if is_new else min(access.created_at, now)
        expires_at = access.expires_at
        if is_new:
            expires_at = max(expires_at, now + (expires_at - access.created_at))
        return UsableToken(
            access.value,
            access.token_id,
            expires_at - now,
            access.lifetime,
            now - issued_at,
            access.scopes,
            found.row_ids,
            is_renewable=found.renewable is not None,
        )

    def _unsaved_token(self, unsaved: _Unsaved) -> UsableToken:
        tokens, former = unsaved.tokens, unsaved.former
        seconds = tokens.expires_in
        lifetime = ASSUMED_LIFETIME if seconds is None else timedelta(seconds=seconds)
        age = timedelta(seconds=self._clock.monotonic() - unsaved.obtained_at)
        known = None if former.access is None else former.access.scopes
        return UsableToken(
            tokens.access_token,
            None if former.access is None else former.access.token_id,
            (YEAR if seconds is None else lifetime) - age,
            lifetime,
            age,
            known if tokens.scopes is None else frozenset(tokens.scopes),
            former.row_ids,
            is_renewable=True,
        )


def _resource(server: OAuthServer, found: StoredAuthorization) -> str | None:
    token = found.refresh or found.access
    stored = None if token is None else token.facts.get("resource")
    if stored is None and (token is None or not token.facts):
        # jarvis-api stores none, and sends what the server's metadata says.
        stored = members(server.config.get("oauthMetadata")).get("resource")
    return stored if isinstance(stored, str) and stored else None


def _tell(future: asyncio.Future[bool], *, outcome: bool = True) -> None:
    if not future.done():
        future.set_result(outcome)
