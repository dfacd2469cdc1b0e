"""Translation of driver errors, so that callers need not know the driver."""

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
"""Server code of a violated unique index."""

UNREACHABLE = (
    ConnectionFailure,
    ServerSelectionTimeoutError,
    NetworkTimeout,
    NotPrimaryError,
    ExecutionTimeout,
    WTimeoutError,
)
"""Errors of the driver if the database is unreachable, stepping down or too slow."""

SHUTTING_DOWN_CODES = frozenset({91, 11600, 11602})
"""ShutdownInProgress, InterruptedAtShutdown, InterruptedDueToReplStateChange."""

LOGIN_CODES = frozenset({13, 18})
"""Unauthorized and AuthenticationFailed."""


class DatabaseUnavailable(Exception):  # noqa: N818 - names the state, like the driver's own
    """MongoDB cannot be reached, or did not answer in time. No partial change remains."""


class MongoLoginError(DatabaseUnavailable):
    """MongoDB refuses the user, the password or the operation."""

    def __init__(self) -> None:
        super().__init__(
            "MONGO_URI: MongoDB refuses its user name and password, or the user lacks a privilege"
        )


class ReplicaSetNeeded(DatabaseUnavailable):
    """A write was requested on a standalone server, which has no transactions."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB runs as a standalone server, which has no transactions, so writes are "
            "refused. Make it a replica set; one node is enough."
        )


def is_unreachable(error: BaseException) -> bool:
    """Whether *error* means that the database is unavailable, not that the operation is wrong."""
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
            # Not translated in a transaction: the driver decides by its own exceptions on a retry.
            return await method(*args, **kwargs)
        async with translated():
            return await method(*args, **kwargs)

    return call


def _in_transaction(*arguments: object) -> bool:
    return any(isinstance(argument, AsyncClientSession) for argument in arguments)
