"""What is in quarantine, in memory. Each check is a look-up; without any quarantine, none."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from packages.models.states import Effect, QuarantineKind
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget
from registry.access.quarantine.errors import InQuarantineError
from registry.access.quarantine.ports import StoredQuarantines
from registry.access.quarantine.values import Quarantine
from registry.auth.identity import UserContext
from registry.core.clock import Clock

PREFIX = "quarantine:"
"""Of the ids of the policies that stand for quarantined servers and tools."""


class QuarantineTable:
    """All quarantines in force; follows their collection."""

    collection = "quarantines"

    def __init__(self, stored: StoredQuarantines, clock: Clock) -> None:
        self._stored = stored
        self._clock = clock
        self._known: dict[str, Quarantine] = {}
        self._by_subject: dict[tuple[QuarantineKind, str], Quarantine] = {}
        self._next_expiry: datetime | None = None
        self._listeners: list[Callable[[Sequence[Quarantine]], None]] = []
        self.is_empty = True

    def subscribe(self, listener: Callable[[Sequence[Quarantine]], None]) -> None:
        """Call *listener* with what was newly put in quarantine."""
        self._listeners.append(listener)

    def of_caller(self, user: UserContext) -> Quarantine | None:
        """Return why a caller is refused, if they are: as a user, or by their token."""
        if self.is_empty:
            return None
        found = self._of(QuarantineKind.USER, user.user_id)
        if found is not None:
            return found
        for token in (user.token_id, user.session_id, *user.ancestors):
            if token is not None:
                found = self._of(QuarantineKind.TOKEN, token)
                if found is not None:
                    return found
        return None

    def of_server(self, server_id: str) -> Quarantine | None:
        """Return why a server is refused, if it is."""
        return None if self.is_empty else self._of(QuarantineKind.SERVER, server_id)

    def of_client(self, name: object) -> Quarantine | None:
        """Return why a caller application is refused, if it is."""
        if self.is_empty or not isinstance(name, str):
            return None
        return self._of(QuarantineKind.CLIENT, name)

    def require_caller(self, user: UserContext) -> None:
        """Check that a caller is not in quarantine.

        Raises:
            InQuarantineError: They are, or their token is.
        """
        found = self.of_caller(user)
        if found is not None:
            is_user = found.kind is QuarantineKind.USER
            raise InQuarantineError("Your account" if is_user else "Your token")

    def policies(self) -> list[Policy]:
        """Return policies that deny quarantined servers and tools to everyone.

        So every decision about tools obeys, wherever it is made.
        """
        now = self._clock.now()
        return [
            Policy(
                id=f"{PREFIX}{one.id}",
                name=f"quarantine of {one.name}",
                effect=Effect.DENY,
                target=PolicyTarget(
                    owner_id=one.subject, tools=() if one.tool is None else (one.tool,)
                ),
                subjects=EVERYONE,
            )
            for one in self._known.values()
            if one.kind in {QuarantineKind.SERVER, QuarantineKind.TOOL} and one.is_active(now)
        ]

    def expire(self) -> bool:
        """Drop what has expired; return whether there was any."""
        if self._next_expiry is None or self._next_expiry > self._clock.now():
            return False
        self._take(self._known.values())
        return True

    async def reload(self, ids: AbstractSet[str] | None) -> None:  # noqa: ARG002 - there are few
        """Read the quarantines again.

        Raises:
            DatabaseUnavailable: They stay as they were.
        """
        before = self._known
        self._take(await self._stored.unlifted())
        new = [one for key, one in self._known.items() if key not in before]
        if new:
            for listener in self._listeners:
                listener(new)

    def _take(self, quarantines: Iterable[Quarantine]) -> None:
        now = self._clock.now()
        self._known = {one.id: one for one in quarantines if one.is_active(now)}
        self._by_subject = {
            (one.kind, one.subject): one
            for one in self._known.values()
            if one.kind is not QuarantineKind.TOOL
        }
        ends = [one.expires_at for one in self._known.values() if one.expires_at is not None]
        self._next_expiry = min(ends, default=None)
        self.is_empty = not self._known

    def _of(self, kind: QuarantineKind, subject: str) -> Quarantine | None:
        found = self._by_subject.get((kind, subject))
        if found is None or (
            found.expires_at is not None and found.expires_at <= self._clock.now()
        ):
            return None
        return found
