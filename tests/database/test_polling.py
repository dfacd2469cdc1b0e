"""Changes told by asking: on a server without change streams, and only what changed."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId

from packages.database import polling
from packages.database.changes import ChangeEvent, FeedItem, Watched
from packages.database.client import Database
from packages.database.errors import ReplicaSetNeeded
from packages.database.polling import Polling, polling_indexes
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

WATCHED = (
    Watched("owners", is_counted=True),
    Watched("rows", "owner_id", "updated_at", is_counted=True),
    Watched("people"),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path_factory.mktemp("own"), "--standalone") as daemon:
        yield daemon


@pytest_asyncio.fixture(loop_scope="module")
async def database(daemon: RunningDaemon) -> AsyncIterator[Database]:
    database = Database(f"{daemon.uri}test", timeout_ms=2000)
    for name, indexes in polling_indexes(WATCHED).items():
        await database.ensure_indexes(name, indexes)
    yield database
    await database.client.drop_database("test")
    await database.close()


class Rounds:
    """Steps through rounds of polling, one after another."""

    def __init__(self, feed: AsyncIterator[FeedItem]) -> None:
        self._feed = feed
        self.position: Any = None

    async def next(self) -> set[ChangeEvent]:
        """Return what the next round tells."""
        told: set[ChangeEvent] = set()
        async for heard in self._feed:
            if heard.change is None:
                self.position = heard.position
                break
            told.add(heard.change)
        return told


async def at_once(_seconds: float) -> None:
    """Poll without a pause."""


def feed(database: Database) -> Polling:
    now = NOW + timedelta(days=1)
    return Polling(database, WATCHED, now=lambda: now, sleep=at_once, seconds=0.5)


def row(owner: str, name: str, at: datetime = NOW) -> dict[str, Any]:
    return {"_id": f"{owner}{name}", "owner_id": owner, "updated_at": at}


async def test_nothing_is_told_of_what_was_there(database: Database) -> None:
    await database.collection("rows").insert_many([row("a", "1"), row("b", "1")])
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)

        assert [await rounds.next() for _ in range(4)] == [set()] * 4


async def test_what_came_changed_and_went_is_told_by_what_it_is_about(database: Database) -> None:
    rows = database.collection("rows")
    await rows.insert_many([row("a", "1"), row("b", "1"), row("c", "1")])
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        assert await rounds.next() == await rounds.next() == set()

        await rows.insert_one(row("a", "2", NOW + timedelta(seconds=1)))
        added = await rounds.next()
        later = NOW + timedelta(seconds=2)
        await rows.update_one({"_id": "b1"}, {"$set": {"updated_at": later}})
        changed = await rounds.next()
        await rows.delete_one({"_id": "c1"})
        removed = await rounds.next()

        assert added == {ChangeEvent("rows", "", "a")}
        assert changed == {ChangeEvent("rows", "", "b")}
        assert removed == {ChangeEvent("rows", "", "c")}
        assert await rounds.next() == set()


async def test_a_row_that_goes_while_another_comes_is_missed_by_neither(
    database: Database,
) -> None:
    rows = database.collection("rows")
    await rows.insert_one(row("gone", "1"))
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        await rows.delete_one({"_id": "gone1"})
        await rows.insert_one(row("new", "1", NOW + timedelta(seconds=1)))

        assert await rounds.next() | await rounds.next() == {
            ChangeEvent("rows", "", "gone"),
            ChangeEvent("rows", "", "new"),
        }


async def test_a_clock_that_is_behind_by_seconds_loses_no_change(database: Database) -> None:
    rows = database.collection("rows")
    await rows.insert_many([row("a", "1"), row("b", "1", NOW - timedelta(minutes=1))])
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        behind = NOW - timedelta(seconds=3)
        await rows.update_one({"_id": "b1"}, {"$set": {"updated_at": behind}})

        assert await rounds.next() | await rounds.next() == {ChangeEvent("rows", "", "b")}


async def test_many_changes_at_once_are_told_once_for_each_owner_and_remembered_by_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "RECENT", 10)
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        await database.collection("rows").insert_many(
            [row(owner, str(number)) for owner in "ab" for number in range(50)]
        )

        told = await rounds.next() | await rounds.next()

        assert told == {ChangeEvent("rows", "", "a"), ChangeEvent("rows", "", "b")}
        assert rounds.position["rows"].recent == frozenset()
        assert await rounds.next() == set()


async def test_documents_themselves_are_told_too_and_those_without_time_when_they_come_or_go(
    database: Database,
) -> None:
    owners, people = database.collection("owners"), database.collection("people")
    kept = ObjectId()
    await owners.insert_one({"_id": kept, "updatedAt": NOW})
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        timeless = (await owners.insert_one({})).inserted_id
        await people.insert_one({})
        came = await rounds.next() | await rounds.next()
        await owners.delete_one({"_id": kept})
        went = await rounds.next()

    assert came == {ChangeEvent("owners", str(timeless)), ChangeEvent("people", "")}
    assert went == {ChangeEvent("owners", str(kept))}


async def test_a_reader_goes_on_where_it_stopped(database: Database) -> None:
    rows = database.collection("rows")
    await rows.insert_one(row("a", "1"))
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        position = rounds.position
    await rows.insert_one(row("b", "1", NOW + timedelta(seconds=1)))

    async with aclosing(feed(database).changes(position)) as heard:
        rounds = Rounds(heard)
        assert await rounds.next() == set()
        assert await rounds.next() == {ChangeEvent("rows", "", "b")}


async def test_after_many_rounds_it_is_time_to_begin_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "RECHECK_SECONDS", 1.0)

    assert len([heard async for heard in feed(database).changes(None)]) == 3


async def test_nothing_is_changed_without_a_transaction(database: Database) -> None:
    async def write(_tx: object) -> None:
        raise AssertionError

    assert await database.is_standalone()
    with pytest.raises(ReplicaSetNeeded):
        await database.transaction(write)


@pytest.mark.parametrize("stamp", [datetime(9999, 1, 1, tzinfo=UTC), {"a": 1}, []])
async def test_a_time_of_another_program_hides_no_change(
    database: Database, stamp: object
) -> None:
    rows = database.collection("rows")
    await rows.insert_many([row("a", "1"), {**row("odd", "1"), "updated_at": stamp}])
    async with aclosing(feed(database).changes(None)) as heard:
        rounds = Rounds(heard)
        await rounds.next()
        await rounds.next()

        await rows.update_one({"_id": "a1"}, {"$set": {"updated_at": NOW + timedelta(seconds=1)}})

        assert await rounds.next() == {ChangeEvent("rows", "", "a")}
        assert await rounds.next() == set()
