"""`POST /api/v1/search` in the whole application, against what `tools/list` shows."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from registry.auth.identity import Role, Scope, UserContext
from registry.search.schemas import MAX_QUERY_CHARACTERS
from tests.conftest import ALICE, BOB, ROOT
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.gateway.eras import modern
from tests.kit.waiting import until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

Offered = tuple[str, str, dict[str, bool]]

SEND: Offered = ("send_message", "Post a message to a channel of the workspace.", {})
READ: Offered = ("list_channels", "List all channels.", {"readOnlyHint": True})
FORECAST: Offered = (
    "get_forecast",
    "The weather of the coming days in a city.",
    {"readOnlyHint": True},
)


def offered(*tools: Offered) -> str:
    return json.dumps(
        [
            {
                "name": name,
                "description": text,
                "inputSchema": {"type": "object"},
                "annotations": hints,
            }
            for name, text, hints in tools
        ]
    )


async def searched(rest: Rest, user: UserContext, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = await rest.ask(user, "POST", "/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    return hits


def names(hits: Iterable[dict[str, Any]]) -> list[str]:
    return [hit["name"] for hit in hits]


async def listed(rest: Rest, user: UserContext) -> set[str]:
    message, headers = modern("tools/list", {})
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent["Authorization"] = f"Bearer {rest.token(user)}"
    answer = await rest.client.post("/mcp", json=message, headers=sent)
    return {tool["name"] for tool in answer.json()["result"]["tools"]}


@pytest.mark.requirement("R-208")
async def test_tools_and_servers_are_found_by_what_they_do(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered(SEND, READ, FORECAST)
    server = await rest.register(ALICE, "slack", upstream.url, description="Chat of the team")

    hit = (await searched(rest, ALICE, "send a message to a channel", explain=True))[0]

    assert (hit["kind"], hit["name"], hit["combined_name"]) == (
        "tool",
        "send_message",
        "slack__send_message",
    )
    assert hit["server"] == {"id": server["id"], "name": "slack"}
    assert hit["description"] == SEND[1]
    assert len(hit["id"]) == 24
    assert hit["explanation"]["words"] == ["send", "messag", "channel"]
    assert hit["explanation"]["fused"] == hit["score"]
    chat = (await searched(rest, ALICE, "team chat"))[0]
    assert (chat["kind"], chat["id"], chat["name"]) == ("server", server["id"], "slack")


@pytest.mark.requirement("R-208")
async def test_each_caller_finds_what_their_list_shows(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered(SEND, READ)
    await rest.register(ALICE, "of_alice", upstream.url)
    await rest.register(ROOT, "for_all", upstream.url, scope="shared_app")

    of_alice = await searched(rest, ALICE, "message channel", kinds=["tool"])
    of_bob = await searched(rest, BOB, "message channel", kinds=["tool"])

    assert {hit["combined_name"] for hit in of_alice} == await listed(rest, ALICE)
    assert {hit["combined_name"] for hit in of_bob} == await listed(rest, BOB)
    assert {hit["server"]["name"] for hit in of_bob} == {"for_all"}
    assert names(await searched(rest, BOB, "alice")) == []


@pytest.mark.requirement("R-201")
async def test_only_tools_of_servers_that_can_be_called_are_found(
    rest: Rest, upstream: PlainUpstream
) -> None:
    """The earlier program returned tools of stopped servers too."""
    upstream.tools = offered(SEND)
    server = await rest.register(ALICE, "slack", upstream.url)
    assert names(await searched(rest, ALICE, "send message"))[0] == "send_message"

    await rest.call(ALICE, "POST", f"/{server['id']}/toggle", json={"enabled": False})

    assert await searched(rest, ALICE, "send message slack") == []


async def test_a_policy_takes_a_tool_from_search_as_from_the_list(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered(SEND, READ)
    server = await rest.register(ROOT, "slack", upstream.url, scope="shared_app")
    denied = {
        "name": "no sending",
        "effect": "deny",
        "target": {"owner_id": server["id"], "tools": ["send_message"]},
        "subjects": {"everyone": True},
    }
    answer = await rest.ask(ROOT, "POST", "/access/policies", json=denied)
    assert answer.status_code == 201, answer.text

    assert names(await searched(rest, BOB, "message channel", kinds=["tool"])) == ["list_channels"]
    assert await listed(rest, BOB) == {"slack__list_channels"}


async def test_a_new_description_is_found_and_the_old_one_is_not(
    rest: Rest, upstream: PlainUpstream
) -> None:
    upstream.tools = offered(SEND)
    server = await rest.register(ALICE, "slack", upstream.url)

    upstream.tools = offered(("send_message", "Write to people.", {}), FORECAST)
    await rest.call(ALICE, "POST", f"/{server['id']}/refresh")

    async def follows() -> bool:
        return names(await searched(rest, ALICE, "weather", kinds=["tool"])) == ["get_forecast"]

    await until_async(follows)
    assert names(await searched(rest, ALICE, "workspace", kinds=["tool"])) == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"read_only": True}, {"list_channels"}),
        ({"server": "SLACK"}, {"send_message", "list_channels"}),
        ({"server": "other"}, set()),
        ({"source_type": "mcp", "status": "active"}, {"send_message", "list_channels"}),
        ({"source_type": "openapi"}, set()),
        ({"status": "error"}, set()),
        ({"tag": "none has it"}, set()),
        ({"catalog": "nothing"}, set()),
    ],
)
async def test_filters_narrow_the_hits(
    rest: Rest, upstream: PlainUpstream, filters: dict[str, object], expected: set[str]
) -> None:
    upstream.tools = offered(SEND, READ)
    await rest.register(ALICE, "slack", upstream.url)

    hits = await searched(rest, ALICE, "message channels", kinds=["tool"], filters=filters)

    assert set(names(hits)) == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": " \n\t "},
        {"query": "x" * (MAX_QUERY_CHARACTERS + 1)},
        {"query": 7},
        {"query": "x", "limit": 0},
        {"query": "x", "limit": 101},
        {"query": "x", "kinds": ["prompt"]},
        {"query": "x", "filters": {"colour": "red"}},
        {"query": "x", "filters": {"tag": ["a"] * 21}},
        {"query": "x", "unknown": 1},
    ],
)
async def test_bad_questions_are_refused_in_one_envelope(
    rest: Rest, body: dict[str, object]
) -> None:
    answer = await rest.ask(ALICE, "POST", "/search", json=body)

    assert answer.status_code == 422
    assert answer.json()["error"] == "validation_error"


async def test_an_empty_query_says_what_to_do(rest: Rest) -> None:
    answer = await rest.ask(ALICE, "POST", "/search", json={"query": " "})

    assert "query: must contain something to look for" in answer.text


@pytest.mark.parametrize(
    "query", ["!!!", "\U0001f600", "\u202e\ufeff", "x" * MAX_QUERY_CHARACTERS, "é́́", "天气"]
)
async def test_odd_queries_are_answered(rest: Rest, upstream: PlainUpstream, query: str) -> None:
    upstream.tools = offered(SEND)
    await rest.register(ALICE, "slack", upstream.url)

    assert await searched(rest, ALICE, query) == []


async def test_a_token_finds_what_its_scopes_read(rest: Rest, upstream: PlainUpstream) -> None:
    upstream.tools = offered(SEND)
    await rest.register(ROOT, "slack", upstream.url, scope="shared_app")
    tools_only = UserContext("d" * 24, "dora", Role.USER, frozenset({Scope.READ_TOOLS}))
    none = replace(tools_only, user_id="c" * 24, scopes=frozenset({Scope.READ_TOKENS}))

    hits = await searched(rest, tools_only, "slack")
    refused = await rest.ask(
        tools_only, "POST", "/search", json={"query": "slack", "kinds": ["server"]}
    )
    nothing = await rest.ask(none, "POST", "/search", json={"query": "slack"})

    assert {hit["kind"] for hit in hits} == {"tool"}
    assert (refused.status_code, refused.json()["scope"]) == (403, "read:servers")
    assert nothing.status_code == 403


async def test_durations_and_sizes_are_measured(rest: Rest, upstream: PlainUpstream) -> None:
    upstream.tools = offered(SEND, READ)
    await rest.register(ALICE, "slack", upstream.url)
    await searched(rest, ALICE, "message")

    page = (await rest.client.get("/metrics", headers={})).text

    assert 'search_documents{kind="tool"} 2.0' in page
    assert 'search_documents{kind="server"} 1.0' in page
    assert 'search_duration_seconds_count{mode="words",via="search"}' in page


async def test_without_a_token_nothing_is_found(rest: Rest) -> None:
    answer = await rest.client.post("/api/v1/search", json={"query": "slack"})

    assert answer.status_code == 401


@pytest.mark.requirement("R-088")
async def test_tools_of_the_catalog_are_found_when_they_are_asked_for(rest: Rest) -> None:
    tools = [{"name": name, "description": text} for name, text, _ in (SEND, FORECAST)]
    body = {"name": "io.example/chat", "url": "https://chat.example/mcp", "tools": tools}
    entry = (await rest.ask(ROOT, "POST", "/catalog/servers", json=body)).json()
    asked: dict[str, Any] = {"kinds": ["catalog_tool"], "filters": {"catalog": "io.example/chat"}}

    async def are_found() -> bool:
        return len(await searched(rest, ALICE, "message weather", **asked)) == 2

    await until_async(are_found)
    (hit,) = await searched(rest, ALICE, "post a message", **asked, limit=1)
    usual = await searched(rest, ALICE, "post a message")
    path = f"/catalog/servers/{entry['id']}"
    await rest.ask(ROOT, "PATCH", path, json={"tools": tools[:1]})

    async def is_gone() -> bool:
        return names(await searched(rest, ALICE, "message weather", **asked)) == ["send_message"]

    await until_async(is_gone)
    await rest.ask(ROOT, "DELETE", path)

    async def are_gone() -> bool:
        return await searched(rest, ALICE, "message weather", **asked) == []

    assert (hit["kind"], hit["name"], hit["id"]) == ("catalog_tool", "send_message", None)
    assert hit["catalog"] == {"id": entry["id"], "name": "io.example/chat"}
    assert "catalog_tool" not in {one["kind"] for one in usual}
    await until_async(are_gone)
