"""ChangeEvent streams: what is told, and when the stream is over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from packages.database.changes import (
    ChangeEvent,
    ChangeStream,
    FeedItem,
    HistoryLost,
    Watched,
)
from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from tests.fakes.fake_mongo import OK, fake_mongo, release
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon

pytestmark = pytest.mark.wire

PATIENCE_SECONDS = 15


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "own") as daemon:
        yield daemon


async def next_heard(stream: AsyncIterator[FeedItem]) -> FeedItem:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for heard in stream:
            if heard.change is not None:
                return heard
    raise AssertionError("the stream ended")


async def next_change(stream: AsyncIterator[FeedItem]) -> ChangeEvent | None:
    return (await next_heard(stream)).change


def watching(database: Database) -> ChangeStream:
    return ChangeStream(database, [Watched("watched", "owner_id"), Watched("plain")])


async def test_changes_of_the_named_collections_are_told_with_what_they_are_about(
    database: Database,
) -> None:
    watched = database.collection("watched")
    await watched.insert_one({"_id": "before"})
    async with aclosing(watching(database).changes(None)) as stream:
        assert (await anext(stream)).change is None

        await database.collection("other").insert_one({"_id": 1})
        await watched.insert_one({"_id": "a", "owner_id": 7, "secret": "x"})
        inserted = await next_change(stream)
        await watched.update_one({"_id": "a"}, {"$set": {"b": 1}})
        updated = await next_change(stream)
        await watched.delete_one({"_id": "a"})
        deleted = await next_change(stream)
        await database.collection("plain").insert_one({"_id": "p", "owner_id": 7})
        plain = await next_change(stream)

    assert inserted == updated == ChangeEvent("watched", "a", "7")
    assert deleted == ChangeEvent("watched", "a")
    assert plain == ChangeEvent("plain", "p")


async def test_silence_is_told_too(database: Database) -> None:
    async with aclosing(watching(database).changes(None)) as stream:
        async with asyncio.timeout(PATIENCE_SECONDS):
            items = [(await anext(stream)).change, (await anext(stream)).change]

    assert items == [None, None]


async def test_a_reader_goes_on_where_it_stopped(database: Database) -> None:
    watched, feed = database.collection("watched"), watching(database)
    async with aclosing(feed.changes(None)) as stream:
        await anext(stream)
        await watched.insert_one({"_id": "a", "owner_id": 1})
        position = (await next_heard(stream)).position
    await watched.insert_one({"_id": "b", "owner_id": 2})
    await watched.delete_one({"_id": "b"})

    async with aclosing(feed.changes(position)) as stream:
        assert (await anext(stream)).change is None
        missed = [await next_change(stream), await next_change(stream)]

    assert [change and change.document_id for change in missed] == ["b", "b"]


async def test_the_present_position_is_known_before_anything_changes(database: Database) -> None:
    feed = watching(database)
    position = await feed.now()
    await database.collection("watched").insert_one({"_id": "a", "owner_id": 1})

    async with aclosing(feed.changes(position)) as stream:
        assert await next_change(stream) == ChangeEvent("watched", "a", "1")


@pytest.mark.parametrize(
    ("update", "is_reported"),
    [
        ({"$set": {"seen": 2}}, False),
        ({"$set": {"seen": 2}, "$inc": {"ours.count": 1}}, False),
        ({"$unset": {"seen": ""}}, False),
        ({"$set": {"seen": 2, "other": 2}}, True),
        ({"$set": {"seen": 2}, "$unset": {"other": ""}}, True),
        ({"$set": {"ours.other": 1}}, True),
        ({"$set": {"seen": 2, "ours.count": 2, "other": 2}}, True),
    ],
)
async def test_an_update_of_ignored_fields_alone_is_not_reported(
    database: Database, update: dict[str, Any], *, is_reported: bool
) -> None:
    collection = database.collection("watched")
    await collection.insert_one({"_id": "a", "seen": 1, "other": 1, "ours": {"count": 1}})
    ignored = frozenset({"seen", "ours.count"})
    feed = ChangeStream(database, [Watched("watched", ignored=ignored)])

    async with aclosing(feed.changes(None)) as stream:
        await anext(stream)
        await collection.update_one({"_id": "a"}, update)
        await collection.insert_one({"_id": "last"})
        first = await next_change(stream)

    assert first == ChangeEvent("watched", "a" if is_reported else "last")


async def test_an_update_of_more_than_a_message_may_hold_is_told(database: Database) -> None:
    megabytes = "x" * 7_500_000
    watched = database.collection("watched")
    await watched.insert_one({"_id": "a", "owner_id": 1, "one": megabytes})
    async with aclosing(watching(database).changes(None)) as stream:
        await anext(stream)

        # The document and what changed of it: 22 MB.
        await watched.update_one({"_id": "a"}, {"$set": {"two": megabytes}})

        assert await next_change(stream) == ChangeEvent("watched", "a", "1")


@pytest.mark.parametrize("forged", [{"_data": "82DEADBEEF"}, {"_data": "zz"}, {"other": 1}])
async def test_there_is_no_going_on_from_a_forged_position(
    database: Database, forged: dict[str, object]
) -> None:
    with pytest.raises(HistoryLost):
        await anext(watching(database).changes(forged))


def opened(command: dict[str, Any]) -> dict[str, Any]:
    """Answer that a stream is open, unless it is to go on from where there is nothing."""
    if command["pipeline"][0]["$changeStream"].get("resumeAfter") == {"_data": "unknown"}:
        return {"ok": 0, "code": 9, "errmsg": "refused"}
    token = {"_data": "00"}
    cursor = {"id": 1, "ns": "test.$cmd", "firstBatch": [], "postBatchResumeToken": token}
    return {"ok": 1, "cursor": cursor}


@pytest.mark.parametrize(
    ("code", "label", "position", "error"),
    [
        (286, "NonResumableChangeStreamError", None, HistoryLost),
        (260, "NonResumableChangeStreamError", None, HistoryLost),
        # An event of more than 16 MB, as earlier and later releases tell it.
        (280, "NonResumableChangeStreamError", None, HistoryLost),
        (10334, "", None, HistoryLost),
        # Somebody killed the cursor: it goes on where it was.
        (237, "", None, DatabaseUnavailable),
        # It does not go on from there.
        (0, "", {"_data": "unknown"}, HistoryLost),
    ],
)
async def test_what_the_server_answers_tells_whether_there_is_a_going_on(
    code: int, label: str, position: object, error: type[Exception]
) -> None:
    refused = {"ok": 0, "code": code, "errmsg": "refused", "errorLabels": [label]}
    answers = {"aggregate": opened, "getMore": lambda _: refused, "killCursors": lambda _: OK}
    with fake_mongo({**release(21), "setName": "rs0"}, answers) as server:
        database = Database(f"{server.uri}test", timeout_ms=2000)
        stream = ChangeStream(database, [Watched("watched")])
        async with aclosing(stream.changes(position)) as changes:
            with pytest.raises(error):
                await next_heard(changes)
        await database.close()

    assert server.asked.count("aggregate") == 1


async def test_a_dropped_collection_says_nothing_of_single_documents(database: Database) -> None:
    await database.collection("watched").insert_one({"_id": "a"})
    async with aclosing(watching(database).changes(None)) as stream:
        await anext(stream)

        await database.collection("watched").drop()

        with pytest.raises(HistoryLost):
            await next_change(stream)


async def test_a_stream_of_a_dropped_database_is_over(daemon: RunningDaemon) -> None:
    database = Database(f"{daemon.uri}test", timeout_ms=500)
    await database.collection("other").insert_one({"_id": "a"})
    async with aclosing(watching(database).changes(None)) as stream:
        await anext(stream)

        await database.client.drop_database("test")

        with pytest.raises(HistoryLost):
            await next_change(stream)
    await database.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_stream_of_a_killed_server_goes_on_when_it_is_back(tmp_path: Path) -> None:
    # One that forgets nothing that it acknowledged, as in production.
    daemon = start_daemon(tmp_path / "own", "--sync-on-commit")
    database = Database(f"{daemon.uri}test", timeout_ms=500)
    feed = watching(database)
    async with aclosing(feed.changes(None)) as stream:
        await anext(stream)
        await database.collection("watched").insert_one({"_id": "a", "owner_id": 1})
        position = (await next_heard(stream)).position
        daemon.kill()
        with pytest.raises(DatabaseUnavailable):
            await next_heard(stream)
    daemon.restart()
    await database.collection("watched").insert_one({"_id": "b", "owner_id": 2})

    async with aclosing(feed.changes(position)) as stream:
        assert await next_change(stream) == ChangeEvent("watched", "b", "2")
    await database.close()
    daemon.kill()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_an_absent_server_has_no_stream() -> None:
    database = Database("mongodb://127.0.0.1:1/test", timeout_ms=100)

    with pytest.raises(DatabaseUnavailable):
        await anext(watching(database).changes(None))

    await database.close()
