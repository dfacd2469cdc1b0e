"""Driver failures as one exception, so that callers need not know the driver."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import (
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

DUPLICATE_KEY = 11000
"""The code by which servers say that a unique index has such a value."""

UNREACHABLE = (
    ConnectionFailure,
    ServerSelectionTimeoutError,
    NetworkTimeout,
    NotPrimaryError,
    ExecutionTimeout,
    WTimeoutError,
)
"""What the driver raises when the database is away, stepping down or too slow."""

SHUTTING_DOWN_CODES = frozenset({91, 11600, 11602})
"""ShutdownInProgress, InterruptedAtShutdown, InterruptedDueToReplStateChange."""

LOGIN_CODES = frozenset({13, 18})
"""Unauthorized and AuthenticationFailed."""


class DatabaseUnavailable(Exception):  # noqa: N818 - names the state, like the driver's own
    """MongoDB cannot be reached, or did not answer in time. Nothing half done remains."""


class MongoLoginError(DatabaseUnavailable):
    """MongoDB refuses the user, the password or what the user wants to do."""

    def __init__(self) -> None:
        super().__init__(
            "MONGO_URI: MongoDB refuses its user name and password, or what they would do"
        )


class ReplicaSetNeeded(DatabaseUnavailable):
    """A change was asked of a standalone server, which has no transactions."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB runs as a standalone server, on which nothing can be changed: it has no "
            "transactions. Make it a replica set; one node is enough."
        )


def is_unreachable(error: BaseException) -> bool:
    """Whether *error* says that the database is away rather than that the operation is wrong."""
    if isinstance(error, UNREACHABLE):
        return True
    if isinstance(error, OperationFailure):
        return error.code in SHUTTING_DOWN_CODES or error.has_error_label(
            "TransientTransactionError"
        )
    return False


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the driver's connection failures into DatabaseUnavailable."""
    try:
        yield
    except Exception as exc:
        if is_unreachable(exc):
            raise DatabaseUnavailable from exc
        if isinstance(exc, OperationFailure) and exc.code in LOGIN_CODES:
            raise MongoLoginError from exc
        raise


def translates_driver_errors(repository: C) -> C:
    """Wrap every public coroutine method of a repository class in `translated`."""
    for name, method in inspect.getmembers(repository, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(repository, name, _wrapped(method))
    return repository


def _wrapped(method: Callable[P, Awaitable[R]]) -> Callable[P, Any]:
    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _in_transaction(*args, *kwargs.values()):
            # The driver decides by its own exceptions whether to run a transaction again.
            return await method(*args, **kwargs)
        async with translated():
            return await method(*args, **kwargs)

    return call


def _in_transaction(*arguments: object) -> bool:
    return any(isinstance(argument, AsyncClientSession) for argument in arguments)
