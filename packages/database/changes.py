"""Changes of documents as they are committed, from MongoDB's change streams.

A reader that was cut off goes on where it stopped, as long as the server remembers.
`packages.database.polling` tells the same of a server that has no change streams.
"""

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from bson import ObjectId
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import OperationFailure

from packages.database.client import Database, Doc
from packages.database.errors import DatabaseUnavailable, translated

HEARTBEAT_MS = 500
"""How long the server waits for a change before it answers that there was none."""

ROW_ID_BYTES = 12
OBJECT_ID_CHARACTERS = 24

WHOLE_COLLECTION = frozenset({"drop", "dropDatabase", "rename", "invalidate"})
"""Events that say nothing of single documents."""

HISTORY_LOST_CODES = frozenset({260, 280, 286, 10334})
"""InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, BSONObjectTooLarge."""

TOUCHED: Mapping[str, Any] = {
    # The embedded database takes a tenth of what an event costs it to find nothing in the rest.
    "$cond": [
        {"$eq": ["$operationType", "update"]},
        {
            "$concatArrays": [
                {
                    "$map": {
                        "input": {
                            "$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}
                        },
                        "in": "$$this.k",
                    }
                },
                {"$ifNull": ["$updateDescription.removedFields", []]},
            ]
        },
        [],
    ]
}
"""The dotted names of the fields that an update changed; none for other events."""

NO_FIELDS: frozenset[str] = frozenset()

Position: TypeAlias = Any
"""Where a reader goes on. Only the feed that gave it understands it."""


class HistoryLost(Exception):  # noqa: N818 - names the state, like DatabaseUnavailable
    """What happened since the position cannot be told; everything must be read again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A collection whose changes are told.

    Attributes:
        link: The field that refers to what its documents are about; None where that is themselves
            or nothing.
        stamp: The field with the time of a document's last change.
        is_counted: Whether a reader must learn which of its documents, or of what they are about,
            are gone.
        unheeded: Dotted names of fields that may change without the reader being told.
    """

    collection: str
    link: str | None = None
    stamp: str = "updatedAt"
    is_counted: bool = False
    unheeded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One change.

    Attributes:
        collection: Where.
        document_id: Which document, as text; empty when it is not known.
        link: What the document is about, as text; None when it was deleted.
    """

    collection: str
    document_id: str
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A change, or a sign of life.

    Attributes:
        position: Where to go on once this and everything before it was dealt with.
    """

    change: ChangeEvent | None
    position: Position


class ChangeFeed(Protocol):
    """Tells of changes, in order, each at least once."""

    @property
    def mode(self) -> str:
        """Return how: `change_stream` or `polling`."""

    async def now(self) -> Position | None:
        """Return the present position, or None when there is no going on from it.

        Raises:
            DatabaseUnavailable: It cannot be asked.
        """

    def changes(self, after: Position | None) -> AsyncGenerator[Heard, None]:
        """Yield every change after a position, or from now on, and signs of life.

        The first item is a sign of life: what is read from then on is not missed. The end says
        that a reader should begin anew.

        Raises:
            HistoryLost: There is no going on from the position.
            DatabaseUnavailable: The connection broke.
        """


class ChangeStream:
    """Implements `ChangeFeed` with a change stream over several collections of a database."""

    mode = "change_stream"

    def __init__(self, database: Database, watched: Sequence[Watched]) -> None:
        self._database = database
        self._links = {item.collection: item.link for item in watched}
        self._unheeded = {item.collection: item.unheeded for item in watched if item.unheeded}
        links = {item.link for item in watched if item.link is not None}
        most_unheeded = max((len(item.unheeded) for item in watched), default=0)
        self._pipeline: list[Mapping[str, Any]] = [
            # What ends a stream has no collection.
            {"$match": {"ns.coll": {"$in": [*self._links, None]}}},
            {
                "$project": {
                    "ns": 1,
                    "documentKey": 1,
                    "operationType": 1,
                    # Their names alone, and one more than may go unheeded: an event of the whole
                    # document may be larger than the server can send, and ends the stream.
                    "touched": {"$slice": [TOUCHED, most_unheeded + 1]},
                    **{f"fullDocument.{name}": 1 for name in sorted(links)},
                }
            },
        ]

    async def now(self) -> Position | None:
        """Return the present position, or None when the server tells none before a change."""
        async with self._opened(None) as stream:
            return stream.resume_token

    async def changes(self, after: Position | None) -> AsyncGenerator[Heard, None]:
        """Yield every change after a position, or from now on, and signs of life."""
        has_heard = after is None
        try:
            async with self._opened(after) as stream:
                yield Heard(None, stream.resume_token or after)
                # One that the server ended answers None at once for ever.
                while stream.alive:
                    event = await stream.try_next()
                    has_heard = True
                    change = None if event is None else self._change(event)
                    yield Heard(change, stream.resume_token)
        except OperationFailure as exc:
            # A position that is too old, foreign or damaged, an event too large to be told:
            # servers have many codes for it, and one cure.
            if exc.code in HISTORY_LOST_CODES or not has_heard:
                raise HistoryLost from exc
            raise DatabaseUnavailable from exc
        # Ended without an event that says so, as by somebody who ended its cursor.
        raise DatabaseUnavailable

    @asynccontextmanager
    async def _opened(
        self, after: Position | None
    ) -> AsyncGenerator[AsyncChangeStream[Doc], None]:
        async with (
            translated(),
            await self._database.db.watch(
                self._pipeline,
                full_document="updateLookup",
                max_await_time_ms=HEARTBEAT_MS,
                resume_after=after,
            ) as stream,
        ):
            yield stream

    def _change(self, event: Mapping[str, Any]) -> ChangeEvent | None:
        if event["operationType"] in WHOLE_COLLECTION:
            raise HistoryLost
        collection = event["ns"]["coll"]
        touched = event.get("touched")
        if touched and self._unheeded.get(collection, NO_FIELDS).issuperset(touched):
            return None
        name = self._links[collection]
        # Of an update whose document is gone by now there is none; its deletion follows.
        document = event.get("fullDocument") or {}
        link = None if name is None or name not in document else str(document[name])
        return ChangeEvent(collection, str((event.get("documentKey") or {}).get("_id", "")), link)


def row_id(value: object) -> bytes:
    """Return the id of a document, or its text, in 12 bytes."""
    if isinstance(value, ObjectId):
        return value.binary
    text = str(value)
    if len(text) == OBJECT_ID_CHARACTERS:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    return hashlib.blake2b(text.encode(), digest_size=ROW_ID_BYTES).digest()
