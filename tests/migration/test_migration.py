"""A database that an earlier release wrote is brought up to date, whatever comes between."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from bson import ObjectId
from pymongo.monitoring import CommandListener, CommandStartedEvent
from structlog.testing import LogCapture
from typing_extensions import override

from packages.database.client import Database, Transaction
from packages.database.encryption import Cipher
from registry.audit.chain import PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import OPERATOR, UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.governance.repository import GovernedTools
from registry.governance.verification import ToolVerifier
from registry.migration.service import Migration
from registry.migration.values import Plan, Report
from registry.servers.store import ServerRepositories
from registry.tools.values import ServedTool
from registry.wiring.storage import build_repositories
from tests.conftest import CREDS_IV
from tests.fakes.rest import running
from tests.migration.older import NOW, definition, digest, held, row, server
from tests.servers.test_odd_documents import ODD
from tests.versions.test_versions_api import ODD_CONFIGS

pytestmark = pytest.mark.wire

CHANGED = "Does it. Tell me more."


@pytest.fixture
def migration(
    database: Database, repositories: ServerRepositories, audit: AuditTrail
) -> Migration:
    return Migration(database, repositories, audit, clock=SystemClock())


def migrating(settings: Settings, database: Database, cipher: Cipher) -> Migration:
    """Return a migration on a connection of its own, as another process has one."""
    clock = SystemClock()
    keys = AuditKeys(cipher.derive_keys(PURPOSE))
    trail = AuditTrail(AuditRepository(database, keys), clock=clock, metrics=Metrics())
    repositories = build_repositories(settings, database, cipher, trail, clock)
    return Migration(database, repositories, trail, clock=clock)


@dataclass
class Older:
    """A database of the first release.

    Attributes:
        reading: A server with rows, one of which waits with a changed definition.
        restored: A server of ours without rows.
        theirs: A server that jarvis-api alone has read.
    """

    reading: dict[str, Any]
    restored: dict[str, Any]
    theirs: dict[str, Any]
    rows: list[dict[str, Any]]


async def older(database: Database, tools: int = 3) -> Older:
    """Write what the first release wrote."""
    listed = [definition(f"get_{number}") for number in range(tools)]
    reading = server("reading", *listed)
    restored = server("restored", definition("alpha"), definition("delete_beta"))
    theirs = server("theirs", definition("gamma"), ours=False)
    rows = [row(reading["_id"], tool, position=at) for at, tool in enumerate(listed)]
    rows[0] |= {"served_version": 3}
    rows.append(held(reading["_id"], definition("held"), definition("held", description=CHANGED)))
    new = {"registration_state": "unselected", "exposure_state": "draft"}
    hints = {"readOnlyHint": True, "destructiveHint": False}
    rows.append(row(reading["_id"], definition("new", annotations=hints), **new))
    await database.collection("mcpservers").insert_many([reading, restored, theirs])
    await database.collection("mcp_tools").insert_many(rows)
    return Older(reading, restored, theirs, rows)


async def documents(database: Database, *names: str) -> dict[str, list[dict[str, Any]]]:
    """Return everything but the audit trail, or some collections."""
    chosen = names or ("mcpservers", "mcp_tools", "tool_versions", "server_versions")
    return {
        name: await database.collection(name).find({}).sort("_id").to_list() for name in chosen
    }


async def served(repositories: ServerRepositories, found: Older) -> dict[str, list[ServedTool]]:
    return {
        each["serverName"]: await repositories.tools.served(str(each["_id"]))
        for each in (found.reading, found.restored, found.theirs)
    }


async def migrate(migration: Migration, *, every: bool = True) -> Report:
    return await migration.run(await migration.plan(every=every), OPERATOR)


def found(plan: Plan) -> dict[str, int]:
    return {step.step: len(step.wanted) for step in plan.steps}


def done(report: Report) -> dict[str, int]:
    return {step.step: step.done for step in report.steps}


ALL = {"tools_restored": 1, "tools_completed": 5, "first_versions": 3}
NOTHING = dict.fromkeys(ALL, 0)


@pytest.mark.parametrize("every", [True, False], ids=["all", "by indexes"])
async def test_what_the_first_release_wrote_is_brought_up_to_date_once(
    database: Database, migration: Migration, *, every: bool
) -> None:
    await older(database)

    first = await migrate(migration, every=every)
    after = await documents(database)
    second, plan = await migrate(migration), await migration.plan(every=True)

    assert (done(first), first.left) == (ALL, ())
    assert (done(second), found(plan)) == (NOTHING, NOTHING)
    assert await documents(database) == after


async def test_a_plan_changes_nothing_and_names_examples(
    database: Database, migration: Migration
) -> None:
    await older(database)
    before = await documents(database)

    plan = await migration.plan(every=True)

    assert found(plan) == ALL
    assert [step.examples for step in plan.steps] == [
        ("restored",),
        ("get_0", "get_1", "get_2"),
        ("reading", "restored", "theirs"),
    ]
    assert await documents(database) == before
    assert await documents(database, "audit_logs") == {"audit_logs": []}


async def test_rows_get_what_follows_from_what_they_hold(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)

    await migrate(migration)

    rows = {
        each["name"]: each
        for each in (await documents(database))["mcp_tools"]
        if each["owner_id"] == stored.reading["_id"]
    }
    before = {each["name"]: each for each in stored.rows}
    gained = {
        name: {key: value for key, value in each.items() if before[name].get(key) != value}
        for name, each in rows.items()
    }
    inferred = {
        "metadata": {"read_only": True},
        "metadata_sources": {"read_only": "inferred"},
        "facets": ["read_only:true"],
        "versions": 1,
    }
    nothing_known: dict[str, Any] = {"metadata": {}, "metadata_sources": {}, "facets": []}
    assert gained == {
        "get_0": {**inferred, "served_version": 1},
        "get_1": inferred,
        "get_2": inferred,
        "held": {
            **nothing_known,
            "versions": 2,
            "pending_version": 2,
            "review": "change",
            "facets": ["review:change"],
        },
        "new": {
            "metadata": {"read_only": True, "destructive": False},
            "metadata_sources": {"read_only": "upstream", "destructive": "upstream"},
            "facets": ["read_only:true", "destructive:false", "review:new"],
            "versions": 1,
            "review": "new",
        },
    }
    assert all(before[name].keys() <= each.keys() for name, each in rows.items())


async def test_only_a_tool_with_a_change_that_waits_gets_versions(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    (waiting,) = (each for each in stored.rows if each["name"] == "held")

    await migrate(migration)

    versions = (await documents(database))["tool_versions"]
    told = [
        (each["version"], each["state"], each["origin"], each["discovery_hash"])
        for each in versions
    ]
    assert {each["tool_id"] for each in versions} == {waiting["_id"]}
    assert told == [
        (1, "served", "discovery", waiting["discovery_hash"]),
        (2, "pending", "sync", waiting["pending_hash"]),
    ]
    assert (versions[1]["weight"], versions[1]["compared_with"]) == ("risky", 1)
    assert [change["path"] for change in versions[1]["changes"]] == ["/description"]


async def test_what_clients_get_is_the_same_but_for_tools_that_were_lost(
    database: Database, migration: Migration, repositories: ServerRepositories
) -> None:
    stored = await older(database)
    before = await served(repositories, stored)

    await migrate(migration)

    after = await served(repositories, stored)
    assert before.pop("restored") == []
    restored = after.pop("restored")
    assert after == before
    assert [json.loads(tool.definition) for tool in restored] == [
        definition("alpha"),
        definition("delete_beta"),
    ]


async def test_restored_rows_are_as_registration_writes_them(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)

    await migrate(migration)

    rows = (
        await database.collection("mcp_tools").find({"owner_id": stored.restored["_id"]}).to_list()
    )
    alpha, beta = sorted(rows, key=lambda each: each["position"])
    assert (alpha["registration_state"], alpha["exposure_state"]) == ("selected", "active")
    assert alpha["discovery_hash"] == digest(definition("alpha"))
    assert (beta["facets"], beta["versions"]) == (["destructive:true"], 1)
    theirs = {"owner_id": stored.theirs["_id"]}
    assert await database.collection("mcp_tools").count_documents(theirs) == 0


async def test_afterwards_nothing_is_wrong_with_any_tool(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    tools = ", ".join(each["name"] for each in stored.rows if each["name"] != "new")
    # The server of the other application has no rows, and is none of ours to check.
    await database.collection("mcpservers").delete_one({"_id": stored.theirs["_id"]})
    await database.collection("mcpservers").update_one(
        {"_id": stored.reading["_id"]}, {"$set": {"config.tools": tools, "numTools": 4}}
    )

    await migrate(migration)

    assert [problem async for problem in ToolVerifier(GovernedTools(database)).problems()] == []


async def test_every_server_gets_a_first_version(
    database: Database, migration: Migration, repositories: ServerRepositories, cipher: Cipher
) -> None:
    stored = await older(database)
    key = {"source": "admin", "authorization_type": "bearer", "key": cipher.encrypt_shared("sk")}
    await database.collection("mcpservers").update_one(
        {"_id": stored.theirs["_id"]}, {"$set": {"config.apiKey": key}}
    )

    await migrate(migration)

    first = await repositories.versions.get(str(stored.theirs["_id"]), 1)
    assert first is not None
    assert (first.state, first.origin, first.created_by) == ("active", "found", None)
    assert first.transport.plain["url"] == "https://theirs.example/mcp"
    assert first.transport.secrets["apiKey", "key"].value == "sk"
    servers = (await documents(database))["mcpservers"]
    assert {each["updatedAt"] for each in servers} == {NOW}


async def test_a_run_that_changed_something_has_one_record_and_others_have_none(
    database: Database, migration: Migration
) -> None:
    await older(database)

    await migrate(migration)
    await migrate(migration)

    (record,) = (await documents(database, "audit_logs"))["audit_logs"]
    assert (record["action"], record["entity_type"], record["outcome"]) == (
        "migrate",
        "database",
        "success",
    )
    assert record["user_id"] == ObjectId(OPERATOR.user_id)
    assert record["changes"] == {"after": ALL}


async def test_without_the_record_nothing_is_written(
    database: Database, migration: Migration
) -> None:
    await older(database)
    before = await documents(database)
    await database.db.command("collMod", "audit_logs", validator={"nothing": "fits"})

    await migration.at_start()

    assert await documents(database) == before


@pytest.fixture
def logs() -> Iterator[LogCapture]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture
    structlog.reset_defaults()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("CompleteTools", "FirstVersions"):
        monkeypatch.setattr(f"registry.migration.steps.{step}.batch", 1)


class Killed(BaseException):
    """Ends a run like a signal: nothing handles it."""


class Dying(Database):
    """Ends before it commits the transaction of that number."""

    number = 0
    _begun = 0

    @override
    async def transaction(self, work: Callable[[Transaction], Any], **options: Any) -> Any:
        async def dying(tx: Transaction) -> Any:
            result = await work(tx)
            self._begun += 1
            if self._begun == self.number:
                raise Killed
            return result

        return await super().transaction(dying, **options)


@pytest.mark.parametrize(("number", "left"), [(1, 9), (2, 5), (3, 3), (4, 2), (5, 1)])
async def test_after_a_kill_in_any_transaction_the_next_run_completes(
    database: Database,
    database_uri: str,
    settings: Settings,
    cipher: Cipher,
    migration: Migration,
    one_by_one: None,
    number: int,
    left: int,
) -> None:
    await older(database)
    dying = Dying(database_uri, timeout_ms=5000)
    dying.number = number

    with pytest.raises(Killed):
        await migrate(migrating(settings, dying, cipher))
    await dying.close()
    between = sum(found(await migration.plan(every=True)).values())
    second, third = await migrate(migration), await migrate(migration)

    assert between == left
    assert (sum(done(second).values()), second.left) == (left, ())
    assert done(third) == NOTHING
    records = (await documents(database, "audit_logs"))["audit_logs"]
    assert len(records) == (2 if number > 1 else 1)


@pytest.mark.parametrize("number", range(1, 9))
async def test_after_a_kill_between_any_two_writes_the_next_run_completes(
    database: Database, migration: Migration, one_by_one: None, number: int
) -> None:
    await older(database)
    batches = iter(range(1, 10))

    def advanced(_count: int) -> None:
        if next(batches) == number:
            raise Killed

    with pytest.raises(Killed):
        await migration.run(await migration.plan(every=True), OPERATOR, advanced=advanced)
    second, third = await migrate(migration), await migrate(migration)

    assert (sum(done(second).values()), second.left) == (9 - number, ())
    assert done(third) == NOTHING
    assert len((await documents(database, "audit_logs"))["audit_logs"]) == 2


async def test_documents_that_others_hold_are_waited_for_and_do_not_stop_a_start(
    database: Database,
    database_uri: str,
    migration: Migration,
    monkeypatch: pytest.MonkeyPatch,
    logs: LogCapture,
) -> None:
    stored = await older(database)
    other = Database(database_uri, timeout_ms=5000)
    monkeypatch.setattr("registry.migration.service.CONFLICT_SECONDS", 0.5)

    async with other.client.start_session() as session:
        await session.start_transaction()
        await other.collection("mcpservers").update_one(
            {"_id": stored.restored["_id"]}, {"$set": {"tags": ["held"]}}, session=session
        )
        await migration.at_start()
        told = [entry["event"] for entry in logs.entries]
        await session.abort_transaction()
    await other.close()
    second = await migrate(migration)

    assert told == ["migration_began", "migration_postponed"]
    assert done(second) == ALL


async def test_several_processes_at_once_do_it_once(
    settings: Settings, database: Database, database_uri: str, cipher: Cipher
) -> None:
    await older(database, tools=150)
    several = [Database(database_uri, timeout_ms=5000) for _ in range(3)]

    await asyncio.gather(*(migrating(settings, each, cipher).at_start() for each in several))
    after = await documents(database)
    plan = await migrating(settings, database, cipher).plan(every=True)
    for each in several:
        await each.close()

    assert found(plan) == NOTHING
    assert len({each["server_id"] for each in after["server_versions"]}) == 3
    assert len(after["server_versions"]) == 3
    assert len(after["tool_versions"]) == 2
    assert len(after["mcp_tools"]) == 154


async def test_what_cannot_be_read_is_named_and_does_not_stop_the_rest(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    owner = stored.reading["_id"]
    broken = {
        "no json": row(owner, definition("no json"), definition="{"),
        "other name": row(owner, definition("other name"), definition=json.dumps(definition("x"))),
        "half": row(owner, definition("half"), pending_hash="0" * 64),
        "count": row(owner, definition("count"), versions=2, served_version=9),
    }
    await database.collection("mcp_tools").insert_many(list(broken.values()))
    unreadable = {"key": Cipher("ee" * 32, CREDS_IV).encrypt_shared("lost")}
    servers = [
        server("locked", config={"apiKey": unreadable}),
        {**server("odd"), "config": "text"},
        {**server("closed", ours=False), "registry": "text"},
        {**server("named otherwise"), "_id": "no ObjectId"},
        server("empty", {"name": "a b", "description": "", "inputSchema": {}}),
    ]
    await database.collection("mcpservers").insert_many(servers)
    before = await documents(database, "mcp_tools")

    report = await migrate(migration)

    told = {item.name: item.reason for item in report.left}
    assert told == {
        "no json": "has a definition that is no JSON object",
        "other name": "has a definition of another name",
        "half": "has a pending_definition that is no JSON object",
        "count": "serves version 9 of 2",
        "locked": "apiKey.key cannot be decrypted",
        "odd": "does not say how it is reached",
        "closed": "is stored in a form that cannot be changed here",
        "empty": "its tool a b has a name that is longer than 128 characters or holds others "
        "than letters, digits, `_`, `-`, `.` and `/`",
    }
    places = {item.name: item.place for item in report.left}
    assert places["half"] == f"mcp_tools/{broken['half']['_id']}"
    assert places["odd"] == f"mcpservers/{servers[1]['_id']}"
    assert done(report) == {**ALL, "first_versions": 4}
    rows = {each["_id"]: each for each in (await documents(database, "mcp_tools"))["mcp_tools"]}
    unchanged = {each["_id"]: each for each in before["mcp_tools"]}
    assert [rows[each["_id"]] for each in broken.values()] == [
        unchanged[each["_id"]] for each in broken.values()
    ]


@pytest.mark.requirement("E-22")
async def test_odd_servers_of_another_program_do_not_stop_a_start(
    database: Database, migration: Migration
) -> None:
    await older(database)
    odd = [
        {
            **server(f"odd{number}"),
            "path": f"/mcp/odd{number}",
            "serverName": f"odd{number}",
            **each,
        }
        for number, each in enumerate([*ODD, *ODD_CONFIGS])
        if not {"serverName", "path"} & each.keys()
    ]
    await database.collection("mcpservers").insert_many(odd)

    report = await migrate(migration)
    again = await migration.plan(every=True)

    assert report.done > sum(ALL.values())
    closed = {item.place for item in report.left if "cannot be changed here" in item.reason}
    assert {item.place for item in again.left} == {item.place for item in report.left} - closed
    assert {f"mcpservers/{key}" for step in again.steps for key in step.wanted} == closed


async def test_a_document_that_the_database_refuses_costs_no_others(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    refused = stored.rows[1]["_id"]
    await database.db.command("collMod", "mcp_tools", validator={"_id": {"$ne": refused}})

    report = await migrate(migration)

    assert [(item.place, item.reason) for item in report.left] == [
        (f"mcp_tools/{refused}", "the database refuses what would be written")
    ]
    assert done(report) == {**ALL, "tools_completed": 4}


async def test_what_people_said_reaches_clients_and_what_contradicts_is_left(
    database: Database, migration: Migration
) -> None:
    owner = server("governed", definition("named"), definition("stale"))
    rows = [
        row(owner["_id"], definition("named"), display_name="Named"),
        row(owner["_id"], definition("stale"), display_name="S", presented='{"name":"stale"}'),
    ]
    await database.collection("mcpservers").insert_one(owner)
    await database.collection("mcp_tools").insert_many(rows)

    report = await migrate(migration)

    named, stale = (await documents(database))["mcp_tools"]
    assert json.loads(named["presented"]) == {**definition("named"), "title": "Named"}
    assert stale["presented"] == '{"name":"stale"}'
    assert stale["facets"] == []
    assert [item.name for item in report.left] == ["stale"]


async def test_what_clients_disregarded_of_a_persons_flag_is_mended(
    database: Database, migration: Migration
) -> None:
    tool = definition("wipe", annotations={"readOnlyHint": True, "title": "Wipe"})
    told = {"readOnlyHint": True, "title": "Wipe", "destructiveHint": True}
    owner = server("governed", tool)
    stored = row(
        owner["_id"],
        tool,
        tool_metadata={"destructive": True},
        metadata={"read_only": True, "destructive": True},
        metadata_sources={"read_only": "upstream", "destructive": "manual"},
        facets=["read_only:true", "destructive:true"],
        presented=json.dumps({**tool, "annotations": told}),
    )
    await database.collection("mcpservers").insert_one(owner)
    await database.collection("mcp_tools").insert_one(stored)

    report = await migrate(migration)

    (mended,) = (await documents(database))["mcp_tools"]
    assert json.loads(mended["presented"])["annotations"] == {**told, "readOnlyHint": False}
    assert mended["facets"] == ["read_only:false", "destructive:true"]
    assert report.left == ()


async def test_what_a_replica_of_an_earlier_release_writes_afterwards_is_found(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    await migrate(migration)
    tools = database.collection("mcp_tools")
    owner = stored.reading["_id"]
    later = server("later", definition("omega"))
    await database.collection("mcpservers").insert_one(later)
    await tools.insert_one(row(later["_id"], definition("omega")))
    newer = definition("get_1", description=CHANGED)
    waits = {"pending_definition": json.dumps(newer), "pending_hash": digest(newer)}
    await tools.update_one({"owner_id": owner, "name": "get_1"}, {"$set": waits})
    hints = {"destructiveHint": True}
    served_now = definition("get_2", annotations=hints)
    await tools.update_one(
        {"owner_id": owner, "name": "get_2"},
        {
            "$set": {"definition": json.dumps(served_now), "discovery_hash": digest(served_now)},
            "$inc": {"served_version": 1},
        },
    )

    at_start, every = await migration.plan(every=False), await migration.plan(every=True)
    report = await migrate(migration)

    # What became of a row that was complete shows to those who look at every row.
    assert sorted(at_start.steps[1].wanted.values()) == ["omega"]
    assert sorted(every.steps[1].wanted.values()) == ["get_1", "get_2", "omega"]
    assert list(at_start.steps[2].wanted.values()) == ["later"]
    assert report.left == ()
    exchanged = await tools.find_one({"owner_id": owner, "name": "get_2"})
    assert exchanged is not None
    assert exchanged["facets"] == ["read_only:false", "destructive:true"]
    assert exchanged["served_version"] == 1


async def test_a_server_that_was_removed_meanwhile_does_not_come_back(
    database: Database, migration: Migration
) -> None:
    stored = await older(database)
    plan = await migration.plan(every=True)
    for name in ("mcpservers", "mcp_tools"):
        await database.collection(name).delete_many({})

    report = await migration.run(plan, OPERATOR)

    assert done(report) == NOTHING
    assert stored.rows
    assert set(map(len, (await documents(database)).values())) == {0}


class Commands(CommandListener):
    """Counts commands by name."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    @override
    def started(self, event: CommandStartedEvent) -> None:
        self.names[event.command_name] += 1

    @override
    def succeeded(self, event: object) -> None: ...

    @override
    def failed(self, event: object) -> None: ...


async def test_a_start_that_has_nothing_to_do_asks_a_few_times_and_writes_nothing(
    settings: Settings,
    database: Database,
    database_uri: str,
    migration: Migration,
    cipher: Cipher,
) -> None:
    await older(database, tools=500)
    await migrate(migration)
    commands = Commands()
    watched = Database(database_uri, timeout_ms=5000, listeners=[commands])

    await migrating(settings, watched, cipher).at_start()
    await watched.close()

    assert commands.names.pop("hello", 0) >= 0
    assert set(commands.names) <= {"find", "endSessions", "ismaster"}
    assert commands.names["find"] <= 8


async def test_a_start_says_what_it_did_and_nothing_when_there_was_nothing(
    database: Database, migration: Migration, logs: LogCapture
) -> None:
    await migration.at_start()
    empty = list(logs.entries)
    stored = await older(database)
    odd = row(stored.reading["_id"], definition("odd"), definition="{")
    await database.collection("mcp_tools").insert_one(odd)

    await migration.at_start()

    assert empty == []
    assert [entry["event"] for entry in logs.entries] == [
        "migration_began",
        "migration_ended",
        "migration_left_documents",
    ]
    assert logs.entries[0]["tools_completed"] == 5
    assert (logs.entries[1]["done"], logs.entries[1]["left"]) == (9, 1)
    assert logs.entries[2]["documents"] == [
        f"mcp_tools/{odd['_id']}: has a definition that is no JSON object"
    ]


async def test_an_application_that_starts_serves_an_older_database_as_it_is_now(
    settings: Settings, database: Database, root: UserContext
) -> None:
    stored = await older(database)

    async with running(settings) as rest:
        listed = await rest.ask(root, "GET", "/registry/tools", params={"review": "pending"})
        flagged = await rest.ask(root, "GET", "/registry/tools", params={"read_only": True})
        (waiting,) = (each for each in listed.json()["tools"] if each["name"] == "held")
        history = await rest.ask(root, "GET", f"/registry/tools/{waiting['id']}/history")
        versions = await rest.call(root, "GET", f"/{stored.theirs['_id']}/versions")
        routes = {
            name: sorted(route.tools)
            for name in ("reading", "restored", "theirs")
            if (route := rest.parts.snapshot.route(name)) is not None
        }

    assert sorted(each["name"] for each in listed.json()["tools"]) == ["held", "new"]
    assert len(flagged.json()["tools"]) == 4
    assert [each["state"] for each in history.json()["versions"]] == ["pending", "served"]
    assert [each["origin"] for each in versions.json()["versions"]] == ["found"]
    assert routes == {
        "reading": ["get_0", "get_1", "get_2", "held"],
        "restored": ["alpha", "delete_beta"],
        "theirs": ["gamma"],
    }


async def test_on_a_standalone_database_nothing_is_tried(
    database: Database, repositories: ServerRepositories, audit: AuditTrail
) -> None:
    class Standalone(Database):
        @override
        async def is_standalone(self) -> bool:
            return True

    await older(database)
    before = await documents(database)
    standalone = Standalone("mongodb://127.0.0.1:1/", timeout_ms=100)

    await Migration(standalone, repositories, audit, clock=SystemClock()).at_start()
    await standalone.close()

    assert await documents(database) == before
