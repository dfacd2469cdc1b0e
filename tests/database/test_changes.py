"""Change streams: what is told, and when the stream is over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from packages.database.changes import Change, watch
from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon

pytestmark = pytest.mark.wire

PATIENCE_SECONDS = 15


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "own") as daemon:
        yield daemon


async def next_change(stream: AsyncIterator[Change | None]) -> Change:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for change in stream:
            if change is not None:
                return change
    raise AssertionError("the stream ended")


async def test_changes_of_the_named_collections_are_told_with_their_links(
    database: Database,
) -> None:
    await database.collection("watched").insert_one({"_id": "before"})
    async with aclosing(watch(database, ["watched"], ["owner_id"])) as stream:
        assert await anext(stream) is None

        await database.collection("other").insert_one({"_id": 1})
        await database.collection("watched").insert_one({"_id": "a", "owner_id": 7, "secret": "x"})
        inserted = await next_change(stream)
        await database.collection("watched").update_one({"_id": "a"}, {"$set": {"b": 1}})
        updated = await next_change(stream)
        await database.collection("watched").delete_one({"_id": "a"})
        deleted = await next_change(stream)

    assert inserted == updated == Change("watched", "a", {"owner_id": "7"})
    assert deleted == Change("watched", "a", {})


async def test_silence_is_told_too(database: Database) -> None:
    async with aclosing(watch(database, ["watched"], [])) as stream:
        async with asyncio.timeout(PATIENCE_SECONDS):
            items = [await anext(stream), await anext(stream)]

    assert items == [None, None]


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_stream_of_a_killed_server_is_over(daemon: RunningDaemon) -> None:
    database = Database(f"{daemon.uri}test", timeout_ms=500)
    async with aclosing(watch(database, ["watched"], [])) as stream:
        await anext(stream)

        daemon.kill()

        with pytest.raises(DatabaseUnavailable):
            await next_change(stream)
    await database.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_an_absent_server_has_no_stream() -> None:
    database = Database("mongodb://127.0.0.1:1/test", timeout_ms=100)

    with pytest.raises(DatabaseUnavailable):
        await anext(watch(database, ["watched"], []))

    await database.close()
