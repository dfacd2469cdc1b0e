"""Values of a migration: what is to be done, and what came of it."""

from collections.abc import Mapping
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
class StepPlan:
    """What one step would do.

    Attributes:
        wanted: Names of the documents by their ids, in the order in which they are taken.
        left: Those that it cannot bring up to date.
    """

    step: str
    wanted: Mapping[str, str]
    left: tuple[Left, ...] = ()

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
    """What one step did."""

    step: str
    found: int
    done: int
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
    def left(self) -> tuple[Left, ...]:
        """Return what was left as it is."""
        return tuple(left for step in self.steps for left in step.left)
