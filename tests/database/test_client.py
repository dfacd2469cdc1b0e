"""Connections, transactions and indexes, against a real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import ASCENDING, IndexModel, ReadPreference
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from typing_extensions import override

from packages.database.client import (
    Database,
    IndexConflict,
    MongoAddressError,
    TopologyError,
    Transaction,
)
from packages.database.errors import (
    DatabaseUnavailable,
    MongoLoginError,
    is_unreachable,
    translated,
    translates_driver_errors,
)
from packages.database.monitoring import CommandTimer, PoolWatcher
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon

pytestmark = pytest.mark.wire

NOBODY_LISTENS = "mongodb://127.0.0.1:1/test"
SENTINEL = "s3ntinel"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "own") as daemon:
        yield daemon


async def count(database: Database) -> int:
    return await database.collection("rows").count_documents({})


@pytest.mark.requirement("R-022")
async def test_a_transaction_that_fails_writes_nothing(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await database.collection("rows").insert_one({"_id": 1}, session=tx)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await database.transaction(work)

    assert await count(database) == 0


@pytest.mark.requirement("R-022")
async def test_a_transaction_writes_everything_and_returns_the_result(database: Database) -> None:
    async def work(tx: Transaction) -> str:
        await database.collection("rows").insert_one({"_id": 1}, session=tx)
        await database.collection("others").insert_one({"_id": 2}, session=tx)
        return "done"

    assert await database.transaction(work) == "done"
    assert await count(database) == 1
    assert await database.collection("others").count_documents({}) == 1


@pytest.mark.requirement("R-022")
async def test_a_cancelled_transaction_writes_nothing(database: Database) -> None:
    inserted = asyncio.Event()

    async def work(tx: Transaction) -> None:
        await database.collection("rows").insert_one({"_id": 1}, session=tx)
        inserted.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(database.transaction(work))
        async with asyncio.timeout(10):
            await inserted.wait()
        task.cancel()

    assert await count(database) == 0


@pytest.mark.requirement("R-023")
async def test_a_transaction_in_conflict_is_run_again(database: Database) -> None:
    rows = database.collection("rows")
    await rows.insert_one({"_id": 1, "by": "nobody"})
    runs: list[int] = []

    async def work(tx: Transaction) -> None:
        runs.append(len(runs))
        await rows.find_one({"_id": 1}, session=tx)
        if len(runs) == 1:
            await rows.update_one({"_id": 1}, {"$set": {"by": "another"}})
        await rows.update_one({"_id": 1}, {"$set": {"seen": len(runs)}}, session=tx)

    await database.transaction(work)

    assert runs == [0, 1]
    assert await rows.find_one({"_id": 1}) == {"_id": 1, "by": "another", "seen": 2}


@pytest.mark.requirement("R-023")
async def test_a_conflict_inside_a_repository_is_run_again_too(database: Database) -> None:
    @translates_driver_errors
    class Rows:
        async def mark(self, runs: int, tx: Transaction) -> None:
            await database.collection("rows").update_one(
                {"_id": 1}, {"$set": {"seen": runs}}, session=tx
            )

    await database.collection("rows").insert_one({"_id": 1})
    runs: list[int] = []

    async def work(tx: Transaction) -> None:
        runs.append(len(runs))
        await database.collection("rows").find_one({"_id": 1}, session=tx)
        if len(runs) == 1:
            await database.collection("rows").update_one({"_id": 1}, {"$set": {"by": "another"}})
        await Rows().mark(len(runs), tx)

    await database.transaction(work)

    assert runs == [0, 1]


async def test_a_wrong_write_in_a_transaction_is_not_run_again(database: Database) -> None:
    await database.collection("rows").insert_one({"_id": 1})
    runs: list[int] = []

    async def work(tx: Transaction) -> None:
        runs.append(len(runs))
        await database.collection("rows").insert_one({"_id": 1}, session=tx)

    with pytest.raises(DuplicateKeyError):
        await database.transaction(work)

    assert runs == [0]


async def test_a_replica_set_is_accepted(database: Database) -> None:
    await database.require_replica_set()


@pytest.mark.requirement("E-02")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_standalone_server_is_refused(tmp_path: Path) -> None:
    with start_daemon(tmp_path, "--standalone") as daemon:
        database = Database(daemon.uri, timeout_ms=5000)

        with pytest.raises(TopologyError, match="need a replica set"):
            await database.require_replica_set()

        await database.close()


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        "mongodb://host:port/",
        "mongodb://a:b:c@host/",
        f"mongodb://user:{SENTINEL}/@host/",
        f"mongodb://user:{SENTINEL}@ho st:99999/",
        "mongodb://host/a b",
        "mongodb://host/?replicaSet",
        f"localhost/{SENTINEL}",
    ],
)
async def test_a_malformed_address_is_one_sentence_without_secrets(uri: str) -> None:
    with pytest.raises(MongoAddressError) as caught:
        Database(uri, timeout_ms=100)

    assert SENTINEL not in str(caught.value)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_refused_login_is_told_from_an_absent_server(tmp_path: Path) -> None:
    with start_daemon(tmp_path, "--auth") as daemon:
        uri = daemon.uri.replace("://", f"://nobody:{SENTINEL}@")
        database = Database(uri, timeout_ms=2000)

        with pytest.raises(MongoLoginError) as caught:
            await database.require_replica_set()

        assert SENTINEL not in str(caught.value)
        await database.close()


@pytest.mark.parametrize("name", ["ping", "require_replica_set"])
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_an_absent_server_is_unavailable(name: str) -> None:
    database = Database(NOBODY_LISTENS, timeout_ms=100)

    with pytest.raises(DatabaseUnavailable):
        await getattr(database, name)()

    await database.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_transaction_on_an_absent_server_is_unavailable() -> None:
    database = Database(NOBODY_LISTENS, timeout_ms=100)

    async def work(tx: Transaction) -> None:
        await database.collection("rows").insert_one({}, session=tx)

    async with asyncio.timeout(10):
        with pytest.raises(DatabaseUnavailable):
            await database.transaction(work)

    await database.close()


@pytest.mark.requirement("R-332")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_server_that_comes_back_is_used_again(daemon: RunningDaemon) -> None:
    database = Database(f"{daemon.uri}test", timeout_ms=5000)
    await database.collection("rows").insert_one({"_id": 1})
    daemon.kill()
    with pytest.raises(DatabaseUnavailable):
        async with translated():
            await database.client.admin.command("ping", maxTimeMS=100)

    daemon.restart()

    await database.ping()
    await database.close()


async def test_a_driver_error_that_is_no_outage_passes_as_it_is(database: Database) -> None:
    @translates_driver_errors
    class Rows:
        async def insert(self) -> None:
            await database.collection("rows").insert_one({"_id": 1})

    await Rows().insert()

    with pytest.raises(DuplicateKeyError):
        await Rows().insert()


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (OperationFailure("", 91), True),
        (OperationFailure("", 11600), True),
        (OperationFailure("", 121), False),
        (ValueError(), False),
    ],
)
def test_only_an_outage_is_an_outage(error: Exception, away: bool) -> None:  # noqa: FBT001 - a table
    assert is_unreachable(error) is away


async def test_an_index_with_other_options_is_reported_and_left_alone(database: Database) -> None:
    rows = database.collection("rows")
    await rows.create_index([("a", ASCENDING)], name="theirs")
    wanted = IndexModel([("a", ASCENDING)], name="theirs", unique=True)
    missing = IndexModel([("b", ASCENDING)])

    conflicts = await database.ensure_indexes("rows", [wanted, missing])

    assert [(item.collection, item.index) for item in conflicts] == [("rows", "theirs")]
    assert isinstance(conflicts[0], IndexConflict)
    information = await rows.index_information()
    assert "unique" not in information["theirs"]
    assert "b_1" in information


async def test_an_index_that_differs_in_nothing_that_matters_is_no_conflict(
    database: Database,
) -> None:
    rows = database.collection("rows")
    await rows.create_index([("a", ASCENDING), ("b", ASCENDING)], unique=True, background=True)
    wanted = IndexModel([("a", ASCENDING), ("b", ASCENDING)], name="ours", unique=True)

    assert await database.ensure_indexes("rows", [wanted]) == []


async def test_an_index_over_the_same_fields_in_another_order_is_another_one(
    database: Database,
) -> None:
    rows = database.collection("rows")
    await rows.create_index([("a", ASCENDING), ("b", ASCENDING)], name="both")
    wanted = IndexModel([("b", ASCENDING), ("a", ASCENDING)], name="both")

    conflicts = await database.ensure_indexes("rows", [wanted])

    assert [item.index for item in conflicts] == ["both"]


async def test_indexes_are_made_once(database: Database) -> None:
    index = IndexModel([("a", ASCENDING)], unique=True)

    assert await database.ensure_indexes("rows", [index]) == []
    assert await database.ensure_indexes("rows", [index]) == []


@pytest.mark.requirement("R-033")
@pytest.mark.parametrize(
    ("uri", "name"),
    [("mongodb://h/", "jarvis"), ("mongodb://h", "jarvis"), ("mongodb://h/x", "x")],
)
async def test_the_database_is_named_by_the_address(uri: str, name: str) -> None:
    database = Database(uri, timeout_ms=100)

    assert database.db.name == name
    await database.close()


@pytest.mark.requirement("R-330")
async def test_commands_and_connections_are_reported(database_uri: str) -> None:
    commands: list[tuple[str, str, bool]] = []
    opened: list[int] = []
    in_use: list[int] = []
    timer = CommandTimer(lambda name, outcome, took: commands.append((name, outcome, took >= 0)))
    watcher = PoolWatcher(opened.append, in_use.append, failed=lambda: None)
    database = Database(database_uri, timeout_ms=5000, listeners=[timer, watcher])

    await database.ping()
    with pytest.raises(OperationFailure):
        await database.db.command("noSuchCommand")
    await database.close()

    assert commands[:2] == [("ping", "success", True), ("noSuchCommand", "failure", True)]
    assert opened.count(1) >= 1
    assert sum(opened) == 0
    assert sum(in_use) == 0


@pytest.mark.requirement("R-330")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_lost_connections_are_reported(daemon: RunningDaemon) -> None:
    failures: list[int] = []
    watcher = PoolWatcher(lambda _: None, lambda _: None, lambda: failures.append(1))
    database = Database(f"{daemon.uri}test", timeout_ms=200, listeners=[watcher])
    await database.ping()
    assert failures == []

    daemon.kill()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()

    assert failures
    await database.close()


async def test_reads_are_the_primarys_whatever_the_connection_string_says() -> None:
    database = Database("mongodb://127.0.0.1/?readPreference=secondary", timeout_ms=100)

    assert database.collection("users").read_preference == ReadPreference.PRIMARY
    await database.close()


class _Commands(CommandListener):
    """Names of the commands that were sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @override
    def started(self, event: CommandStartedEvent) -> None:
        """Note one."""
        self.names.append(event.command_name)

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Ignore it."""

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        """Ignore it."""


async def test_a_validator_that_is_there_is_not_written_again(database_uri: str) -> None:
    commands = _Commands()
    database = Database(database_uri, timeout_ms=5000, listeners=[commands])
    first = {"$jsonSchema": {"required": ["a"]}}
    for _ in range(2):
        await database.ensure_collection("things", first)
    assert "collMod" not in commands.names

    await database.ensure_collection("things", {"$jsonSchema": {"required": ["b"]}})

    assert commands.names.count("collMod") == 1
    await database.client.drop_database(database.db.name)
    await database.close()
