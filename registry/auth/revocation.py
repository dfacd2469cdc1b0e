"""Revocation list: tokens that are refused although they are valid and have not expired.

Held in memory as a whole, so that a check costs no I/O. Loaded at start and whenever the
collection changes; the replica that revokes adds to it at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packages.models.sessions import RevocationKind
from registry.auth.jwt import VerifiedToken
from registry.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Revocation:
    """One token, family of tokens, or user whose tokens are refused.

    Attributes:
        subject: `jti`, `sid` or user id.
        revoked_at: Of a user, tokens issued up to this second are refused.
        expires_at: When all that it refuses has expired by itself.
    """

    kind: RevocationKind
    subject: str
    revoked_at: datetime
    expires_at: datetime


class RevocationSource(Protocol):
    """Reads stored revocations."""

    async def unexpired(self, now: datetime) -> list[Revocation]:
        """Return all revocations that have not expired."""


class RevocationList:
    """The revocations that this process knows."""

    def __init__(self, source: RevocationSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._ids: dict[str, datetime] = {}
        self._users: dict[str, Revocation] = {}
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* after each change."""
        self._listeners.append(listener)

    def refuses(self, token: VerifiedToken) -> bool:
        """Whether a token, its family, one of the family's ancestors, or its user is revoked."""
        user = self._users.get(token.user_id)
        if user is not None and (
            token.issued_at is None or int(token.issued_at) <= int(user.revoked_at.timestamp())
        ):
            return True
        if token.token_id in self._ids or token.session_id in self._ids:
            return True
        return any(ancestor in self._ids for ancestor in token.ancestors)

    def add(self, *revocations: Revocation) -> None:
        """Add revocations that were committed."""
        self._take(revocations)
        self._changed()

    async def load(self) -> None:
        """Load all revocations.

        Raises:
            DatabaseUnavailable: What was known stays known.
        """
        now = self._clock.now()
        read = await self._source.unexpired(now)
        # Merged, not replaced: one may have been added here during the read.
        self._ids = {name: until for name, until in self._ids.items() if until > now}
        self._users = {name: item for name, item in self._users.items() if item.expires_at > now}
        self._take(read)
        self._changed()

    def _take(self, revocations: "tuple[Revocation, ...] | list[Revocation]") -> None:
        for item in revocations:
            if item.kind is not RevocationKind.USER:
                self._ids[item.subject] = item.expires_at
                continue
            known = self._users.get(item.subject)
            if known is None or known.revoked_at < item.revoked_at:
                self._users[item.subject] = item

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
