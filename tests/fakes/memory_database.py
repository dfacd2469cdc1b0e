"""A database in this process's memory, in the shape of PyMongo's asynchronous API.

mongomock speaks the older API of Motor. This bridges what Beanie and our repositories use. It has
no transactions, change streams or validators: what depends on those is tested on a real server.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mongomock_motor import AsyncMongoMockClient
from pymongo.asynchronous.database import AsyncDatabase

from packages.database.client import Database, Doc


class MemoryCollection:
    """One collection. Members that are not named here are mongomock's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def aggregate(self, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Return a cursor; PyMongo's must be awaited, Motor's not."""
        return self._inner.aggregate(pipeline, **options)


class MemoryStore:
    """One database. Members that are not named here are mongomock's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __getitem__(self, name: str) -> MemoryCollection:
        return MemoryCollection(self._inner[name])

    async def list_collection_names(self, **_options: Any) -> list[str]:
        """Return the names; mongomock does not know the options."""
        return list(await self._inner.list_collection_names())


class MemoryDatabase(Database):
    """A Database that connects to nothing."""

    def __init__(self) -> None:
        self.db = cast("AsyncDatabase[Doc]", MemoryStore(AsyncMongoMockClient(tz_aware=True)["m"]))
        self._documents = {}
