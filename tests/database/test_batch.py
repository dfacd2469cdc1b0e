"""Writes of a transaction that are sent together."""

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import pytest
from pymongo import monitoring
from pymongo.errors import DuplicateKeyError, WriteError
from typing_extensions import override

from packages.database import batch as batch_module
from packages.database.batch import WriteBatch
from packages.database.client import Database, Transaction
from tests.fakes.older_mongo import older_mongo

pytestmark = pytest.mark.wire

MEGABYTE = "x" * 1_000_000


class Commands(monitoring.CommandListener):
    """Writes down the commands of transactions."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @override
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command.get("autocommit") is False:
            self.seen.append(event.command_name)

    @override
    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to be done."""

    @override
    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.seen.append(f"{event.command_name} failed")


class TakenError(Exception):
    """A name is taken."""


class GoneError(Exception):
    """What is to be changed is not there."""


async def gone() -> None:
    raise GoneError


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def watched(database_uri: str, commands: Commands) -> AsyncIterator[Database]:
    database = Database(database_uri, timeout_ms=5000, listeners=[commands])
    await database.collection("rows").insert_many([{"_id": 1, "n": 0}, {"_id": 2, "n": 0}])
    await database.collection("names").create_index("name", unique=True)
    await database.collection("names").insert_one({"_id": 1, "name": "taken"})
    yield database
    await database.client.drop_database(database.db.name)
    await database.close()


@pytest.fixture
async def older(
    watched: Database, database_uri: str, commands: Commands
) -> AsyncIterator[Database]:
    """Return the same database by way of a server that takes writes one by one only."""
    address = urlsplit(database_uri)
    assert address.port is not None
    async with older_mongo(address.port) as port:
        uri = database_uri.replace(f":{address.port}/", f":{port}/")
        joined = "&" if address.query else "?"
        database = Database(
            f"{uri}{joined}directConnection=true", timeout_ms=5000, listeners=[commands]
        )
        yield database
        await database.close()
    assert await watched.collection("rows").count_documents({}) >= 1


async def rows(database: Database, name: str = "rows") -> list[dict[str, object]]:
    return [row async for row in database.collection(name).find({}, sort=[("_id", 1)])]


def several(batch: WriteBatch) -> None:
    batch.insert("rows", {"_id": 3, "n": 3})
    batch.update("rows", {"_id": 1}, {"$set": {"n": 1}})
    batch.update("rows", {"_id": 2}, [{"$set": {"n": {"$add": ["$n", 2]}}}])
    batch.update("others", {"_id": 1}, {"$set": {"n": 4}}, upsert=True, unmatched=gone)


WRITTEN = [{"_id": 1, "n": 1}, {"_id": 2, "n": 2}, {"_id": 3, "n": 3}]


async def test_all_but_what_begins_a_transaction_goes_together(
    watched: Database, commands: Commands
) -> None:
    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)
        several(batch)
        await batch.send()

    await watched.transaction(work)

    assert commands.seen == ["insert", "bulkWrite", "commitTransaction"]
    assert await rows(watched) == WRITTEN
    assert await rows(watched, "others") == [{"_id": 1, "n": 4}]


async def test_a_server_that_does_not_know_how_gets_the_same_one_by_one(
    older: Database, commands: Commands
) -> None:
    async def work(tx: Transaction) -> None:
        batch = older.batch(tx)
        several(batch)
        await batch.send()

    await older.transaction(work)

    one_by_one = ["insert", "update", "update", "update", "commitTransaction"]
    assert commands.seen == [
        *("insert", "bulkWrite", "bulkWrite failed", "abortTransaction"),
        *one_by_one,
    ]
    assert await rows(older) == WRITTEN
    assert await rows(older, "others") == [{"_id": 1, "n": 4}]

    commands.seen.clear()
    await older.collection("rows").delete_one({"_id": 3})
    await older.transaction(work)

    assert commands.seen == one_by_one


async def test_what_would_be_too_long_together_goes_one_by_one(
    watched: Database, commands: Commands
) -> None:
    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)
        for number in range(10, 30):
            batch.insert("rows", {"_id": number, "text": MEGABYTE})
        await batch.send()

    await watched.transaction(work)

    assert commands.seen == [*["insert"] * 20, "commitTransaction"]
    assert len(await rows(watched)) == 22


@pytest.mark.parametrize("before", [(), ("first",), ("first", "second")])
async def test_an_update_that_finds_nothing_can_give_up_the_transaction(
    watched: Database, before: Sequence[str]
) -> None:
    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)
        for name in before:
            batch.insert("others", {"_id": name})
        batch.update("rows", {"_id": "nobody"}, {"$set": {"n": 1}}, unmatched=gone)
        batch.insert("others", {"_id": "after"})
        await batch.send()

    with pytest.raises(GoneError):
        await watched.transaction(work)

    assert await rows(watched, "others") == []


async def test_an_update_that_finds_nothing_can_be_made_up_for(watched: Database) -> None:
    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)

        async def instead() -> None:
            await watched.collection("rows").insert_one({"_id": 9, "n": 9}, session=tx)

        batch.insert("others", {"_id": 1})
        batch.update("rows", {"_id": 9}, {"$set": {"n": 1}}, unmatched=instead)
        batch.update("rows", {"_id": 8}, {"$set": {"n": 1}})
        await batch.send()

    await watched.transaction(work)

    assert (await rows(watched))[-1] == {"_id": 9, "n": 9}


@pytest.mark.parametrize("alone", [True, False])
async def test_a_refusal_is_told_in_the_terms_of_who_wrote(
    watched: Database, *, alone: bool
) -> None:
    refusals: list[WriteError] = []

    def refused(error: WriteError) -> Exception:
        refusals.append(error)
        return TakenError()

    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)
        if not alone:
            batch.insert("others", {"_id": 1})
            batch.insert("others", {"_id": 2})
        batch.insert("names", {"_id": 2, "name": "taken"}, refused=refused)
        await batch.send()

    with pytest.raises(TakenError):
        await watched.transaction(work)

    assert await rows(watched, "others") == []
    [error] = refusals
    assert isinstance(error, DuplicateKeyError)
    assert error.details is not None
    assert error.details["keyPattern"] == {"name": 1}


async def test_a_refusal_that_nobody_asked_for_is_the_drivers(watched: Database) -> None:
    async def work(tx: Transaction) -> None:
        batch = watched.batch(tx)
        batch.insert("others", {"_id": 1})
        batch.update("rows", {"_id": 1}, {"$set": {"n.of": 1}}, refused=lambda error: error)
        batch.update("rows", {"_id": 2}, {"$set": {"n": 1}})
        await batch.send()

    with pytest.raises(WriteError) as caught:
        await watched.transaction(work)

    assert caught.value.code == 28
    assert await rows(watched, "others") == []


async def test_a_conflict_has_the_transaction_tried_again(watched: Database) -> None:
    tries = 0

    async def work(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        await watched.collection("rows").find_one({"_id": 1}, session=tx)
        if tries == 1:
            await watched.collection("rows").update_one({"_id": 1}, {"$inc": {"n": 5}})
        batch = watched.batch(tx)
        batch.insert("others", {"_id": 1})
        batch.update("rows", {"_id": 1}, {"$inc": {"n": 1}}, unmatched=gone)
        await batch.send()

    await watched.transaction(work)

    assert tries == 2
    assert (await rows(watched))[0] == {"_id": 1, "n": 6}
    assert await rows(watched, "others") == [{"_id": 1}]


async def test_nothing_is_sent_of_nothing(watched: Database, commands: Commands) -> None:
    async def work(tx: Transaction) -> None:
        await watched.batch(tx).send()

    await watched.transaction(work)

    assert commands.seen == []


def test_what_is_sent_together_fits_into_one_document() -> None:
    assert batch_module.MAX_BYTES < 16 * 1024 * 1024 - 1_000_000
