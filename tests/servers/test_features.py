"""Prompts, resources and templates: stored with the server's tools, and gone with it."""

from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import WriteError

from packages.database.client import Database
from packages.models.states import FeatureKind
from registry.auth.identity import UserContext
from registry.core.definitions import Rejection
from registry.prompts_and_resources.values import Feature, FeatureSnapshot
from registry.servers.presenter import present_detail
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from registry.servers.values import Discovered
from tests.fakes.discovery import FakeDiscovery, found, tool

pytestmark = pytest.mark.wire

PROMPTS = (
    Feature(FeatureKind.PROMPT, "hello", '{"name":"hello"}'),
    Feature(FeatureKind.PROMPT, "bye", '{"name":"bye"}'),
)
RESOURCES = (Feature(FeatureKind.RESOURCE, "x:a", '{"uri":"x:a","name":"a"}'),)
NO_TEMPLATES: tuple[Feature, ...] = ()


def listing(*prompts: Feature, problems: tuple[Rejection, ...] = ()) -> Discovered:
    lists = {
        FeatureKind.PROMPT: prompts,
        FeatureKind.RESOURCE: RESOURCES,
        FeatureKind.TEMPLATE: NO_TEMPLATES,
    }
    return replace(
        found(tool("echo")),
        features=FeatureSnapshot(lists, problems),
        instructions="Be kind.",
        title="Greeter",
    )


def create() -> ServerCreate:
    return ServerCreate.model_validate({"serverName": "greeter", "url": "http://127.0.0.1:9/mcp"})


async def rows(database: Database) -> list[dict[str, Any]]:
    return await database.collection("mcp_features").find({}).sort("_id").to_list()


def shown(stored: list[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    return [(row["kind"], row["key"], row["definition"], row["position"]) for row in stored]


@pytest.fixture
def upstream(discovery: FakeDiscovery) -> FakeDiscovery:
    discovery.answer = lambda _: listing(*PROMPTS)
    return discovery


async def test_a_registration_stores_what_the_upstream_lists_and_says_of_itself(
    servers: ServerService, upstream: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    server = await servers.register(create(), alice, strict=True)

    assert upstream.asked
    assert shown(await rows(database)) == [
        ("prompt", "hello", '{"name":"hello"}', 0),
        ("prompt", "bye", '{"name":"bye"}', 1),
        ("resource", "x:a", '{"uri":"x:a","name":"a"}', 0),
    ]
    assert server.registry["instructions"] == "Be kind."
    assert server.registry["title"] == "Greeter"


@pytest.mark.usefixtures("upstream")
async def test_an_unchanged_upstream_writes_nothing_there(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await servers.register(create(), alice, strict=True)
    before = await rows(database)

    refreshed = await servers.refresh(server.id, alice)

    assert await rows(database) == before
    assert refreshed.server.updated_at == server.updated_at


async def test_a_refresh_takes_over_what_changed_and_records_it(
    servers: ServerService, upstream: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    server = await servers.register(create(), alice, strict=True)
    newer = Feature(FeatureKind.PROMPT, "hello", '{"name":"hello","title":"Hi"}')
    upstream.answer = lambda _: listing(newer)

    await servers.refresh(server.id, alice)

    assert shown(await rows(database)) == [
        ("prompt", "hello", '{"name":"hello","title":"Hi"}', 0),
        ("resource", "x:a", '{"uri":"x:a","name":"a"}', 0),
    ]
    record = await database.collection("audit_logs").find_one({"action": "refresh"})
    assert record is not None
    assert record["changes"]["prompts"] == {
        "changed": ["hello"],
        "changed_count": 1,
        "removed": ["bye"],
        "removed_count": 1,
    }


async def test_a_list_that_cannot_be_read_is_reported_and_what_is_stored_stays(
    servers: ServerService, upstream: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    server = await servers.register(create(), alice, strict=True)
    before = await rows(database)
    problem = Rejection("prompts", "It answered: no.")
    upstream.answer = lambda _: replace(
        found(tool("echo")),
        features=FeatureSnapshot({FeatureKind.RESOURCE: RESOURCES}, (problem,)),
    )

    refreshed = await servers.refresh(server.id, alice)

    assert refreshed.failure is None
    assert await rows(database) == before
    assert present_detail(refreshed.server)["featureProblems"] == [
        {"name": "prompts", "reason": "It answered: no."}
    ]


@pytest.mark.usefixtures("upstream")
async def test_they_go_with_the_server(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await servers.register(create(), alice, strict=True)

    await servers.delete(server.id, alice)

    assert await rows(database) == []


async def test_the_database_refuses_a_raw_write_of_a_bad_kind(database: Database) -> None:
    row = {"owner_id": ObjectId(), "kind": "tool", "key": "x", "definition": "{}", "position": 0}

    with pytest.raises(WriteError):
        await database.collection("mcp_features").insert_one(row)
