"""Feed of committed changes, from MongoDB's change streams.

A reader resumes where it stopped, as long as the server's oplog reaches back.
`packages.database.polling` provides the same for servers without change streams.
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
"""How long the server waits for a change before it returns an empty batch."""

ROW_ID_BYTES = 12
OBJECT_ID_CHARACTERS = 24

WHOLE_COLLECTION = frozenset({"drop", "dropDatabase", "rename", "invalidate"})
"""Events that concern no single document."""

HISTORY_LOST_CODES = frozenset({260, 280, 286, 10334})
"""InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, BSONObjectTooLarge."""

TOUCHED: Mapping[str, Any] = {
    # Without this condition the embedded database spends a tenth of each event here.
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
"""The dotted names of the fields that an update changed; empty for other events."""

NO_FIELDS: frozenset[str] = frozenset()

Position: TypeAlias = Any
"""Resume position of a reader. Opaque: only the feed that returned it can read it."""


class HistoryLost(Exception):  # noqa: N818 - names the state, like DatabaseUnavailable
    """Changes since the position are no longer available; everything must be read again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A collection whose changes are followed.

    Attributes:
        link: The field that refers to what its documents are about; None where that is themselves
            or nothing.
        stamp: The field with the time of a document's last change.
        is_counted: Whether a reader must learn which of its documents, or of what they are about,
            are gone.
        ignored: Dotted names of fields whose changes alone are not reported.
    """

    collection: str
    link: str | None = None
    stamp: str = "updatedAt"
    is_counted: bool = False
    ignored: frozenset[str] = frozenset()


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
class FeedItem:
    """A change, or a heartbeat without one.

    Attributes:
        position: Where to go on once this and everything before it was dealt with.
    """

    change: ChangeEvent | None
    position: Position


class ChangeFeed(Protocol):
    """Yields changes, in order, each at least once."""

    @property
    def mode(self) -> str:
        """Return the mode: `change_stream` or `polling`."""

    async def now(self) -> Position | None:
        """Return the current position, or None if the feed cannot resume from it.

        Raises:
            DatabaseUnavailable: It cannot be asked.
        """

    def changes(self, after: Position | None) -> AsyncGenerator[FeedItem, None]:
        """Yield every change after a position, or from now on, and heartbeats.

        The first item is a heartbeat: changes from then on are not missed. When the iterator
        ends, the reader should start again.

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
        self._ignored = {item.collection: item.ignored for item in watched if item.ignored}
        links = {item.link for item in watched if item.link is not None}
        max_ignored = max((len(item.ignored) for item in watched), default=0)
        self._pipeline: list[Mapping[str, Any]] = [
            # Events that end a stream have no collection.
            {"$match": {"ns.coll": {"$in": [*self._links, None]}}},
            {
                "$project": {
                    "ns": 1,
                    "documentKey": 1,
                    "operationType": 1,
                    # Only names of fields, one more than may be ignored: an event with the whole
                    # document may exceed the server's limit, which ends the stream.
                    "touched": {"$slice": [TOUCHED, max_ignored + 1]},
                    **{f"fullDocument.{name}": 1 for name in sorted(links)},
                }
            },
        ]

    async def now(self) -> Position | None:
        """Return the current position, or None if the server has none before the first change."""
        async with self._opened(None) as stream:
            return stream.resume_token

    async def changes(self, after: Position | None) -> AsyncGenerator[FeedItem, None]:
        """Yield every change after a position, or from now on, and heartbeats."""
        has_heard = after is None
        try:
            async with self._opened(after) as stream:
                yield FeedItem(None, stream.resume_token or after)
                # A stream that the server ended returns None immediately, forever.
                while stream.alive:
                    event = await stream.try_next()
                    has_heard = True
                    change = None if event is None else self._change(event)
                    yield FeedItem(change, stream.resume_token)
        except OperationFailure as exc:
            # The position is too old, foreign or damaged, or an event is too large: servers have
            # many codes for these, with the same remedy.
            if exc.code in HISTORY_LOST_CODES or not has_heard:
                raise HistoryLost from exc
            raise DatabaseUnavailable from exc
        # Ended without an event, for example because its cursor was killed.
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
        if touched and self._ignored.get(collection, NO_FIELDS).issuperset(touched):
            return None
        name = self._links[collection]
        # None if the updated document was deleted since; the deletion follows.
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
