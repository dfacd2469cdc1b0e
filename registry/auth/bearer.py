"""Authenticator of bearer tokens: from an Authorization header to a UserContext, with a cache.

The cache is keyed by the SHA-256 of the whole token; no entry outlives the token's `exp`.
"""

import asyncio
import hashlib
from typing import Protocol

from cachetools import TLRUCache

from packages.database.errors import DatabaseUnavailable
from registry.auth.errors import AUTHENTICATION_HELP, UnauthorizedError
from registry.auth.identity import Role, UserContext, default_scopes
from registry.auth.jwt import TokenVerifier, VerifiedToken
from registry.auth.revocation import RevocationList
from registry.auth.values import DirectoryEntry
from registry.core.clock import Clock
from registry.core.metrics import Metrics

ISSUED_AHEAD_SECONDS = 300
"""How far the clock of a token's issuer may be ahead of ours."""

DATABASE_RETRY_SECONDS = 2.0
"""How long the database is not queried again after it did not answer."""

KNOWN_LOOKUP_SECONDS = 1.0
"""Longest time that a caller who is known from before waits for the database. One that hangs is
found out later than one that is gone."""

CACHED_TOKENS = 10_000
"""Maximum number of cached tokens; about 1 kB each."""


class Directory(Protocol):
    """Reads users."""

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return a user's entry, or None."""


class BearerAuthenticator:
    """Verifies bearer tokens and resolves their callers.

    Args:
        user_cache_seconds: How long a user's role and groups are believed.
        outage_seconds: How long they are while the database cannot be asked.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        directory: Directory,
        revocations: RevocationList,
        *,
        clock: Clock,
        metrics: Metrics,
        user_cache_seconds: float,
        outage_seconds: float,
        leeway_seconds: float,
    ) -> None:
        self._verifier = verifier
        self._directory = directory
        self._revocations = revocations
        revocations.subscribe(self.forget)
        self._clock = clock
        self._monotonic = clock.monotonic
        self._user_cache_seconds = user_cache_seconds
        self._outage_seconds = outage_seconds
        self._leeway_seconds = leeway_seconds
        self._unavailable_until = float("-inf")
        self._hits = metrics.token_verifications.labels("cached")
        self._verified = metrics.token_verifications.labels("verified")
        self._refused = metrics.token_verifications.labels("refused")
        self._forgotten = 0
        self._tokens: TLRUCache[bytes, VerifiedToken] = TLRUCache(
            CACHED_TOKENS, ttu=self._token_dies_at, timer=clock.monotonic
        )
        self._contexts: dict[bytes, tuple[UserContext, float]] = {}
        self._last_known: TLRUCache[bytes, tuple[UserContext, float]] = TLRUCache(
            CACHED_TOKENS, ttu=lambda _key, value, _now: value[1], timer=clock.monotonic
        )

    def cached(self, authorization: str) -> UserContext | None:
        """Return the caller of *authorization* if it is cached. Does no I/O."""
        entry = self._contexts.get(_digest(authorization))
        if entry is None or self._monotonic() >= entry[1]:
            return None
        self._hits.inc()
        return entry[0]

    def holds(self, authorization: str) -> bool:
        """Whether a token is cached as verified and has not expired. No I/O."""
        token = authorization.partition(" ")[2].strip()
        return self._tokens.get(_digest(token)) is not None

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Return the caller that the Authorization header identifies.

        Raises:
            UnauthorizedError: There is no bearer token, or it cannot be accepted.
            DatabaseUnavailable: The user cannot be looked up.
        """
        if not authorization:
            raise UnauthorizedError(
                f"A bearer token is required. {AUTHENTICATION_HELP}", token_was_sent=False
            )
        remembered = self.cached(authorization)
        if remembered is not None:
            return remembered
        if self._clock.monotonic() < self._unavailable_until:
            # Each request would wait as long as the first one did.
            return self._known_before(authorization)
        forgotten = self._forgotten
        is_known = _digest(authorization) in self._last_known
        try:
            async with asyncio.timeout(KNOWN_LOOKUP_SECONDS if is_known else None):
                context, expires_at = await self._verify(authorization)
        except UnauthorizedError:
            self._refused.inc()
            raise
        except (DatabaseUnavailable, TimeoutError):
            self._unavailable_until = self._clock.monotonic() + DATABASE_RETRY_SECONDS
            return self._known_before(authorization)
        left = expires_at - self._clock.now().timestamp()
        # Not cached if the cache was cleared during the lookup.
        if left > 0 and forgotten == self._forgotten:
            key, now = _digest(authorization), self._clock.monotonic()
            self._remember(key, context, now + min(self._user_cache_seconds, left))
            self._last_known[key] = (context, now + min(self._outage_seconds, left))
        return context

    def _remember(self, key: bytes, context: UserContext, until: float) -> None:
        # A plain dict, because each call reads it. The oldest entry is evicted first; its caller
        # is looked up again, with the token still verified.
        contexts = self._contexts
        contexts.pop(key, None)
        contexts[key] = (context, until)
        if len(contexts) > CACHED_TOKENS:
            del contexts[next(iter(contexts))]

    def _known_before(self, authorization: str) -> UserContext:
        """Return the caller of a header as of the last lookup, if that is recent enough.

        Raises:
            DatabaseUnavailable: The caller is unknown, or the last lookup is too old.
        """
        entry = self._last_known.get(_digest(authorization))
        if entry is None:
            raise DatabaseUnavailable
        return entry[0]

    def forget_users(self) -> None:
        """Clear cached roles and groups; tokens stay verified."""
        self._forgotten += 1
        self._contexts.clear()
        self._last_known.clear()

    def forget(self) -> None:
        """Clear the cache."""
        self.forget_users()
        self._tokens.clear()

    async def _verify(self, authorization: str) -> tuple[UserContext, float]:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("The Authorization header must be `Bearer <token>`.")
        key = _digest(token)
        verified = self._tokens.get(key)
        if verified is None:
            verified = self._verifier.verify(token)
            self._verified.inc()
            self._tokens[key] = verified
        ahead = (verified.issued_at or 0) - self._clock.now().timestamp()
        if ahead > ISSUED_AHEAD_SECONDS:
            # It would survive a revocation of all tokens issued to its user until now.
            raise UnauthorizedError("The bearer token was issued in the future.")
        context = await self.current(verified)
        return context, verified.expires_at + self._leeway_seconds

    async def current(self, token: VerifiedToken) -> UserContext:
        """Return the caller of a token that was verified before, as they are now.

        Its expiry is not looked at: what it was used for may go on for longer.

        Raises:
            UnauthorizedError: They do not exist any more, are disabled, or the token is revoked.
            DatabaseUnavailable: The user cannot be looked up.
        """
        context = await self._context(token)
        # Checked last: it may have been revoked while the user was looked up.
        if self._revocations.refuses(token):
            raise UnauthorizedError("The bearer token was revoked.")
        return context

    async def _context(self, token: VerifiedToken) -> UserContext:
        """Return the caller of a token, according to the stored user.

        A token may grant fewer rights than its user has, never more.

        Raises:
            UnauthorizedError: There is no such user, or they are disabled.
        """
        entry = await self._directory.get(token.user_id)
        if entry is None:
            if not token.is_service_account or token.role is None or token.scopes is None:
                raise UnauthorizedError("The bearer token's user does not exist.")
            return UserContext(
                user_id=token.user_id,
                username=token.username,
                role=token.role,
                scopes=token.scopes,
                token_id=token.token_id,
                session_id=token.session_id,
                ancestors=token.ancestors,
                custom_scopes=token.custom_scopes,
                is_service_account=True,
                toolset=token.toolset,
                tools=token.tools,
            )
        if entry.is_disabled:
            raise UnauthorizedError("The bearer token's user is disabled.")
        stored = Role.parse(entry.role)
        role = stored if token.role is None else token.role.limited_to(stored)
        scopes = token.scopes if token.scopes is not None else default_scopes(role)
        is_demoted = token.role is Role.ADMIN and role is not Role.ADMIN
        return UserContext(
            user_id=token.user_id,
            username=token.username or entry.username,
            role=role,
            scopes=scopes & default_scopes(role) if is_demoted else scopes,
            groups=entry.groups,
            token_id=token.token_id,
            # A token of a lower role must not get what ACL entries grant to administrators.
            role_name=entry.role if role is stored else None,
            session_id=token.session_id,
            ancestors=token.ancestors,
            custom_scopes=frozenset() if is_demoted else token.custom_scopes,
            tenant_id=entry.tenant_id,
            toolset=token.toolset,
            tools=token.tools,
        )

    def _token_dies_at(self, _key: bytes, token: VerifiedToken, now: float) -> float:
        seconds_left = token.expires_at + self._leeway_seconds - self._clock.now().timestamp()
        return now + seconds_left


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
