"""Conversations that wait for their clients. No sockets."""

from dataclasses import dataclass, field
from typing import Any, cast

from registry.core.background_tasks import BackgroundTasks
from registry.gateway.aggregate.parked import PARKED_SECONDS, Parked, ParkedConversations
from registry.gateway.client.asks import Ask, Conversation
from tests.fakes.clock import FakeClock


@dataclass
class Leaving:
    """Gives conversations up; while it does so for the first time, the timer goes off."""

    clock: FakeClock = field(default_factory=FakeClock)
    background_tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parked = ParkedConversations(self.leave, self.background_tasks, self.clock)

    async def leave(self, conversation: Conversation) -> None:
        """Note which one it was."""
        if not self.left:
            self.clock.move(PARKED_SECONDS + 1)
            self.parked.give_up_late()
        self.left.append(cast("str", conversation))


def waiting(name: str) -> Parked:
    nothing = cast("Any", None)
    return Parked("alice", cast("Ask", nothing), cast("Conversation", name), {}, "digest")


async def test_what_a_timer_gives_up_while_all_are_given_up_is_given_up_once() -> None:
    leaving = Leaving()
    for name in "abc":
        leaving.parked.add(name, waiting(name))

    await leaving.parked.close()
    await leaving.background_tasks.close(grace_seconds=1)

    assert (sorted(leaving.left), len(leaving.parked)) == (["a", "b", "c"], 0)


async def test_one_that_was_taken_is_not_given_up() -> None:
    leaving = Leaving()
    leaving.parked.add("a", waiting("a"))

    taken = leaving.parked.take("a")
    await leaving.parked.close()

    assert taken is not None
    assert (leaving.left, leaving.parked.take("a")) == ([], None)
