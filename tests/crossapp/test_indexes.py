"""Indexes of shared collections, made by both programs in either order."""

from collections.abc import AsyncIterator

import pytest
from bson import ObjectId

from packages.database.client import Database
from packages.database.schema import prepare
from registry.wiring.storage import EXTRA_INDEXES
from tests.crossapp.other_application import OtherApplication, OtherApplicationError

pytestmark = pytest.mark.wire

DUPLICATE_KEY = 11000

MODELS = {
    "MCPServer": "mcpservers",
    "Token": "tokens",
    "PluginAuth": "pluginauths",
    "AclEntry": "aclentries",
    "AccessRole": "accessroles",
    "User": "users",
    "Group": "groups",
}


@pytest.fixture
async def empty(database_uri: str) -> AsyncIterator[Database]:
    """Return a database that nobody has prepared."""
    database = Database(database_uri, timeout_ms=5000)
    yield database
    await database.client.drop_database(database.db.name)
    await database.close()


async def make_indexes(other: OtherApplication) -> None:
    for model in MODELS:
        await other.call(f"models.{model}.createIndexes")


async def names(database: Database) -> dict[str, set[str]]:
    return {
        name: set(await database.collection(name).index_information()) for name in MODELS.values()
    }


@pytest.mark.requirement("R-316")
async def test_our_indexes_are_made_after_those_of_the_other_application(
    empty: Database, started: OtherApplication, database_uri: str
) -> None:
    await started.open(database_uri)
    await make_indexes(started)

    conflicts = await prepare(empty, EXTRA_INDEXES)

    assert conflicts == []


@pytest.mark.requirement("R-316")
async def test_the_other_applications_indexes_are_made_after_ours(
    empty: Database, started: OtherApplication, database_uri: str
) -> None:
    await prepare(empty, EXTRA_INDEXES)
    await started.open(database_uri)

    await make_indexes(started)

    assert await prepare(empty, EXTRA_INDEXES) == []


async def test_what_the_other_application_drops_when_it_is_upgraded_is_not_ours(
    empty: Database, started: OtherApplication, database_uri: str
) -> None:
    await prepare(empty, EXTRA_INDEXES)
    await started.open(database_uri)
    before = await names(empty)

    report = await started.call("connection.dropSupersededIndexes")

    assert (report["dropped"], report["errors"]) == ([], [])
    assert await names(empty) == before


@pytest.mark.parametrize("ours_first", [True, False])
async def test_a_server_name_is_unique_whoever_came_first(
    empty: Database, started: OtherApplication, database_uri: str, *, ours_first: bool
) -> None:
    await started.open(database_uri)
    if not ours_first:
        await make_indexes(started)
    await prepare(empty, EXTRA_INDEXES)
    await empty.collection("mcpservers").insert_one({"serverName": "weather"})

    with pytest.raises(OtherApplicationError) as caught:
        await started.call(
            "models.MCPServer.create",
            {"serverName": "weather", "config": {}, "author": ObjectId("a" * 24)},
        )

    assert caught.value.code == DUPLICATE_KEY
