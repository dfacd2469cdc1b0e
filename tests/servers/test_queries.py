"""What lists cost the database: an index for every query, and a bounded number of commands."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import Code, ObjectId

from registry.access.policy import ServerScope, visibility
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.servers.documents import RECORD, record_of
from registry.servers.queries import ENTRIES_LOOKED_UP, SORT, count_index, key_rules, list_query
from registry.servers.values import ServerFilter, ServerStatus
from tests.fakes.rest import Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
LISTS = 20
DROP_SECONDS = 10
COMMANDS = "mongodb_command_duration_seconds_count"
FILTERS = [
    ServerFilter(),
    ServerFilter(query="text"),
    ServerFilter(scope=ServerScope.SHARED_APP),
    ServerFilter(status=ServerStatus.ACTIVE),
    ServerFilter(author="a" * 24),
    ServerFilter("text", ServerScope.PRIVATE_USER, ServerStatus.ERROR, "a" * 24),
]


def stages(plan: Any) -> set[str]:
    """Return the names of all stages of a plan, at any depth."""
    if isinstance(plan, list):
        return set().union(*(stages(item) for item in plan))
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
    return own.union(*(stages(item) for item in plan.values()))


def commands(rest: Rest, name: str) -> float:
    labels = {"command": name, "outcome": "success"}
    return rest.parts.metrics.registry.get_sample_value(COMMANDS, labels) or 0


async def explained(rest: Rest, command: dict[str, Any]) -> set[str]:
    answer = await rest.parts.database.db.command(
        {"explain": command, "verbosity": "queryPlanner"}
    )
    return stages(answer)


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the queries by which the servers of one kind of caller are found."""
    caller = UserContext("a" * 24, "anna", Role.USER, USER_SCOPES)
    if kind == "bounded administrator":
        caller = replace(caller, role=Role.ADMIN)
    entries = 2 * ENTRIES_LOOKED_UP if kind == "user with many entries" else 2
    granted = [str(ObjectId()) for _ in range(entries)]
    return key_rules(visibility(caller, admin_sees_private=False), granted)


CALLERS = ["bounded administrator", "user", "user with many entries"]


@pytest.mark.parametrize("kind", CALLERS)
async def test_each_rule_of_a_list_is_answered_by_an_index(rest: Rest, kind: str) -> None:
    # By its leading condition: the embedded database explains no more than one at a time.
    queries = [dict([next(iter(rule.items()))]) for rule in rules(kind)]

    plans = [await explained(rest, {"find": "mcpservers", "filter": query}) for query in queries]

    assert all("IXSCAN" in plan and "COLLSCAN" not in plan for plan in plans)


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

    read = await servers.find_one({"_id": document["_id"]}, RECORD)

    assert read is not None
    config.pop("toolFunctions")
    assert record_of(read) == record_of(document)
    assert list(read["config"]) == list(config)
    await servers.delete_one({"_id": document["_id"]})


@pytest.mark.parametrize("narrowed", FILTERS)
async def test_a_page_of_all_is_read_by_an_index(rest: Rest, narrowed: ServerFilter) -> None:
    query = list_query({}, narrowed, {})

    plan = await explained(
        rest, {"find": "mcpservers", "filter": query, "sort": dict(SORT), "hint": dict(SORT)}
    )

    assert "IXSCAN" in plan
    assert "COLLSCAN" not in plan


async def test_the_entries_about_a_user_are_found_by_an_index(rest: Rest) -> None:
    query = {"principalId": {"$in": [ObjectId(), ObjectId(), "USER"]}}

    plan = await explained(rest, {"find": "aclentries", "filter": query})

    assert "IXSCAN" in plan
    assert "COLLSCAN" not in plan


@pytest.mark.parametrize("narrowed", FILTERS)
async def test_a_total_is_counted_by_an_index(rest: Rest, narrowed: ServerFilter) -> None:
    query = list_query({}, narrowed, {})
    index = count_index(query)
    hint = {} if index is None else {"hint": dict(index)}
    group = {"$group": {"_id": 1, "n": {"$sum": 1}}}

    plan = await explained(
        rest,
        {"aggregate": "mcpservers", "pipeline": [{"$match": query}, group], "cursor": {}, **hint},
    )

    assert "COLLSCAN" not in plan


async def test_a_list_is_answered_even_without_its_index(rest: Rest, root: UserContext) -> None:
    await rest.register(root, "s", URL)
    servers = rest.parts.database.collection("mcpservers")
    await servers.drop_index("updatedAt_-1__id_1")

    answer = await rest.call(root, "GET")

    await servers.create_index(SORT)
    assert (answer.status_code, answer.json()["pagination"]["total"]) == (200, 1)


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
        answers = [await rest.call(root, "GET", "?per_page=100") for _ in range(LISTS)]
        after = commands(rest, "find"), commands(rest, "aggregate")
        await rest.parts.database.client.drop_database(rest.parts.database.db.name)

    assert {answer.json()["pagination"]["total"] for answer in answers} == {servers}
    # The background follows the database meanwhile, with a handful of commands of its own.
    assert round((after[0] - before[0]) / LISTS) == 1
    assert round((after[1] - before[1]) / LISTS) == 1


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
        await rest.register(root, "s", URL)
        await rest.parts.database.client.drop_database(rest.parts.database.db.name)

        async with asyncio.timeout(DROP_SECONDS):
            while (await rest.call(root, "GET")).json()["servers"]:
                pass


@pytest.mark.requirement("R-115")
@pytest.mark.parametrize(
    "narrowed",
    [
        *FILTERS,
        *(ServerFilter(scope=scope) for scope in ServerScope),
        *(ServerFilter(status=status) for status in ServerStatus),
        ServerFilter(query="NAME"),
    ],
)
async def test_a_filter_is_about_what_is_shown_in_the_database_as_in_memory(
    rest: Rest, root: UserContext, narrowed: ServerFilter
) -> None:
    values = [None, "unknown", 5, Code("active"), *ServerScope, *ServerStatus]
    documents: list[dict[str, Any]] = [
        {
            "_id": ObjectId(),
            "serverName": f"name-{place}-{number}",
            "author": ObjectId(("a" if number % 2 else "b") * 24),
            "config": {"title": "Other" if number % 3 else "Some text"},
            place: value,
        }
        for place in ("scope", "status")
        for number, value in enumerate(values)
    ]
    servers = rest.parts.database.collection("mcpservers")
    await servers.insert_many([*documents, {"serverName": "neither"}])

    records = [record_of(document) for document in await servers.find({}).to_list()]
    found = await servers.find(list_query({}, narrowed, {}), {"_id": 1}).to_list()
    listed = await rest.call(
        root,
        "GET",
        "?per_page=100",
        params={
            name: value
            for name, value in (
                ("per_page", 100),
                ("query", narrowed.query),
                ("scope", narrowed.scope),
                ("status", narrowed.status),
                ("author", narrowed.author),
            )
            if value is not None
        },
    )

    expected = {record.id for record in records if narrowed.admits(record)}
    assert {str(row["_id"]) for row in found} == expected
    assert listed.json()["pagination"]["total"] == len(expected)
