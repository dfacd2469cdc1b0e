"""Collections, validators and indexes as they are made at start."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import DuplicateKeyError, WriteError

from packages.database.client import Database
from packages.database.schema import prepare, wanted_indexes
from packages.models.policies import FORMER_NAME_INDEX, NAME_INDEX, AccessPolicy
from registry.wiring.storage import EXTRA_INDEXES

pytestmark = pytest.mark.wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tool(**changed: Any) -> dict[str, Any]:
    whole = {
        "source_type": "mcp",
        "owner_id": ObjectId("a" * 24),
        "name": "echo",
        "definition": "{}",
        "input_schema": "{}",
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0",
        "created_at": NOW,
        **changed,
    }
    return {name: value for name, value in whole.items() if value is not None}


@pytest.mark.requirement("R-060")
@pytest.mark.requirement("R-062")
@pytest.mark.requirement("R-063")
@pytest.mark.parametrize(
    "changed",
    [
        {"source_type": "ftp"},
        {"source_type": None},
        {"registration_state": "chosen"},
        {"registration_state": None},
        {"exposure_state": "on"},
        {"exposure_state": 1},
        {"owner_id": "a" * 24},
        {"owner_id": None},
        {"name": ""},
        {"name": None},
        {"definition": {}},
        {"definition": None},
        {"input_schema": {}},
        {"input_schema": None},
        {"discovery_hash": None},
    ],
    ids=repr,
)
async def test_the_database_itself_refuses_a_tool_in_a_bad_state(
    database: Database, changed: dict[str, Any]
) -> None:
    with pytest.raises(WriteError) as caught:
        await database.collection("mcp_tools").insert_one(tool(**changed))

    assert caught.value.code == 121


@pytest.mark.requirement("R-063")
async def test_the_database_itself_refuses_a_change_to_a_bad_state(database: Database) -> None:
    tools = database.collection("mcp_tools")
    await tools.insert_one(tool())

    with pytest.raises(WriteError):
        await tools.update_one({}, {"$set": {"exposure_state": "on"}})

    assert await tools.count_documents({"exposure_state": "active"}) == 1


@pytest.mark.requirement("R-060")
@pytest.mark.requirement("R-002")
@pytest.mark.parametrize("source_type", ["mcp", "openapi"])
async def test_one_collection_takes_tools_of_both_kinds(
    database: Database, source_type: str
) -> None:
    await database.collection("mcp_tools").insert_one(tool(source_type=source_type))

    assert await database.collection("mcp_tools").count_documents({}) == 1


@pytest.mark.requirement("R-061")
async def test_an_owners_tool_names_are_unique(database: Database) -> None:
    tools = database.collection("mcp_tools")
    await tools.insert_one(tool())
    await tools.insert_one(tool(source_type="openapi"))
    await tools.insert_one(tool(owner_id=ObjectId("b" * 24)))

    with pytest.raises(DuplicateKeyError):
        await tools.insert_one(tool())


@pytest.mark.requirement("R-044")
async def test_preparing_again_changes_nothing(database: Database) -> None:
    before = {name: await indexes(database, name) for name in wanted_indexes(EXTRA_INDEXES)}

    conflicts = await prepare(database, EXTRA_INDEXES)

    after = {name: await indexes(database, name) for name in wanted_indexes(EXTRA_INDEXES)}
    assert conflicts == []
    assert after == before


@pytest.mark.requirement("R-063")
async def test_an_older_validator_is_brought_up_to_date(database: Database) -> None:
    await database.db.command("collMod", "mcp_tools", validator={})

    await prepare(database, EXTRA_INDEXES)

    with pytest.raises(WriteError):
        await database.collection("mcp_tools").insert_one(tool(exposure_state="on"))


def policy(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "effect": "deny",
        "is_enabled": True,
        "source_type": "mcp",
        "everyone": True,
        "revision": 1,
        "created_at": NOW,
        "updated_at": NOW,
        **changed,
    }


async def test_policies_of_an_earlier_release_give_their_names_free_for_other_servers(
    database: Database,
) -> None:
    policies = database.db.get_collection(AccessPolicy.Settings.name)
    await policies.drop_index(NAME_INDEX)
    await policies.create_index("name", unique=True, name=FORMER_NAME_INDEX)
    await policies.insert_one(policy("one"))

    await asyncio.gather(*(prepare(database, EXTRA_INDEXES) for _ in range(3)))

    await policies.insert_one(policy("one", owner_id=ObjectId("a" * 24)))
    await policies.insert_one(policy("one", owner_id=ObjectId("b" * 24)))
    for taken in ({}, {"owner_id": ObjectId("a" * 24)}):
        with pytest.raises(DuplicateKeyError):
            await policies.insert_one(policy("one", **taken))
    assert FORMER_NAME_INDEX not in await policies.index_information()


@pytest.mark.requirement("R-316")
async def test_collections_that_others_own_get_no_index_and_no_validator(
    database: Database,
) -> None:
    wanted = wanted_indexes(EXTRA_INDEXES)

    assert {"users", "groups", "accessroles"}.isdisjoint(wanted)
    await database.collection("mcpservers").insert_one({"anything": True})
    await database.collection("users").insert_one({"anything": True})


@pytest.mark.parametrize("unique", [True, False])
async def test_the_index_on_names_is_left_to_the_release_of_jarvis_that_made_it(
    database: Database, *, unique: bool
) -> None:
    servers = database.collection("mcpservers")
    await servers.create_index([("serverName", 1)], unique=unique, background=True)

    conflicts = await prepare(database, EXTRA_INDEXES)

    assert conflicts == []
    assert "serverName_1_tenantId_1" in await indexes(database, "mcpservers")


@pytest.mark.requirement("R-092")
async def test_tokens_have_their_indexes(database: Database) -> None:
    found = await database.collection("tokens").index_information()

    keys = {tuple(index["key"]) for index in found.values()}
    assert {
        (("userId", 1), ("type", 1)),
        (("userId", 1), ("identifier", 1)),
        (("type", 1), ("identifier", 1)),
        (("createdAt", 1),),
        (("expiresAt", 1),),
    } <= keys
    ttl = [index for index in found.values() if tuple(index["key"]) == (("expiresAt", 1),)]
    assert [index["expireAfterSeconds"] for index in ttl] == [0]


async def indexes(database: Database, name: str) -> dict[str, Any]:
    return dict(await database.collection(name).index_information())


async def test_many_processes_may_prepare_an_empty_database_at_once(database_uri: str) -> None:
    databases = [Database(database_uri, timeout_ms=5000) for _ in range(6)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(prepare(each, EXTRA_INDEXES)) for each in databases]

    assert [task.result() for task in tasks] == [[]] * 6
    assert await prepare(databases[0], EXTRA_INDEXES) == []
    await databases[0].client.drop_database(databases[0].db.name)
    for each in databases:
        await each.close()


SAME_TOKEN = {"userId": ObjectId("a" * 24), "type": "mcp_oauth", "identifier": "mcp:x"}


async def test_what_the_other_application_may_write_twice_is_no_conflict(
    database: Database,
) -> None:
    await database.collection("tokens").insert_many([dict(SAME_TOKEN), dict(SAME_TOKEN)])
    servers = [{"serverName": name, "path": path} for name in "ab" for path in (None, "/mcp/x")]
    await database.collection("mcpservers").insert_many(
        [server | {"tenantId": str(number)} for number, server in enumerate(servers)]
    )

    assert await prepare(database, EXTRA_INDEXES) == []


async def test_documents_that_keep_an_index_from_being_unique_are_named_and_stop_nothing(
    database: Database,
) -> None:
    servers = database.collection("mcpservers")
    await servers.drop_index("serverName_1_tenantId_1")
    one, two = ObjectId(), ObjectId()
    await servers.insert_many([{"_id": one, "serverName": "x"}, {"_id": two, "serverName": "x"}])

    (conflict,) = await prepare(database, EXTRA_INDEXES)

    assert (conflict.collection, conflict.index) == ("mcpservers", "serverName_1_tenantId_1")
    assert f"{one} and {two}" in conflict.message
