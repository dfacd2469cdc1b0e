"""Feed of changes by polling, for servers without change streams.

While nothing changes, a round costs two small queries for each collection: the number of
documents, and those with a newer time than the ones seen. Only if one of them shows a change,
documents are counted by link, which detects deletions. Memory is bounded by the number of links,
not by that of documents.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import IndexModel

from packages.database.changes import ChangeEvent, FeedItem, Position, Watched, row_id
from packages.database.client import Database, Doc
from packages.database.errors import translated
from packages.database.stored import EARLIEST

OVERLAP = timedelta(seconds=5)
"""How far the clocks of writers may differ without missing a change."""

RECENT = 1_000
"""Maximum number of documents remembered from that time; if more changed at once, none is."""

RECHECK_SECONDS = 300.0
"""Interval after which everything is read again: a raw write may leave the time unchanged."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """State of a collection at the last poll.

    Attributes:
        floor: Documents up to this time are known.
        recent: Ids and times of known documents after it.
        counts: Documents by what they are about.
    """

    count: int
    newest: datetime | None
    floor: datetime | None
    recent: frozenset[tuple[Any, Any]]
    counts: Mapping[str, int]


class Polling:
    """Implements `ChangeFeed` by polling.

    Args:
        now: Returns the current time. Later times in documents are ignored.
        sleep: Waits a number of seconds.
        seconds: How long to wait between two rounds.
    """

    mode = "polling"

    def __init__(
        self,
        database: Database,
        watched: Sequence[Watched],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
        seconds: float,
    ) -> None:
        self._database = database
        self._watched = watched
        self._now = now
        self._sleep = sleep
        self._seconds = seconds
        self._rounds = max(int(RECHECK_SECONDS / seconds), 1)

    async def now(self) -> Position | None:
        """Return the current state of all collections."""
        async with translated():
            return {item.collection: await self._look(item, None) for item in self._watched}

    async def changes(self, after: Position | None) -> AsyncGenerator[FeedItem, None]:
        """Yield every change since a position, or from now on, and heartbeats."""
        seen: dict[str, _Seen] = dict(after if after is not None else await self.now() or {})
        yield FeedItem(None, dict(seen))
        for _ in range(self._rounds):
            changes: list[ChangeEvent] = []
            async with translated():
                for item in self._watched:
                    before = seen[item.collection]
                    seen[item.collection] = await self._look(item, before, changes)
            # The position follows the whole round: a change may be yielded twice, never missed.
            position = dict(seen)
            for change in changes:
                yield FeedItem(change, None)
            yield FeedItem(None, position)
            await self._sleep(self._seconds)

    async def _look(
        self, item: Watched, before: _Seen | None, changes: list[ChangeEvent] | None = None
    ) -> _Seen:
        """Return the current state of a collection, and add changes to *changes*."""
        collection = self._database.collection(item.collection)
        reported: list[ChangeEvent] = [] if changes is None else changes
        count = await collection.estimated_document_count()
        latest = self._now() + OVERLAP
        newest = before.newest if before is not None else await self._newest(item, latest)
        floor = before.floor if before is not None else _earlier(newest)
        query: Doc = {item.stamp: {"$type": "date"} if floor is None else {"$gt": floor}}
        fields = {"_id": 1, item.stamp: 1, **({item.link: 1} if item.link else {})}
        found: set[tuple[Any, Any]] = set()
        about: dict[ChangeEvent, None] = {}
        async for row in collection.find(query, fields, batch_size=RECENT):
            moment = row.get(item.stamp)
            if isinstance(moment, datetime) and (newest or EARLIEST) < moment <= latest:
                newest = moment
            # By text: an id, or the value of a time field, may be of an unhashable type.
            key = (row_id(row["_id"]), moment if isinstance(moment, datetime) else None)
            if len(found) <= RECENT:
                found.add(key)
            if before is not None and key not in before.recent:
                about[_change_of(item, row)] = None
        reported += about
        counts = before.counts if before is not None else {}
        if item.is_counted and (before is None or about or count != before.count):
            counts = await self._counts(item)
            reported += [_gone(item, key) for key in _fewer(before, counts)]
        elif before is not None and count != before.count and not about:
            reported.append(ChangeEvent(item.collection, ""))
        if len(found) > RECENT:
            return _Seen(count, newest, newest, frozenset(), counts)
        floor = _later(_earlier(newest), floor)
        kept = frozenset(key for key in found if _is_after(key[1], floor))
        return _Seen(count, newest, floor, kept, counts)

    async def _newest(self, item: Watched, latest: datetime) -> datetime | None:
        collection = self._database.collection(item.collection)
        query = {item.stamp: {"$lte": latest}}
        row = await collection.find_one(query, {item.stamp: 1}, sort=[(item.stamp, -1)])
        moment = None if row is None else row.get(item.stamp)
        return moment if isinstance(moment, datetime) else None

    async def _counts(self, item: Watched) -> dict[str, int]:
        collection = self._database.collection(item.collection)
        if item.link is None:
            return {str(row["_id"]): 1 async for row in collection.find({}, {"_id": 1})}
        grouped: list[Doc] = [{"$group": {"_id": f"${item.link}", "count": {"$sum": 1}}}]
        return {str(row["_id"]): row["count"] async for row in await collection.aggregate(grouped)}


def polling_indexes(watched: Sequence[Watched]) -> dict[str, list[IndexModel]]:
    """Return the indexes that keep each round from reading whole collections."""
    return {
        item.collection: [IndexModel([(item.stamp, 1)], name="registry_polling")]
        for item in watched
    }


def _change_of(item: Watched, row: Mapping[str, Any]) -> ChangeEvent:
    if item.link is None:
        return ChangeEvent(item.collection, str(row["_id"]))
    return ChangeEvent(item.collection, "", str(row.get(item.link)))


def _gone(item: Watched, key: str) -> ChangeEvent:
    if item.link is None:
        return ChangeEvent(item.collection, key)
    return ChangeEvent(item.collection, "", key)


def _fewer(before: _Seen | None, counts: Mapping[str, int]) -> list[str]:
    """Return the links whose count changed: fewer, or more without a newer time."""
    if before is None:
        return []
    keys = {*before.counts, *counts}
    return [key for key in keys if before.counts.get(key) != counts.get(key)]


def _earlier(moment: datetime | None) -> datetime | None:
    return None if moment is None else max(moment, EARLIEST + OVERLAP) - OVERLAP


def _later(moment: datetime | None, floor: datetime | None) -> datetime | None:
    return floor if moment is None or (floor is not None and floor > moment) else moment


def _is_after(moment: object, floor: datetime | None) -> bool:
    return floor is None or (isinstance(moment, datetime) and moment > floor)
