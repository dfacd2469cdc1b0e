"""Values of a migration: what is to be done, and what came of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.core.json import JsonObject

EXAMPLES = 3
"""Names told of each step."""


@dataclass(frozen=True, slots=True)
class Left:
    """A document that was left as it is.

    Attributes:
        place: Collection and id.
        name: What people call it.
        reason: What is wrong with it.
    """

    place: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Meant:
    """What a document is to people.

    Attributes:
        server_id: It, or the one that it belongs to.
        tools: How many tools change with it.
    """

    server_id: str
    tools: int


@dataclass(frozen=True, slots=True)
class Count:
    """How much something is to people.

    Attributes:
        servers: Ids of those that it is about.
        tools: How many change.
    """

    servers: frozenset[str] = frozenset()
    tools: int = 0

    def __add__(self, other: "Count") -> "Count":
        """Return both together; a server that both are about counts once."""
        return Count(self.servers | other.servers, self.tools + other.tools)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step would do.

    Attributes:
        wanted: Names of the documents by their ids, in the order in which they are taken.
        meant: What each of them is to people.
        left: Those that it cannot bring up to date.
    """

    step: str
    wanted: Mapping[str, str]
    meant: Mapping[str, Meant]
    left: tuple[Left, ...] = ()

    @property
    def count(self) -> Count:
        """Return how much it would bring up to date."""
        return self.count_of(self.wanted)

    def count_of(self, ids: Iterable[str]) -> Count:
        """Return how much some of its documents are."""
        found = [self.meant[each] for each in ids]
        return Count(
            frozenset(each.server_id for each in found), sum(each.tools for each in found)
        )

    @property
    def examples(self) -> tuple[str, ...]:
        """Return the first few names."""
        return tuple(list(self.wanted.values())[:EXAMPLES])


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, step by step."""

    steps: tuple[StepPlan, ...]

    @property
    def total(self) -> int:
        """Return how many documents it would bring up to date."""
        return sum(len(step.wanted) for step in self.steps)

    @property
    def count(self) -> Count:
        """Return how much that is to people."""
        return sum((step.count for step in self.steps), Count())

    @property
    def left(self) -> tuple[Left, ...]:
        """Return what it would leave as it is."""
        return tuple(left for step in self.steps for left in step.left)

    @property
    def counts(self) -> JsonObject:
        """Return how many documents each step has to do with, where there are any."""
        return {step.step: len(step.wanted) for step in self.steps if step.wanted}


@dataclass(frozen=True, slots=True)
class Written:
    """What came of one batch.

    Attributes:
        done: Ids of the documents that are otherwise now. What somebody else did meanwhile is in
            neither.
        rest: Ids of those that take a transaction.
    """

    done: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()
    rest: tuple[str, ...] = ()

    def and_then(self, later: "Written") -> "Written":
        """Return what came of both."""
        return Written((*self.done, *later.done), (*self.left, *later.left), later.rest)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did.

    Attributes:
        found: How many documents it had to do with.
        done: How many are otherwise now.
        count: How much these are to people.
    """

    step: str
    found: int
    done: int
    count: Count
    left: tuple[Left, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, step by step."""

    steps: tuple[StepReport, ...]

    @property
    def done(self) -> int:
        """Return how many documents are otherwise now."""
        return sum(step.done for step in self.steps)

    @property
    def count(self) -> Count:
        """Return how much that is to people."""
        return sum((step.count for step in self.steps), Count())

    @property
    def left(self) -> tuple[Left, ...]:
        """Return what was left as it is."""
        return tuple(left for step in self.steps for left in step.left)
