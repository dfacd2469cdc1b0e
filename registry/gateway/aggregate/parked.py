"""Parked conversations: a server waits for input of a client, between two of its requests.

Bounded in number and time. A timer drops those that have expired, in the background because
leaving a conversation can send requests.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.gateway.client.asks import Ask, Conversation
from registry.gateway.errors import NotServing

PARKED_SECONDS = 300.0
MAX_PARKED = 1_000
MAX_PARKED_PER_CALLER = 50
SWEEP_SECONDS = 10.0
"""How long a conversation is parked, how many may be, how many of one caller, and how often
expired ones are looked for."""


@dataclass(slots=True)
class Parked:
    """A conversation that waits for its client."""

    principal: str
    ask: Ask
    conversation: Conversation
    question: JsonObject
    digest: str


class ParkedConversations:
    """The parked conversations of one worker.

    Args:
        leave: Ends a conversation.
        background_tasks: Runs that in the background.
    """

    def __init__(
        self,
        leave: Callable[[Conversation], Awaitable[None]],
        background_tasks: BackgroundTasks,
        clock: Clock,
    ) -> None:
        self._leave = leave
        self._background_tasks = background_tasks
        self._clock = clock
        self._parked: dict[str, tuple[Parked, float]] = {}
        self._is_sweeping = False

    def __len__(self) -> int:
        return len(self._parked)

    def require_room(self, principal: str) -> None:
        """Check that one more conversation of *principal* can be parked.

        Raises:
            NotServing: The limit is reached.
        """
        if len(self._parked) >= MAX_PARKED:
            raise NotServing("Too many calls wait for input of their clients; try again later.")
        own = sum(parked.principal == principal for parked, _ in self._parked.values())
        if own >= MAX_PARKED_PER_CALLER:
            raise NotServing("Too many of your calls wait for your input; answer some first.")

    def add(self, token: str, parked: Parked) -> None:
        """Park a conversation under *token*."""
        self._parked[token] = (parked, self._clock.monotonic() + PARKED_SECONDS)
        self._sweep_later()

    def take(self, token: str) -> Parked | None:
        """Return the conversation that is parked under *token*, and remove it."""
        found = self._parked.pop(token, None)
        return None if found is None else found[0]

    def give_up_late(self) -> None:
        """End the conversations that have expired."""
        now = self._clock.monotonic()
        for token, (parked, ends_at) in list(self._parked.items()):
            if ends_at <= now:
                del self._parked[token]
                self._background_tasks.soon(_left(self._leave, parked.conversation))

    async def close(self) -> None:
        """End all conversations."""
        while self._parked:
            _, (parked, _) = self._parked.popitem()
            await self._leave(parked.conversation)

    def _sweep_later(self) -> None:
        if not self._is_sweeping and self._parked:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        self.give_up_late()
        self._sweep_later()


async def _left(
    leave: Callable[[Conversation], Awaitable[None]], conversation: Conversation
) -> None:
    await leave(conversation)
