"""The error tree. Errors know neither HTTP nor MCP; each edge renders them once.

RegistryError
├── kind NOT_FOUND, CONFLICT, PRECONDITION_FAILED, FORBIDDEN, UNAUTHORIZED, INVALID, UPSTREAM,
│   UNAVAILABLE, RATE_LIMITED
└── one subclass per expected failure, in the errors module of the domain that raises it
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ValidationError

from registry.core.text import PATTERN_WORDS


class ErrorKind(StrEnum):
    """What went wrong, as the `error` code of the API's envelope spells it."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    PRECONDITION_FAILED = "precondition_failed"
    INVALID = "validation_error"
    RATE_LIMITED = "rate_limited"
    UPSTREAM = "upstream_error"
    UNAVAILABLE = "service_unavailable"
    INTERNAL = "internal_error"


class RegistryError(Exception):
    """An expected failure. The message is safe to show: it names things, never secrets.

    Attributes:
        kind: The class of failure.
        facts: Further members of the error envelope, JSON-serialisable.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

    def __init__(self, message: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, object] = dict(facts or {})


class ValidationFailedError(RegistryError):
    """Input that parsed but breaks a rule.

    Attributes:
        field: Path of the member, in any spelling: callers get it in theirs.
    """

    kind = ErrorKind.INVALID

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(
            f"{field}: {problem}", {"details": [{"field": field, "message": problem}]}
        )


class DatabaseUnavailableError(RegistryError):
    """MongoDB cannot be reached, or did not answer in time."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The database is not available; try again in a moment.")


class ReplicaSetNeededError(RegistryError):
    """A write was requested, but MongoDB is a standalone server without transactions."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "This registry is read-only: its MongoDB is a standalone server, and writes need a "
            "replica set."
        )


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors of a group and of the groups in it, or the one error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def problems_of(error: ValidationError, *, whole: str | None = "file") -> list[str]:
    """Return the problems of a validation error, one for each member.

    Args:
        error: What pydantic raised.
        whole: What a problem of several members together is a problem of; None to leave it out.
    """
    found = []
    for item in error.errors(include_input=False):
        place = ".".join(str(part) for part in item["loc"]) or whole
        problem = problem_of(item)
        found.append(problem if place is None else f"{place}: {problem}")
    return found


def problem_of(item: Mapping[str, Any]) -> str:
    """Return pydantic's message for one member, with patterns explained in words."""
    if item["type"] == "extra_forbidden":
        return "is not a known field"
    if item["type"] == "string_pattern_mismatch":
        return PATTERN_WORDS.get(item["ctx"]["pattern"], str(item["msg"]))
    return str(item["msg"]).removeprefix("Value error, ")
