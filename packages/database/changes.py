"""Changes of documents as they are committed, from MongoDB's change streams."""

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable, translated

HEARTBEAT_MS = 500
"""How long the server waits for a change before it answers that there was none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        collection: Where.
        document_id: Which document, as text.
        links: References of the document as it is now, as text; empty when it was deleted.
    """

    collection: str
    document_id: str
    links: Mapping[str, str]


async def watch(
    database: Database, collections: Collection[str], links: Collection[str]
) -> AsyncGenerator[Change | None, None]:
    """Yield every change of *collections* from now on, and None as a sign of life.

    The first item is None: the stream is open, and what is read from then on is not missed.

    Args:
        database: Where to.
        collections: Names of collections.
        links: Fields holding references that a reader wants to know of.

    Raises:
        DatabaseUnavailable: The stream broke; what happened meanwhile is not told.
    """
    pipeline: list[Mapping[str, Any]] = [
        {"$match": {"ns.coll": {"$in": list(collections)}}},
        {
            "$project": {
                "ns": 1,
                "documentKey": 1,
                "operationType": 1,
                **{f"fullDocument.{name}": 1 for name in links},
            }
        },
    ]
    async with (
        translated(),
        await database.db.watch(
            pipeline, full_document="updateLookup", max_await_time_ms=HEARTBEAT_MS
        ) as stream,
    ):
        yield None
        # A stream that the server ended (its database was dropped) answers None at once for ever.
        while stream.alive:
            event = await stream.try_next()
            yield None if event is None else _change(event, links)
        raise DatabaseUnavailable


def _change(event: Mapping[str, Any], links: Collection[str]) -> Change:
    document = event.get("fullDocument") or {}
    return Change(
        collection=event["ns"]["coll"],
        document_id=str((event.get("documentKey") or {}).get("_id", "")),
        links={name: str(document[name]) for name in links if name in document},
    )
