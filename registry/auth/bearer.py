"""From an Authorization header to a UserContext, remembering what was verified.

The memory is keyed by the SHA-256 of the whole token and never outlives its `exp`.
"""

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
"""How far the clock of whoever issues tokens may be ahead of ours."""

AWAY_SECONDS = 2.0
"""How long the database is not asked again after it did not answer."""

CACHED_TOKENS = 10_000
"""Most tokens remembered; about 1 kB each."""


class Directory(Protocol):
    """Knows the users."""

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return what is known of a user, or None."""


class BearerAuthenticator:
    """Verifies bearer tokens and finds out who they stand for.

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
        revocations.tell(self.forget)
        self._clock = clock
        self._monotonic = clock.monotonic
        self._user_cache_seconds = user_cache_seconds
        self._outage_seconds = outage_seconds
        self._leeway_seconds = leeway_seconds
        self._is_away_until = float("-inf")
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
        """Return who *authorization* stands for if that is remembered. Does no I/O."""
        entry = self._contexts.get(_digest(authorization))
        if entry is None or self._monotonic() >= entry[1]:
            return None
        self._hits.inc()
        return entry[0]

    def holds(self, authorization: str) -> bool:
        """Whether a token was verified, and has neither expired nor been forgotten. No I/O."""
        token = authorization.partition(" ")[2].strip()
        return self._tokens.get(_digest(token)) is not None

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Return who the Authorization header stands for.

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
        if self._clock.monotonic() < self._is_away_until:
            # Each would wait for as long as the first did.
            return self._known_before(authorization)
        forgotten = self._forgotten
        try:
            context, expires_at = await self._verify(authorization)
        except UnauthorizedError:
            self._refused.inc()
            raise
        except DatabaseUnavailable:
            self._is_away_until = self._clock.monotonic() + AWAY_SECONDS
            return self._known_before(authorization)
        left = expires_at - self._clock.now().timestamp()
        # What was to be forgotten while this was looked up is not remembered after all.
        if left > 0 and forgotten == self._forgotten:
            key, now = _digest(authorization), self._clock.monotonic()
            self._remember(key, context, now + min(self._user_cache_seconds, left))
            self._last_known[key] = (context, now + min(self._outage_seconds, left))
        return context

    def _remember(self, key: bytes, context: UserContext, until: float) -> None:
        # A plain dict, for each call asks it. What was remembered first goes first; whoever still
        # calls is looked up again, with their token still verified.
        contexts = self._contexts
        contexts.pop(key, None)
        contexts[key] = (context, until)
        if len(contexts) > CACHED_TOKENS:
            del contexts[next(iter(contexts))]

    def _known_before(self, authorization: str) -> UserContext:
        """Return who a header stood for when the database was last asked, not long ago.

        Raises:
            DatabaseUnavailable: Nobody knows.
        """
        entry = self._last_known.get(_digest(authorization))
        if entry is None:
            raise DatabaseUnavailable
        return entry[0]

    def forget_users(self) -> None:
        """Drop what is remembered of roles and groups; tokens stay verified."""
        self._forgotten += 1
        self._contexts.clear()
        self._last_known.clear()

    def forget(self) -> None:
        """Drop all that is remembered."""
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
            # It would outlive a revocation of all that its user was issued until now.
            raise UnauthorizedError("The bearer token was issued in the future.")
        context = await self._context(verified)
        # Looked at last: it may have been revoked while the user was looked up.
        if self._revocations.refuses(verified):
            raise UnauthorizedError("The bearer token was revoked.")
        return context, verified.expires_at + self._leeway_seconds

    async def _context(self, token: VerifiedToken) -> UserContext:
        """Return who a token stands for by what is stored of its user now.

        A token may give fewer rights than its user has, never more.

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
            # What ACL entries give to administrators is not for a token that is none of theirs.
            role_name=entry.role if role is stored else None,
            session_id=token.session_id,
            ancestors=token.ancestors,
            custom_scopes=frozenset() if is_demoted else token.custom_scopes,
            tenant_id=entry.tenant_id,
        )

    def _token_dies_at(self, _key: bytes, token: VerifiedToken, now: float) -> float:
        seconds_left = token.expires_at + self._leeway_seconds - self._clock.now().timestamp()
        return now + seconds_left


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
