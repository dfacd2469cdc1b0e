"""What clients of the handshake's era said in their sessions with the gateway itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

REMEMBERED = 10_000
MOST_SUBSCRIPTIONS = 1_000


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

    def apply(self, nonce: str, change: Mapping[str, Any]) -> None:
        """Note a change: `level`, or `subscribed` or `unsubscribed` with a resource's URI."""
        state = self._states.get(nonce)
        if state is None:
            state = self._states[nonce] = State()
        if "level" in change:
            state.level = change["level"]
        if "subscribed" in change and len(state.subscriptions) < MOST_SUBSCRIPTIONS:
            state.subscriptions[change["subscribed"]] = None
        if "unsubscribed" in change:
            state.subscriptions.pop(change["unsubscribed"], None)

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
        self._states.pop(nonce, None)
