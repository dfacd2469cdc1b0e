"""What clients of the handshake's era said in their sessions with the gateway itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

REMEMBERED = 10_000
MOST_SUBSCRIPTIONS = 1_000
MAX_URI_CHARACTERS = 4_096
MAX_TOTAL_CHARACTERS = 32 * 1024 * 1024
"""Of all URIs; the sessions that were silent for longest are forgotten first."""

URI_COST = 100
"""What a URI takes besides its characters, roughly."""


@dataclass(slots=True)
class State:
    """Of one session.

    Attributes:
        subscriptions: URIs of resources, in the order they were subscribed to.
    """

    level: str | None = None
    subscriptions: dict[str, None] = field(default_factory=dict)


class SessionStates:
    """States by the nonce of the session; every worker knows them all, as far as it has room."""

    def __init__(self) -> None:
        self._states: LRUCache[str, State] = LRUCache(REMEMBERED)
        self._characters = 0

    def apply(self, nonce: str, change: Mapping[str, Any]) -> None:
        """Note a change: `level`, or `subscribed` or `unsubscribed` with a resource's URI."""
        state = self._states.get(nonce)
        if state is None:
            if len(self._states) >= REMEMBERED:
                self._forget_one()
            state = self._states[nonce] = State()
        if "level" in change:
            state.level = change["level"]
        begun, ended = change.get("subscribed"), change.get("unsubscribed")
        if begun is not None and begun not in state.subscriptions and not self.is_full(nonce):
            state.subscriptions[begun] = None
            self._characters += _cost(begun)
        if ended in state.subscriptions:
            del state.subscriptions[ended]
            self._characters -= _cost(ended)
        while self._characters > MAX_TOTAL_CHARACTERS:
            self._forget_one()

    def is_full(self, nonce: str) -> bool:
        """Whether a session can subscribe to no more."""
        state = self._states.get(nonce)
        return state is not None and len(state.subscriptions) >= MOST_SUBSCRIPTIONS

    def level(self, nonce: str) -> str | None:
        """Return the log level that was set, if one was."""
        state = self._states.get(nonce)
        return state.level if state is not None else None

    def subscriptions(self, nonce: str) -> tuple[str, ...]:
        """Return the URIs of the resources that the session wants to hear of."""
        state = self._states.get(nonce)
        return tuple(state.subscriptions) if state is not None else ()

    def known(self, nonce: str) -> dict[str, Any]:
        """Return all that is known of a session, for a worker that knows less."""
        state = self._states.get(nonce)
        if state is None:
            return {}
        return {"level": state.level, "subscriptions": list(state.subscriptions)}

    def merge(self, nonce: str, known: Mapping[str, Any]) -> None:
        """Add what another worker knows of a session."""
        if known.get("level") is not None and self.level(nonce) is None:
            self.apply(nonce, {"level": known["level"]})
        for uri in known.get("subscriptions", ()):
            self.apply(nonce, {"subscribed": uri})

    def forget(self, nonce: str) -> None:
        """Drop what is known of a session that has ended."""
        state = self._states.pop(nonce, None)
        if state is not None:
            self._characters -= sum(map(_cost, state.subscriptions))

    def _forget_one(self) -> None:
        _, state = self._states.popitem()
        self._characters -= sum(map(_cost, state.subscriptions))


def _cost(uri: str) -> int:
    return len(uri) + URI_COST
