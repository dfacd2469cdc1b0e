"""Policies from the API to clients: a real application, a real MCP server, the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import httpx
import httpx2
import pytest
from bson import ObjectId
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ToolsListChanged
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult, ToolAnnotations

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.main import application
from tests.gateway.confirming import refusal
from tests.gateway.serving import serve
from tests.gateway.test_whole_way import Whole
from tests.kit.commands import commands, settled

pytestmark = pytest.mark.wire

GROUP = "d" * 24
MODES = ["legacy", "2026-07-28"]
PATHS = {"sums": "", "": "sums__"}
IN_FORCE_SECONDS = 1.0


class Upstream:
    """An MCP server that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.server = MCPServer("sums")

        @self.server.tool()
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            self.calls.append("add")
            return a + b

        @self.server.tool()
        def invoice(number: int) -> str:
            """Return an invoice."""
            self.calls.append("invoice")
            return f"invoice {number}"

        @self.server.tool(annotations=ToolAnnotations(destructive_hint=True))
        def wipe() -> str:
            """Remove everything."""
            self.calls.append("wipe")
            return "gone"


@asynccontextmanager
async def running(settings: Settings, upstream: Upstream) -> AsyncIterator[Whole]:
    """Start the application in front of *upstream*."""
    async with (
        application(settings) as (app, parts),
        serve(upstream.server.streamable_http_app(), lifespan=True) as upstream_url,
        serve(app) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield Whole(url, f"{upstream_url}/mcp", parts, http)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def whole(
    settings: Settings, upstream: Upstream, alice: UserContext, bob: UserContext
) -> AsyncIterator[Whole]:
    async with running(settings, upstream) as whole:
        database = whole.parts.database
        await database.collection("users").insert_many(
            [
                {"_id": ObjectId(user.user_id), "username": user.username, "role": "USER"}
                for user in (alice, bob)
            ]
        )
        await database.collection("groups").insert_one(
            {"_id": ObjectId(GROUP), "name": "finance", "memberIds": [alice.user_id]}
        )
        yield whole


async def ask(
    whole: Whole, user: UserContext, method: str, path: str, /, **body: Any
) -> dict[str, Any]:
    """Send a request to the API."""
    answer = await whole.http.request(
        method, f"/api/v1{path}", json=body or None, headers=whole.authorization(user)
    )
    assert answer.is_success, answer.text
    return dict(answer.json()) if answer.content else {}


async def make(
    whole: Whole,
    user: UserContext,
    effect: str,
    subjects: dict[str, Any],
    **target: Any,
) -> dict[str, Any]:
    """Make a policy."""
    name = f"{effect} {sorted(subjects)} {target}"[:128]
    return await ask(
        whole,
        user,
        "POST",
        "/access/policies",
        name=name,
        effect=effect,
        subjects=subjects,
        target=target,
    )


async def listed(whole: Whole, user: UserContext, path: str = "sums") -> list[str]:
    """Return the tools that a client of the plainest kind finds."""
    answer = await whole.http.post(
        f"/mcp/{path}".rstrip("/"),
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        headers=whole.authorization(user) | {"Accept": "application/json, text/event-stream"},
    )
    assert answer.status_code == 200, answer.text
    return [tool["name"] for tool in answer.json()["result"]["tools"]]


async def seconds_until_listed(whole: Whole, user: UserContext, *names: str) -> float:
    """Return how long it takes until a caller finds these tools and no others."""
    clock = SystemClock()
    began_at = clock.monotonic()
    async with asyncio.timeout(30):
        while await listed(whole, user) != list(names):
            await clock.sleep(0.01)
    return clock.monotonic() - began_at


@pytest.mark.requirement("R-220")
@pytest.mark.requirement("R-232")
@pytest.mark.requirement("R-072")
@pytest.mark.requirement("R-077")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "subjects",
    [{"users": ["a" * 24]}, {"groups": [GROUP]}, {"scopes": ["finance:read"]}],
    ids=["user", "group", "scope"],
)
async def test_a_tool_is_for_those_whom_its_policy_names_and_its_sibling_for_all(
    whole: Whole,
    upstream: Upstream,
    alice: UserContext,
    bob: UserContext,
    root: UserContext,
    subjects: dict[str, Any],
    path: str,
    mode: str,
) -> None:
    named = replace(alice, custom_scopes=frozenset({"finance:read"}))
    server = await whole.register(root, "sums", scope="shared_app")
    await make(whole, root, "allow", subjects, owner_id=server["id"], tools=["inv*"])
    prefix = PATHS[path]

    async with whole.client(named, path, mode) as client:
        by_named = [tool.name for tool in (await client.list_tools()).tools]
        invoice = await client.call_tool(f"{prefix}invoice", {"number": 7})
    async with whole.client(bob, path, mode) as client:
        by_bob = [tool.name for tool in (await client.list_tools()).tools]
        with pytest.raises(MCPError) as refused:
            await client.call_tool(f"{prefix}invoice", {"number": 7})
        total = await client.call_tool(f"{prefix}add", {"a": 1, "b": 2})

    assert by_named == [f"{prefix}add", f"{prefix}invoice", f"{prefix}wipe"]
    assert by_bob == [f"{prefix}add", f"{prefix}wipe"]
    assert invoice.structured_content == {"result": "invoice 7"}
    assert total.structured_content == {"result": 3}
    assert refused.value.error.message == f"Unknown tool: {prefix}invoice"
    assert upstream.calls == ["invoice", "add"]


@pytest.mark.requirement("R-103")
async def test_what_is_destructive_is_denied_everywhere_and_administrators_hear_why(
    whole: Whole, upstream: Upstream, alice: UserContext, root: UserContext
) -> None:
    await whole.register(root, "sums", scope="shared_app")
    made = await make(whole, root, "deny", {"everyone": True}, metadata={"destructive": True})

    for user in (alice, root):
        async with whole.client(user, "sums", "legacy") as client:
            with pytest.raises(MCPError, match="Unknown tool: wipe"):
                await client.call_tool("wipe", {})
    told = await ask(whole, root, "POST", "/access/explain", path="/mcp/sums", tool="wipe")
    await whole.parts.audit.flush()
    denied = await ask(whole, root, "GET", "/audit?action=call&outcome=denied")

    assert upstream.calls == []
    assert (told["allowed"], told["policies"][0]["id"]) == (False, made["id"])
    assert [item["username"] for item in denied["records"]] == ["root", "alice"]
    assert {item["reason"] for item in denied["records"]} == {
        f'tool wipe: denied by "{made["name"]}"'
    }
    assert denied["records"][0]["changes"] == {"tool": "wipe", "policies": [made["id"]]}


async def test_a_policy_holds_as_long_as_it_is_there_and_over_a_restart(
    settings: Settings, upstream: Upstream, alice: UserContext, root: UserContext
) -> None:
    async with running(settings, upstream) as whole:
        server = await whole.register(root, "sums", scope="shared_app")
        target = {"owner_id": server["id"], "tools": ["wipe", "add"]}
        made = await make(whole, root, "deny", {"roles": ["user"]}, **target)
        before = await listed(whole, alice)
    async with running(settings, upstream) as whole:
        after = await listed(whole, alice)
        path = f"/access/policies/{made['id']}"
        await ask(whole, root, "PATCH", path, target=target | {"tools": ["wipe"]})
        changed = await listed(whole, alice)
        await ask(whole, root, "DELETE", path)
        removed = await listed(whole, alice)

    assert before == after == ["invoice"]
    assert changed == ["add", "invoice"]
    assert removed == ["add", "invoice", "wipe"]


@pytest.mark.requirement("R-233")
async def test_a_raw_write_counts_within_a_second_and_what_cannot_be_read_refuses(
    whole: Whole, alice: UserContext, root: UserContext
) -> None:
    server = await whole.register(root, "sums", scope="shared_app")
    made = await make(
        whole, root, "deny", {"roles": ["admin"]}, owner_id=server["id"], tools=["add"]
    )
    policies = whole.parts.database.db.get_collection("access_policies")
    key = {"_id": ObjectId(made["id"])}
    assert await listed(whole, alice) == ["add", "invoice", "wipe"]

    async def write(**changes: Any) -> None:
        await policies.update_one(key, {"$set": changes}, bypass_document_validation=True)

    await write(roles=["user"])
    seconds = [await seconds_until_listed(whole, alice, "invoice", "wipe")]
    await write(roles="nobody knows")
    seconds.append(await seconds_until_listed(whole, root, "invoice", "wipe"))
    await write(tools=7)
    seconds.append(await seconds_until_listed(whole, root))
    await write(tools=["add"], roles=["admin"])
    seconds.append(await seconds_until_listed(whole, alice, "add", "invoice", "wipe"))
    await policies.delete_one(key)
    seconds.append(await seconds_until_listed(whole, root, "add", "invoice", "wipe"))

    assert median(seconds) < IN_FORCE_SECONDS


async def test_an_open_stream_hears_of_a_policy_about_its_caller(
    whole: Whole, alice: UserContext, root: UserContext
) -> None:
    await whole.register(root, "sums", scope="shared_app")
    async with (
        asyncio.timeout(20),
        httpx2.AsyncClient(headers=whole.authorization(alice), timeout=30) as http,
        Client(
            streamable_http_client(f"{whole.url}/mcp", http_client=http), mode="2026-07-28"
        ) as client,
        client.listen(tools_list_changed=True) as stream,
    ):
        await make(whole, root, "deny", {"users": [alice.user_id]}, tools=["wipe"])
        told = await anext(aiter(stream))
        names = [tool.name for tool in (await client.list_tools()).tools]

    assert told == ToolsListChanged()
    assert names == ["sums__add", "sums__invoice"]


async def test_a_change_of_what_is_known_of_a_tool_is_a_change_of_its_policies(
    whole: Whole, alice: UserContext, root: UserContext
) -> None:
    await whole.register(root, "sums", scope="shared_app")
    await make(whole, root, "deny", {"everyone": True}, metadata={"sensitive": True})
    tools = (await ask(whole, root, "GET", "/registry/tools"))["tools"]
    invoice = next(tool["id"] for tool in tools if tool["name"] == "invoice")
    before = await listed(whole, alice)

    await ask(
        whole, root, "PATCH", f"/registry/tools/{invoice}", tool_metadata={"sensitive": True}
    )

    assert before == ["add", "invoice", "wipe"]
    assert await listed(whole, alice) == ["add", "wipe"]


async def test_a_warm_call_under_policies_sends_no_command_to_the_database(
    settings: Settings, upstream: Upstream, alice: UserContext, root: UserContext
) -> None:
    without_records = settings.model_copy(
        update={"usage_retention_days": 0, "sync_worker_enabled": False}
    )
    async with running(without_records, upstream) as whole:
        await whole.register(root, "sums", scope="shared_app")
        await make(whole, root, "allow", {"roles": ["user"]}, tools=["add"])
        await make(whole, root, "deny", {"roles": ["user"]}, tools=["wipe"])
        async with whole.client(alice, "", "legacy") as client:
            await client.call_tool("sums__add", {"a": 1, "b": 1})
            before = await settled(whole.parts.metrics)
            for number in range(20):
                await client.call_tool("sums__add", {"a": number, "b": 1})
                await client.list_tools()

            assert commands(whole.parts.metrics) == before


async def test_what_is_known_of_a_tool_that_another_program_stored_is_what_it_says(
    whole: Whole, alice: UserContext, root: UserContext
) -> None:
    server = await whole.register(root, "sums", scope="shared_app")
    await make(whole, root, "deny", {"everyone": True}, metadata={"destructive": True})
    tools = whole.parts.database.collection("mcp_tools")
    await tools.update_one({"name": "wipe"}, {"$unset": {"facets": ""}})
    await tools.update_one(
        {"name": "add"},
        {"$set": {"facets": [{"odd": 1}, 7]}},
        bypass_document_validation=True,
    )
    await whole.parts.snapshot.server_changed(server["id"])

    told = await ask(whole, root, "POST", "/access/explain", server_id=server["id"], tool="wipe")

    assert await listed(whole, alice) == ["add", "invoice"]
    assert told["allowed"] is False


@pytest.mark.requirement("R-165")
@pytest.mark.requirement("R-224")
@pytest.mark.parametrize("mode", MODES)
async def test_a_tool_that_a_person_calls_destructive_is_confirmed_and_a_claim_only_warns(
    whole: Whole, upstream: Upstream, alice: UserContext, root: UserContext, mode: str
) -> None:
    await whole.register(root, "sums", scope="shared_app")
    tools = (await ask(whole, root, "GET", "/registry/tools"))["tools"]
    path = next(f"/registry/tools/{tool['id']}" for tool in tools if tool["name"] == "wipe")
    claimed = await ask(whole, root, "GET", path)
    async with whole.client(alice, "sums", mode) as client:
        unasked = await client.call_tool("wipe", {})
    said = await ask(whole, root, "PATCH", path, tool_metadata={"destructive": True})
    answers: list[Any] = [{"confirm": False}, {"confirm": True}]

    async def answer(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content=answers.pop(0))

    async with whole.client(alice, "sums", mode, elicitation_callback=answer) as client:
        refused = await refusal(client, "wipe")
        before = len(upstream.calls)
        confirmed = await client.call_tool("wipe", {})
    await whole.parts.audit.flush()
    recorded = await ask(whole, root, "GET", "/audit?action=call")

    assert ["claims" in warning for warning in claimed["warnings"]] == [True]
    assert not unasked.is_error
    assert (said["call_rules"]["is_confirmed"], said["warnings"]) == (True, [])
    assert "was not made" in refused
    assert before == 1
    assert not confirmed.is_error
    assert upstream.calls == ["wipe", "wipe"]
    assert [(one["outcome"], one["changes"]["confirmation"]) for one in recorded["records"]] == [
        ("success", "accept"),
        ("denied", "accept"),
    ]


@pytest.mark.requirement("R-167")
@pytest.mark.requirement("R-009")
@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_refuses_by_default_serves_what_policies_allow_to_each(
    whole: Whole,
    upstream: Upstream,
    alice: UserContext,
    bob: UserContext,
    root: UserContext,
    mode: str,
) -> None:
    server = await whole.register(root, "sums", scope="shared_app", defaultEffect="deny")
    path, asked = f"/servers/{server['id']}", {"path": "/mcp/sums", "tool": "invoice"}
    about = {"owner_id": server["id"], "tools": ["invoice"]}
    closed = [await listed(whole, user) for user in (alice, bob, root)]
    async with whole.client(bob, "", mode) as client:
        with pytest.raises(MCPError, match="Unknown tool: sums__invoice"):
            await client.call_tool("sums__invoice", {"number": 7})
    to_bob = await ask(whole, bob, "POST", "/access/explain", **asked)

    made = await make(whole, root, "allow", {"groups": [GROUP]}, **about)
    named: list[list[list[str]]] = []
    subjects: list[dict[str, Any]] = [
        {"groups": [GROUP]},
        {"users": [bob.user_id]},
        {"roles": ["user"]},
        {"scopes": ["finance:read"]},
        {"everyone": True},
    ]
    policy = f"/access/policies/{made['id']}"
    for chosen in subjects:
        await ask(whole, root, "PATCH", policy, subjects=chosen)
        named.append([await listed(whole, user) for user in (alice, bob)])
    async with whole.client(bob, "sums", mode) as client:
        invoice = await client.call_tool("invoice", {"number": 7})
    await ask(whole, root, "PATCH", policy, is_enabled=False)
    off = await listed(whole, bob)
    await ask(whole, root, "PATCH", policy, is_enabled=True)
    on = await listed(whole, bob)
    await ask(whole, root, "DELETE", policy)
    gone = await listed(whole, bob)
    await make(whole, root, "allow", {"everyone": True}, **about)
    assert (off, on, gone) == ([], ["invoice"], [])
    await ask(whole, root, "PATCH", path, status="inactive")
    inactive = await ask(whole, root, "POST", "/access/explain", **asked)
    await ask(whole, root, "PATCH", path, status="active", defaultEffect="allow")
    opened = [await listed(whole, user) for user in (alice, bob)]
    servers = whole.parts.database.collection("mcpservers")
    odd = {"$set": {"registry.default_effect": 7}}
    await servers.update_one({"_id": ObjectId(server["id"])}, odd, bypass_document_validation=True)
    await whole.parts.snapshot.server_changed(server["id"])

    every = ["add", "invoice", "wipe"]
    assert closed == [[], [], every]
    assert to_bob["message"].endswith(
        "The server refuses its tools by default, and no policy allows it."
    )
    only = ["invoice"]
    assert named == [[only, []], [[], only], [only, only], [[], []], [only, only]]
    assert invoice.structured_content == {"result": "invoice 7"}
    assert upstream.calls == ["invoice"]
    assert (inactive["allowed"], "inactive" in inactive["message"]) == (False, True)
    assert opened == [every, every]
    assert await listed(whole, alice) == only
