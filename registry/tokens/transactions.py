"""Transactions with upserts that may collide with concurrent inserts."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Transaction
from packages.database.errors import DatabaseUnavailable

R = TypeVar("R")

ATTEMPTS = 5
"""After the first conflict there is a document to replace, so a second attempt succeeds."""


async def in_transaction(database: Database, work: Callable[[Transaction], Awaitable[R]]) -> R:
    """Run *work* in one transaction, and again from the start on a duplicate key.

    A duplicate key aborts a transaction, so an upsert cannot be retried inside it.

    Raises:
        DatabaseUnavailable: The database is unreachable, or all attempts conflicted.
    """
    for _ in range(ATTEMPTS):
        with suppress(DuplicateKeyError):
            return await database.transaction(work)
    raise DatabaseUnavailable
