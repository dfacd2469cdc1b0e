"""What lists and changes cost the database: a bounded number of commands."""

import asyncio
from pathlib import Path

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from registry.servers.values import ServerRecord
from tests.fakes.rest import Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
LISTS = 20
MANY_LISTS = 200
"""So many that what a starting process reads in the background does not count."""

DROP_SECONDS = 10
COMMANDS = "mongodb_command_duration_seconds_count"


def commands(rest: Rest, name: str) -> float:
    labels = {"command": name, "outcome": "success"}
    return rest.parts.metrics.registry.get_sample_value(COMMANDS, labels) or 0


@pytest.mark.requirement("R-346")
async def test_a_server_is_read_as_it_is_stored_but_for_its_functions(rest: Rest) -> None:
    now = rest.parts.clock.now().replace(microsecond=0)
    moments = dict.fromkeys(("createdAt", "updatedAt", "lastConnected", "lastError"), now)
    config = {
        "type": "sse",
        "url": URL,
        "tools": "a, b",
        "of a later release": {"deep": [1, {"x": 2}]},
        "toolFunctions": {"a_mcp_full": {"type": "function"}},
        "": "no name",
    }
    document = {
        "_id": ObjectId(),
        "serverName": "full",
        "author": ObjectId(),
        "scope": "private_user",
        "status": "error",
        "path": "/full",
        "tags": ["x"],
        "numStars": 3,
        "numTools": 2,
        "errorMessage": "It is away.",
        "registry": {"auto_expose": "none", "of a later release": 1},
        "config": config,
        **moments,
    }
    servers = rest.parts.database.collection("mcpservers")
    await servers.insert_one(document)

    read = await servers.find_one({"_id": document["_id"]}, ServerRecord.Settings.projection)

    assert read is not None
    config.pop("toolFunctions")
    assert ServerRecord.model_validate(read) == ServerRecord.model_validate(document)
    assert list(read["config"]) == list(config)
    await servers.delete_one({"_id": document["_id"]})


@pytest.mark.requirement("E-14")
@pytest.mark.requirement("R-044")
@pytest.mark.requirement("R-248")
@pytest.mark.parametrize("servers", [1, 12])
async def test_a_list_takes_the_same_few_commands_however_long_it_is(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, root: UserContext, servers: int
) -> None:
    settings = rest_settings(mongo_uri, key_files, tmp_path)
    async with running(settings) as filling:
        for number in range(servers):
            await filling.register(root, f"s{number}", URL)
    # A process that starts on a filled database has no changes to follow in the background.
    async with running(settings) as rest:
        await rest.call(root, "GET")
        before = commands(rest, "find"), commands(rest, "aggregate")
        answers = [await rest.call(root, "GET", "?per_page=100") for _ in range(MANY_LISTS)]
        after = commands(rest, "find"), commands(rest, "aggregate")

    assert {answer.json()["pagination"]["total"] for answer in answers} == {servers}
    assert round((after[0] - before[0]) / MANY_LISTS) == 1
    assert round((after[1] - before[1]) / MANY_LISTS) == 0


async def test_a_change_is_recorded_by_one_command(rest: Rest, alice: UserContext) -> None:
    server = await rest.register(alice, "s", URL)
    before = {name: commands(rest, name) for name in ("insert", "find", "update")}

    for number in range(LISTS):
        body = {"title": f"title {number}"}
        answer = await rest.call(alice, "PATCH", f"/{server['id']}", json=body)
        assert answer.status_code == 200

    spent = {name: commands(rest, name) - count for name, count in before.items()}
    # Seals are inserted too, one for all that was written within a second.
    assert round(spent["insert"] / LISTS) == 1
    assert round(spent["update"] / LISTS) == 1


async def test_a_dropped_database_does_not_stop_the_process(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, root: UserContext
) -> None:
    # The stream of changes ends then; asking an ended one again and again would never yield.
    async with running(rest_settings(mongo_uri, key_files, tmp_path)) as rest:
        server = await rest.register(root, "s", URL)
        await rest.jobs(root, server)
        await rest.parts.database.client.drop_database(rest.parts.database.db.name)

        async with asyncio.timeout(DROP_SECONDS):
            while (await rest.call(root, "GET")).json()["servers"]:
                pass
