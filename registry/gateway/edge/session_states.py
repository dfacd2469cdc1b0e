"""State of sessions of handshake-era clients with the gateway: subscriptions, log level."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REMEMBERED = 10_000
MAX_SUBSCRIPTIONS = 1_000
MAX_URI_CHARACTERS = 4_096
MAX_TOTAL_CHARACTERS = 32 * 1024 * 1024
"""Limit for all URIs; the least recently used sessions are dropped first."""

URI_COST = 100
"""Approximate cost of a URI besides its characters."""


@dataclass(slots=True)
class ClientSessionState:
    """The state of one session.

    Attributes:
        subscriptions: URIs of resources, in the order of subscription; None for none.
    """

    level: str | None = None
    subscriptions: dict[str, None] | None = None


class SessionStates:
    """States by the session's nonce; every worker knows all, within the limits."""

    def __init__(self) -> None:
        # Least recently used first. The bookkeeping of a cache would take twice as much memory as
        # most states.
        self._states: dict[str, ClientSessionState] = {}
        self._characters = 0

    def apply(self, nonce: str, change: Mapping[str, Any]) -> None:
        """Apply a change: `level`, or `subscribed` or `unsubscribed` with a resource's URI."""
        state = self._used(nonce)
        if state is None:
            if len(self._states) >= REMEMBERED:
                self._forget_one()
            state = self._states[nonce] = ClientSessionState()
        if "level" in change:
            level = change["level"]
            state.level = sys.intern(level) if isinstance(level, str) else None
        begun, ended = change.get("subscribed"), change.get("unsubscribed")
        subscriptions = state.subscriptions
        if begun is not None and not self.is_full(nonce):
            if subscriptions is None:
                subscriptions = state.subscriptions = {}
            if begun not in subscriptions:
                subscriptions[begun] = None
                self._characters += _cost(begun)
        if subscriptions is not None and ended in subscriptions:
            del subscriptions[ended]
            self._characters -= _cost(ended)
        while self._characters > MAX_TOTAL_CHARACTERS:
            self._forget_one()

    def is_full(self, nonce: str) -> bool:
        """Whether a session has reached the limit of subscriptions."""
        return len(self.subscriptions(nonce)) >= MAX_SUBSCRIPTIONS

    def level(self, nonce: str) -> str | None:
        """Return the log level that was set, if one was."""
        state = self._used(nonce)
        return state.level if state is not None else None

    def subscriptions(self, nonce: str) -> tuple[str, ...]:
        """Return the URIs of the resources that the session subscribed to."""
        state = self._used(nonce)
        return () if state is None or state.subscriptions is None else tuple(state.subscriptions)

    def known(self, nonce: str) -> dict[str, Any]:
        """Return the state of a session, for a worker that knows less."""
        if nonce not in self._states:
            return {}
        return {"level": self.level(nonce), "subscriptions": list(self.subscriptions(nonce))}

    def merge(self, nonce: str, known: Mapping[str, Any]) -> None:
        """Merge the state that another worker has of a session."""
        if known.get("level") is not None and self.level(nonce) is None:
            self.apply(nonce, {"level": known["level"]})
        for uri in known.get("subscriptions", ()):
            self.apply(nonce, {"subscribed": uri})

    def forget(self, nonce: str) -> None:
        """Drop the state of a session that has ended."""
        state = self._states.pop(nonce, None)
        if state is not None:
            self._characters -= sum(map(_cost, state.subscriptions or ()))

    def _used(self, nonce: str) -> ClientSessionState | None:
        """Return the state of a session, and mark it as just used."""
        state = self._states.pop(nonce, None)
        if state is not None:
            self._states[nonce] = state
        return state

    def _forget_one(self) -> None:
        self.forget(next(iter(self._states)))


def _cost(uri: str) -> int:
    return len(uri) + URI_COST
