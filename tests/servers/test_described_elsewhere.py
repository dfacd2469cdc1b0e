"""Servers that the other application wrote, of which it alone has described the tools."""

import asyncio
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


def function(name: str, **facts: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "Finds pages.",
            "parameters": parameters,
            "required": ["query"],
            **facts,
        },
    }


def api_key_example(author: str) -> dict[str, Any]:
    """Return the design document's first storage example: four names, one definition."""
    return {
        "_id": ObjectId(),
        "serverName": "tavilysearchv1",
        "config": {
            "title": "Tavily",
            "description": "Searches.",
            "type": "streamable-http",
            "url": "http://127.0.0.1:9/mcp",
            "apiKey": {
                "source": "admin",
                "authorization_type": "custom",
                "custom_header": "tavilyApiKey",
                "key": "xxxxxxxxx",
            },
            "requiresOAuth": False,
            "capabilities": '{"tools":{"listChanged":true}}',
            "toolFunctions": {
                "tavily_search_mcp_tavilysearchv1": function("tavily_search_mcp_tavilysearchv1")
            },
            "tools": "tavily_search, tavily_extract, tavily_crawl, tavily_map",
            "initDuration": 170,
        },
        "scope": "shared_app",
        "status": "active",
        "path": "/mcp/github",
        "tags": ["github"],
        "author": ObjectId(author),
    }


def nested_example(author: str) -> dict[str, Any]:
    """Return it with `tools` and `initDuration` inside `toolFunctions`, as its braces say."""
    server = api_key_example(author)
    config = server["config"]
    for name in ("tools", "initDuration"):
        config["toolFunctions"][name] = config.pop(name)
    return server


def oauth_example(author: str) -> dict[str, Any]:
    """Return the design document's second storage example."""
    server = api_key_example(author)
    config = server["config"]
    del config["apiKey"]
    config["requiresOAuth"] = True
    config["oauth"] = {
        "authorization_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "client_id": "Iv23lidC6dSy1q3Yr2sI",
        "client_secret": "xxxxxxxxxxxx",
        "scope": "repo user read:org",
    }
    return server


async def counts(rest: Rest, root: UserContext, server_id: str) -> dict[str, Any]:
    """Return what each place says of the tools of the one server there is."""
    listed = (await rest.call(root, "GET")).json()["servers"][0]
    detail = (await rest.call(root, "GET", f"/{server_id}")).json()
    tools = (await rest.call(root, "GET", f"/{server_id}/tools")).json()
    stats = (await rest.call(root, "GET", "/stats")).json()
    (route,) = rest.parts.snapshot.routes().values()
    return {
        "list": (listed["tools"], listed["numTools"]),
        "detail": (detail["tools"], detail["numTools"]),
        "tools": (", ".join(tool["name"] for tool in tools["tools"]), tools["numTools"]),
        "gateway": (", ".join(route.tools), len(route.tools)),
        "stats": stats["total_tools"],
    }


@pytest.mark.requirement("R-002")
@pytest.mark.parametrize("example", [api_key_example, nested_example, oauth_example])
async def test_of_the_storage_examples_what_can_be_served_is_counted_everywhere(
    rest: Rest, root: UserContext, example: Any
) -> None:
    server = example(root.user_id)
    await rest.parts.database.collection("mcpservers").insert_one(server)
    await rest.follow()

    shown = await counts(rest, root, str(server["_id"]))

    one = ("tavily_search", 1)
    assert shown == {"list": one, "detail": one, "tools": one, "gateway": one, "stats": 1}


async def test_the_details_say_why_tools_that_are_named_are_not_there(
    rest: Rest, root: UserContext
) -> None:
    server = api_key_example(root.user_id)
    await rest.parts.database.collection("mcpservers").insert_one(server)
    await rest.follow()

    detail = (await rest.call(root, "GET", f"/{server['_id']}")).json()

    reason = "is named in config.tools but has no definition in config.toolFunctions"
    assert detail["toolProblems"] == [
        {"name": name, "reason": reason}
        for name in ("tavily_extract", "tavily_crawl", "tavily_map")
    ]


async def rows_of(rest: Rest, root: UserContext, *, at_least: int) -> list[dict[str, Any]]:
    """Wait until there are so many rows of tools, and return them as lists show them."""
    async with asyncio.timeout(20):
        while True:
            listed = (await rest.ask(root, "GET", "/registry/tools")).json()
            if len(listed["tools"]) >= at_least:
                return list(listed["tools"])
            await rest.parts.clock.sleep(0.05)


async def test_rows_come_by_themselves_and_every_place_counts_them(
    rest: Rest, root: UserContext
) -> None:
    server = api_key_example(root.user_id)
    await rest.parts.database.collection("mcpservers").insert_one(server)

    rows = await rows_of(rest, root, at_least=1)

    one = ("tavily_search", 1)
    assert [row["name"] for row in rows] == ["tavily_search"]
    shown = await counts(rest, root, str(server["_id"]))
    assert shown == {"list": one, "detail": one, "tools": one, "gateway": one, "stats": 1}


async def test_a_tool_that_a_person_turned_off_stays_off_and_is_counted_nowhere(
    rest: Rest, root: UserContext
) -> None:
    # Changes of what is shared wait for review.
    server = {**api_key_example(root.user_id), "scope": "private_user"}
    key = "tavily_map_mcp_tavilysearchv1"
    server["config"]["toolFunctions"][key] = function(key)
    await rest.parts.database.collection("mcpservers").insert_one(server)
    rows = {row["name"]: row for row in await rows_of(rest, root, at_least=2)}

    path = f"/registry/tools/{rows['tavily_map']['id']}"
    answer = await rest.ask(root, "PATCH", path, json={"exposure_state": "disabled"})
    assert answer.status_code == 200, answer.text
    # The other application changes what it has of the other tool, which the rows follow.
    changed = function("tavily_search_mcp_tavilysearchv1", description="Searches more.")
    await rest.parts.database.collection("mcpservers").update_one(
        {"_id": server["_id"]},
        {"$set": {"config.toolFunctions.tavily_search_mcp_tavilysearchv1": changed}},
    )
    rows_in_database = rest.parts.database.collection("mcp_tools")
    async with asyncio.timeout(20):
        while not await rows_in_database.find_one({"description": "Searches more."}):
            await rest.parts.clock.sleep(0.05)
    await rest.follow()

    one = ("tavily_search", 1)
    shown = await counts(rest, root, str(server["_id"]))
    assert shown == {"list": one, "detail": one, "tools": one, "gateway": one, "stats": 1}
    states = {
        row["name"]: (row["registration_state"], row["exposure_state"])
        async for row in rows_in_database.find({})
    }
    assert states == {
        "tavily_map": ("selected", "disabled"),
        "tavily_search": ("selected", "active"),
    }
