"""What calls show of a server's health, in its stored document, on a real socket."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.monitoring import CommandListener, CommandStartedEvent
from typing_extensions import override

from packages.database.client import Database
from registry.audit.trail import AuditTrail
from registry.connections.tracker import ConnectionTracker
from registry.connections.writer import ConnectionWriter
from registry.core.metrics import Metrics
from registry.servers.errors import ServerUnusableError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.storage.health import ServerHealth
from registry.servers.storage.repository import ServerRepository
from tests.fakes.clock import NOON, FakeClock

pytestmark = pytest.mark.wire

SERVER = ObjectId("5" * 24)
ID = str(SERVER)
BEFORE = NOON - timedelta(hours=1)
DOCUMENT = {
    "_id": SERVER,
    "serverName": "demo",
    "config": {"url": "http://example.com", "type": "sse", "theirs": {"deep": [1]}},
    "author": ObjectId("a" * 24),
    "status": "active",
    "lastConnected": BEFORE,
    "createdAt": BEFORE,
    "updatedAt": BEFORE,
    "registry": {"auto_expose": "all"},
    "unknown": "theirs",
}
TROUBLE = {"lastError": BEFORE, "errorMessage": "It was away."}


@pytest.fixture
def health(
    database: Database, repositories: ServerRepositories, audit: AuditTrail
) -> ServerHealth:
    return ServerHealth(
        database, repositories.servers, audit, failures_until_error=3, interval_seconds=60
    )


async def store(database: Database, **changes: Any) -> dict[str, Any]:
    document = {**DOCUMENT, **changes}
    await database.collection("mcpservers").insert_one(document)
    return document


async def stored(database: Database) -> dict[str, Any]:
    found = await database.collection("mcpservers").find_one({"_id": SERVER})
    assert found is not None
    return found


async def recorded(database: Database) -> list[tuple[str, Any]]:
    rows = await database.collection("audit_logs").find({}).sort("_id", 1).to_list()
    return [(row["username"], row["changes"]) for row in rows]


@pytest.mark.requirement("R-286")
async def test_a_success_writes_when_and_clears_what_is_stored_of_failures(
    database: Database, health: ServerHealth
) -> None:
    before = await store(
        database, **TROUBLE, registry={"auto_expose": "all", "consecutive_failures": 2}
    )

    is_written = await health.connected(ID, NOON)

    expected = {**before, "lastConnected": NOON, "registry": {"auto_expose": "all"}}
    del expected["lastError"], expected["errorMessage"]
    assert (is_written, await stored(database)) == (True, expected)
    assert await recorded(database) == []


@pytest.mark.requirement("R-287")
async def test_a_failure_writes_when_and_why_and_touches_nothing_else(
    database: Database, health: ServerHealth
) -> None:
    before = await store(database)

    await health.failed(ID, NOON, "It is away.", failures=1, is_after_success=False)

    assert await stored(database) == {
        **before,
        "lastError": NOON,
        "errorMessage": "It is away.",
        "registry": {"auto_expose": "all", "consecutive_failures": 1},
    }
    assert await recorded(database) == []


@pytest.mark.requirement("R-280")
@pytest.mark.requirement("R-287")
async def test_repeated_failures_make_an_active_server_one_in_error_which_is_recorded(
    database: Database, health: ServerHealth
) -> None:
    before = await store(database)
    statuses = []

    for _ in range(4):
        await health.failed(ID, NOON, "It is away.", failures=1, is_after_success=False)
        statuses.append((await stored(database))["status"])

    assert statuses == ["active", "active", "error", "error"]
    assert (await stored(database))["updatedAt"] == before["updatedAt"]
    assert await recorded(database) == [
        ("operator", {"before": {"status": "active"}, "after": {"status": "error"}})
    ]


@pytest.mark.requirement("R-287")
async def test_failures_after_a_success_that_nobody_wrote_count_anew(
    database: Database, health: ServerHealth
) -> None:
    await store(database, registry={"consecutive_failures": 2})

    await health.failed(ID, NOON, "It is away.", failures=1, is_after_success=True)

    document = await stored(database)
    assert (document["status"], document["registry"]["consecutive_failures"]) == ("active", 1)


@pytest.mark.requirement("R-286")
async def test_a_server_in_error_comes_back_by_a_success_which_is_recorded(
    database: Database, health: ServerHealth
) -> None:
    before = await store(database, **TROUBLE, status="error", registry={"consecutive_failures": 7})

    is_written = await health.connected(ID, NOON)

    document = await stored(database)
    assert is_written
    assert (document["status"], document["lastConnected"]) == ("active", NOON)
    assert {"lastError", "errorMessage"}.isdisjoint(document)
    assert document["updatedAt"] == before["updatedAt"]
    assert await recorded(database) == [
        ("operator", {"before": {"status": "error"}, "after": {"status": "active"}})
    ]


@pytest.mark.requirement("R-280")
async def test_a_server_that_was_turned_off_is_never_touched(
    database: Database, health: ServerHealth
) -> None:
    before = await store(database, **TROUBLE, status="inactive")

    await health.connected(ID, NOON)
    for _ in range(5):
        await health.failed(ID, NOON, "It is away.", failures=1, is_after_success=False)

    assert await stored(database) == before
    assert await recorded(database) == []


async def test_a_document_without_a_status_is_active(
    database: Database, health: ServerHealth
) -> None:
    document = dict(DOCUMENT)
    del document["status"]
    await database.collection("mcpservers").insert_one(document)

    await health.failed(ID, NOON, "It is away.", failures=3, is_after_success=False)

    assert (await stored(database))["status"] == "error"


@pytest.mark.requirement("R-290")
async def test_what_another_process_has_just_written_is_not_written_again(
    database: Database, health: ServerHealth
) -> None:
    before = await store(database, lastConnected=NOON - timedelta(seconds=10))

    is_written = await health.connected(ID, NOON)

    assert (is_written, await stored(database)) == (False, before)


async def test_news_that_come_late_undo_nothing_that_is_newer(
    database: Database, health: ServerHealth
) -> None:
    later = NOON + timedelta(seconds=1)
    before = await store(database, lastError=later, errorMessage="It is away.")

    has_succeeded = await health.connected(ID, NOON)
    after_success = await stored(database)
    await database.collection("mcpservers").update_one(
        {"_id": SERVER}, {"$set": {"lastConnected": later}}
    )
    has_failed = await health.failed(ID, NOON, "Too late.", failures=3, is_after_success=False)

    assert (has_succeeded, after_success) == (False, before)
    assert (has_failed, (await stored(database))["errorMessage"]) == (False, "It is away.")


async def test_many_processes_that_agree_change_a_status_once(
    database: Database, health: ServerHealth
) -> None:
    await store(database)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            failure = health.failed(ID, NOON, "It is away.", failures=3, is_after_success=False)
            group.create_task(failure)

    assert len(await recorded(database)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"registry": "text"},
        {"registry": {"consecutive_failures": "many"}},
    ],
)
async def test_a_document_with_no_place_for_it_is_left_as_it_is(
    database: Database, health: ServerHealth, odd: dict[str, Any]
) -> None:
    before = await store(database, **odd)

    with pytest.raises(ServerUnusableError):
        await health.failed(ID, NOON, "It is away.", failures=1, is_after_success=False)

    assert await stored(database) == before


@pytest.mark.parametrize(
    "odd", [{"lastConnected": "never"}, {"lastError": 5}, {"lastConnected": None}]
)
async def test_odd_times_are_replaced(
    database: Database, health: ServerHealth, odd: dict[str, Any]
) -> None:
    await store(database, **odd)

    await health.connected(ID, NOON)

    document = await stored(database)
    assert (document["lastConnected"], "lastError" in document) == (NOON, False)


async def test_a_server_that_is_gone_is_not_made_again(
    database: Database, health: ServerHealth
) -> None:
    has_connected = await health.connected(ID, NOON)
    has_failed = await health.failed(ID, NOON, "It is away.", failures=3, is_after_success=False)

    assert (has_connected, has_failed) == (False, False)
    assert await database.collection("mcpservers").count_documents({}) == 0


class Writes(CommandListener):
    """Counts what is sent to a database that changes something."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, Any]] = []

    @override
    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in {"insert", "update", "delete", "findAndModify"}:
            self.commands.append((event.command_name, event.command.get("updates")))

    @override
    def succeeded(self, event: object) -> None:
        """Hear nothing."""

    @override
    def failed(self, event: object) -> None:
        """Hear nothing."""


@pytest.mark.requirement("R-280")
@pytest.mark.requirement("R-290")
async def test_a_thousand_connections_made_and_lost_write_nothing_but_when(
    database_uri: str, database: Database, audit: AuditTrail
) -> None:
    await store(database)
    writes, clock, metrics = Writes(), FakeClock(), Metrics()
    counted = Database(database_uri, timeout_ms=5000, listeners=[writes])
    servers = ServerRepository(counted)
    records = ServerHealth(counted, servers, audit, failures_until_error=3, interval_seconds=60)
    writer = ConnectionWriter(
        records, interval_seconds=60, max_servers=10, clock=clock, metrics=metrics
    )
    tracker = ConnectionTracker(
        writer,
        remembered_seconds=300,
        max_entries=10,
        failures_until_error=3,
        clock=clock,
        metrics=metrics,
    )

    for _ in range(1000):
        tracker.began(ID, BEFORE, None)
        tracker.answered(ID, BEFORE, None)
        tracker.completed(ID, BEFORE, None)
        tracker.dropped(ID, None)
        await writer.write_due()
        clock.move(0.05)
    await writer.close()
    await counted.close()

    assert [name for name, _ in writes.commands] == ["update"]
    (update,) = writes.commands[0][1]
    assert update["u"]["$max"] == {"lastConnected": NOON}
    assert set(update["u"]) == {"$max", "$unset"}
    after = await stored(database)
    assert (after["status"], after["updatedAt"]) == ("active", BEFORE)
