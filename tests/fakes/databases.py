"""Prepared databases that tests use one after the other.

To create all collections and indexes costs more than most tests do with them.
"""

from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

MOST_DOCUMENTS_EMPTIED = 500
"""To drop a collection with more and create it anew is quicker than to delete them."""


ANSWER_MS = 60_000

NEW_DATABASES: list[str] = []
"""Names of databases of applications that tests start themselves.

They are dropped after all tests, and only where somebody else keeps the server: the embedded one
goes on for ever to drop what an open transaction wrote, with the lock that the end of the
transaction needs, and an application that runs always has one open now and then.
"""


class PreparedDatabases:
    """Databases with all collections and indexes, and without a document.

    Args:
        uri: Connection string without a database name.
        is_embedded: Whether the server is an embedded one that nobody else uses.
    """

    def __init__(self, uri: str, *, is_embedded: bool) -> None:
        self._is_embedded = is_embedded
        self._client: MongoClient[dict[str, Any]] = MongoClient(uri, socketTimeoutMS=ANSWER_MS)
        self._names: set[str] = set()
        self._free: list[str] = []
        self._layout: dict[str, Any] | None = None

    def take(self) -> str | None:
        """Return the name of one for a single user, or None if there is none."""
        return self._free.pop() if self._free else None

    def knows(self, name: str) -> bool:
        """Whether the database was prepared, for this user or for one before."""
        return name in self._names

    def add(self, name: str) -> None:
        """Take in a database that was just prepared: all later ones must look like the first."""
        self._names.add(name)
        if self._layout is None:
            self._layout = _layout(self._client[name])

    def give_back(self, name: str) -> None:
        """Keep the database for the next user, or drop it if it is no longer as prepared."""
        self._end_sessions()
        database = self._client[name]
        if self._layout == _layout(database) and _emptied(database, list(self._layout)):
            self._free.append(name)
        else:
            self._names.discard(name)
            self._client.drop_database(name)

    def close(self) -> None:
        """Drop the databases that nobody uses."""
        self._end_sessions()
        for name in self._free:
            self._client.drop_database(name)
        self._client.close()

    def _end_sessions(self) -> None:
        if self._is_embedded:
            # A transaction of a killed process stays open for a minute. To drop what it wrote
            # would wait for it for ever, with the lock that its end needs.
            self._client.admin.command("killAllSessions", [])


def _layout(database: Database[dict[str, Any]]) -> dict[str, Any]:
    return {
        one["name"]: (one["options"], database[one["name"]].index_information())
        for one in database.list_collections()
    }


def _emptied(database: Database[dict[str, Any]], names: list[str]) -> bool:
    def some_of(name: str) -> list[dict[str, Any]]:
        first = {"$limit": MOST_DOCUMENTS_EMPTIED + 1}
        return [first, {"$group": {"_id": {"$literal": name}, "count": {"$sum": 1}}}]

    first, *others = names
    unions = [{"$unionWith": {"coll": other, "pipeline": some_of(other)}} for other in others]
    for found in database[first].aggregate([*some_of(first), *unions]):
        if found["count"] > MOST_DOCUMENTS_EMPTIED:
            return False
        database[found["_id"]].delete_many({})
    return True
