"""Writing what somebody else may be inserting at the same time."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable

R = TypeVar("R")

ATTEMPTS = 5
"""After the first lost race there is a document to replace, so the second try should succeed."""


async def in_transaction(database: Database, work: Callable[[Transaction], Awaitable[R]]) -> R:
    """Run *work* in one transaction, and from the start when a key was taken meanwhile.

    A duplicate key ends a transaction, so an upsert cannot be tried again inside it.

    Raises:
        DatabaseUnavailable: The database is away, or others insert and delete all the time.
    """
    for _ in range(ATTEMPTS):
        with suppress(DuplicateKeyError):
            return await database.transaction(work)
    raise DatabaseUnavailable
