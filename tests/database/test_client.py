"""Connections, transactions and indexes, against a real server."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pymongo import ASCENDING, TEXT, IndexModel, ReadPreference
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
    Transaction,
    UnsupportedServerError,
    index_keys,
)
from packages.database.errors import (
    DatabaseUnavailable,
    MongoLoginError,
    is_unreachable,
    translated,
    translates_driver_errors,
)
from packages.database.monitoring import CommandTimer, PoolWatcher
from packages.database.schema import prepare
from tests.fakes.fake_mongo import OK, UNKNOWN_COMMAND, Answer, fake_mongo, release
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon

pytestmark = pytest.mark.wire

UNKNOWN_HELLO: dict[str, Answer] = {"hello": lambda _: UNKNOWN_COMMAND}
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
        async with asyncio.timeout(30):
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


def build(version: str) -> dict[str, Answer]:
    return {"buildInfo": lambda _: {"ok": 1, "version": version}}


@pytest.mark.requirement("E-02")
@pytest.mark.parametrize(
    ("hello", "answers", "problem"),
    [
        (release(21), {}, "need a replica set"),
        ({**release(21), "msg": "isdbgrid"}, {}, "a sharded cluster .mongos., which is not"),
        (
            {**release(13), "setName": "rs0"},
            build("5.0.31"),
            "MongoDB 5.0.31 is too old: release 6.0 or later is needed",
        ),
        # Older ones know no `hello`, and older ones still are refused by the driver.
        ({**release(9), "setName": "rs0"}, build("4.4.0") | UNKNOWN_HELLO, "MongoDB 4.4.0 is too"),
        ({**release(7), "setName": "rs0"}, {}, "MongoDB is too old: release 6.0 or later"),
    ],
    ids=["standalone", "sharded", "5.0", "4.4", "4.0"],
)
async def test_a_server_that_cannot_be_used_is_refused(
    hello: dict[str, object], answers: dict[str, Answer], problem: str
) -> None:
    with fake_mongo(hello, answers) as server:
        database = Database(server.uri, timeout_ms=5000)

        with pytest.raises(UnsupportedServerError, match=problem):
            await database.require_replica_set()

        await database.close()


async def test_the_least_release_is_accepted_and_a_standalone_one_can_be_read() -> None:
    with fake_mongo(release(17)) as server:
        database = Database(server.uri, timeout_ms=5000)

        await database.require_supported()

        assert await database.is_standalone()
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

    async with asyncio.timeout(30):
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


@pytest.mark.requirement("R-316")
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


async def test_a_build_that_outlasts_the_usual_timeout_is_awaited_by_all_who_need_it() -> None:
    is_built = threading.Event()

    def create(_: object) -> dict[str, Any]:
        is_built.wait(30)
        return OK

    def ping(_: object) -> dict[str, Any]:
        if server.asked.count("ping") >= 6:
            is_built.set()
        return OK

    answers = {"createIndexes": create, "ping": ping}
    with (
        fake_mongo({**release(17), "setName": "rs0"}, answers) as server,
        structlog.testing.capture_logs() as logged,
    ):
        both = [Database(server.uri, timeout_ms=50, socket_timeout_ms=50) for _ in range(2)]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each.ensure_indexes("rows", [IndexModel("a")])) for each in both
            ]
        for each in both:
            await each.close()

    assert [task.result() for task in tasks] == [[], []]
    assert server.asked.count("createIndexes") == 2
    assert {line["event"] for line in logged} == {"index_build_running", "index_build_finished"}
    assert logged[0]["collection"] == "rows"
    assert logged[0]["indexes"] == ["a_1"]


async def test_a_server_that_goes_away_during_a_build_is_not_waited_for() -> None:
    is_over = threading.Event()

    def create(_: object) -> dict[str, Any]:
        is_over.wait(30)
        return OK

    def break_off(_: object) -> dict[str, Any]:
        raise ConnectionError

    answers = {"createIndexes": create, "ping": break_off}
    with fake_mongo({**release(17), "setName": "rs0"}, answers) as server:
        database = Database(server.uri, timeout_ms=50, socket_timeout_ms=50)
        async with asyncio.timeout(20):
            with pytest.raises(DatabaseUnavailable):
                await database.ensure_indexes("rows", [IndexModel("a")])
        await database.close()
        is_over.set()


async def test_an_index_of_a_kind_that_the_server_does_not_have_costs_only_itself(
    database: Database,
) -> None:
    unusual = IndexModel([("a", TEXT)], name="words")

    conflicts = await database.ensure_indexes("rows", [unusual, IndexModel("b"), IndexModel("c")])

    assert {"b_1", "c_1"} <= (await database.collection("rows").index_information()).keys()
    assert [(item.collection, item.index) for item in conflicts] in ([], [("rows", "words")])


@pytest.mark.parametrize(
    ("made", "listed"),
    [
        (IndexModel([("a", 1), ("b", -1)]), {"key": {"a": 1, "b": -1}}),
        (
            IndexModel([("b", TEXT), ("a", TEXT)], weights={"a": 5}),
            {"key": {"_fts": "text", "_ftsx": 1}, "weights": {"a": 5, "b": 1}},
        ),
        (
            IndexModel([("z", 1), ("a", TEXT), ("c", -1)]),
            {"key": {"z": 1, "_fts": "text", "_ftsx": 1, "c": -1}, "weights": {"a": 1}},
        ),
        (
            IndexModel([("$**", TEXT)]),
            {"key": {"_fts": "text", "_ftsx": 1}, "weights": {"$**": 1}},
        ),
    ],
)
def test_an_index_is_known_again_as_servers_list_it(
    made: IndexModel, listed: dict[str, Any]
) -> None:
    assert index_keys(listed) == index_keys(made.document)


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


async def test_a_prepared_database_is_asked_once_which_collections_it_has(
    database: Database, database_uri: str
) -> None:
    commands = _Commands()
    another = Database(database_uri, timeout_ms=5000, listeners=[commands])

    assert await prepare(another, {}) == []

    assert commands.names.count("listCollections") == 1
    assert "create" not in commands.names
    await another.close()
