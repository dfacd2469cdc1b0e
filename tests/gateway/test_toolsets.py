"""Toolsets: from the API to clients of both eras, on a real database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from bson import ObjectId
from mcp import Client, ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ToolsListChanged
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation

from registry.access.policy import ServerScope
from registry.access.toolsets.values import DefaultFor, Toolset
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.gateway.view.toolsets import HeldToolset, Toolsets
from registry.main import application
from registry.wiring.components import Components
from tests.fakes.clock import FakeClock
from tests.gateway.serving import serve

pytestmark = pytest.mark.wire

ERAS = ("legacy", "2026-07-28")
ACCEPT = {"Accept": "application/json, text/event-stream"}


@dataclass
class Sets:
    """A running registry in front of two servers with tools of the same names."""

    url: str
    code_url: str
    wiki_url: str
    parts: Components
    http: httpx.AsyncClient
    code: MCPServer
    ids: dict[str, str] = field(default_factory=dict)
    tokens: dict[tuple[str, str | None], str] = field(default_factory=dict)

    async def token(self, user: UserContext, toolset: str | None = None) -> str:
        """Return a token of a stored user."""
        key = (user.user_id, toolset)
        if key not in self.tokens:
            self.tokens[key] = self.parts.issuer.issue(
                user_id=user.user_id,
                username=user.username,
                role=user.role,
                scopes=user.held_scopes,
                lifetime=timedelta(hours=1),
                toolset=toolset,
            )
        return self.tokens[key]

    async def ask(
        self, user: UserContext, method: str, path: str, **request: Any
    ) -> httpx.Response:
        """Send a request; *path* follows `/api/v1`."""
        headers = {
            "Authorization": f"Bearer {await self.token(user)}",
            **request.pop("headers", {}),
        }
        return await self.http.request(method, f"/api/v1{path}", headers=headers, **request)

    async def made(self, user: UserContext, name: str, *entries: Any, **more: Any) -> Any:
        """Create a toolset."""
        body = {"name": name, "entries": list(entries), **more}
        answer = await self.ask(user, "POST", "/toolsets", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    @asynccontextmanager
    async def client(
        self,
        user: UserContext,
        path: str,
        mode: str,
        *,
        header: str | None = None,
        claim: str | None = None,
        name: str | None = None,
    ) -> AsyncIterator[Client]:
        """Connect the SDK's client to a gateway path."""
        headers = {"Authorization": f"Bearer {await self.token(user, claim)}"}
        if header is not None:
            headers["Mcp-Toolset"] = header
        info: dict[str, Any] = {}
        if name is not None:
            info["client_info"] = Implementation(name=name, version="1")
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp{path}", http_client=http),
                mode=mode,
                **info,
            ) as client,
        ):
            yield client

    async def names(self, user: UserContext, path: str, mode: str, **more: Any) -> list[str]:
        """Return the names of the tools at a path."""
        async with self.client(user, path, mode, **more) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    async def refused(self, user: UserContext, path: str, **headers: str) -> tuple[int, str]:
        """Return the HTTP status and the text of the refusal of a list."""
        sent = {"Authorization": f"Bearer {await self.token(user)}", **ACCEPT, **headers}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        answer = await self.http.post(f"/mcp{path}", json=body, headers=sent)
        return answer.status_code, answer.text


def code_server() -> MCPServer:
    """Return a server with five tools."""
    server = MCPServer("code")

    @server.tool(title="Search code")
    def search(query: str, repo: str, limit: int = 10) -> str:
        """Search a repository."""
        return f"{query} in {repo}, {limit}"

    @server.tool()
    def get_file(path: str) -> str:
        """Read a file."""
        return path

    @server.tool()
    def list_files() -> str:
        """List files."""
        return "files"

    @server.tool()
    def create_issue(title: str) -> str:
        """Open an issue."""
        return title

    @server.tool()
    def drop_repo(repo: str) -> str:
        """Remove a repository."""
        return repo

    return server


def wiki_server() -> MCPServer:
    """Return another server that has a tool of the same name."""
    server = MCPServer("wiki")

    @server.tool()
    def search(query: str) -> str:
        """Search the wiki."""
        return f"wiki: {query}"

    @server.tool()
    def get_page(title: str) -> str:
        """Read a page."""
        return title

    return server


@asynccontextmanager
async def running(settings: Settings, *users: UserContext) -> AsyncIterator[Sets]:
    """Start the registry, with both servers shared with all users."""
    server = code_server()
    async with (
        application(settings) as (app, parts),
        serve(server.streamable_http_app(), lifespan=True) as code,
        serve(wiki_server().streamable_http_app(), lifespan=True) as wiki,
        serve(app) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as http,
    ):
        await parts.database.collection("users").insert_many(
            [
                {
                    "_id": ObjectId(user.user_id),
                    "username": user.username,
                    "email": f"{user.username}@example.com",
                    "role": user.role.upper(),
                }
                for user in users
            ]
        )
        sets = Sets(url, f"{code}/mcp", f"{wiki}/mcp", parts, http, server)
        for name, upstream in (("code", sets.code_url), ("wiki", sets.wiki_url)):
            answer = await sets.ask(
                users[0],
                "POST",
                "/servers",
                json={"serverName": name, "url": upstream, "scope": "shared_app"},
            )
            assert answer.status_code == 201, answer.text
            sets.ids[name] = answer.json()["id"]
        yield sets


@pytest.mark.requirement("R-222")
async def test_a_toolset_is_what_it_says_for_clients_of_both_eras(
    settings: Settings, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    async with asyncio.timeout(60), running(settings, root, alice, bob) as sets:
        five = (
            {
                "server": "code",
                "tool": "search",
                "name": "search_docs",
                "title": "Search the manual",
                "description": "Search the manual alone.",
                "arguments": {"repo": "manual"},
            },
            {
                "server": "/mcp/code",
                "tool": "search",
                "name": "search_app",
                "version": 1,
                "arguments": {"repo": "app", "limit": 3},
            },
            {"server": sets.ids["code"], "tool": "get_*"},
            {"server": "code", "tool": "list_files"},
            {"server": "wiki", "tool": "search"},
        )
        made = await sets.made(alice, "agent", *five, title="For the agent")
        expected = [
            "code__get_file",
            "code__list_files",
            "search_app",
            "search_docs",
            "wiki__search",
        ]

        assert [tool["name"] for tool in made["tools"]] == expected
        assert made["problems"] == []
        for mode in ERAS:
            async with sets.client(alice, "/toolsets/agent", mode) as client:
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                docs = await client.call_tool("search_docs", {"query": "x", "repo": "secret"})
                app = await client.call_tool("search_app", {"query": "y"})
                page = await client.call_tool("wiki__search", {"query": "z"})
                for hidden in ("search", "code__search", "code__drop_repo", "drop_repo"):
                    with pytest.raises(Exception, match="nknown tool"):
                        await client.call_tool(hidden, {"query": "x", "repo": "app"})
                prompts = await client.list_prompts()
            assert list(tools) == expected
            search = tools["search_docs"]
            assert (search.title, search.description) == (
                "Search the manual",
                "Search the manual alone.",
            )
            assert list(search.input_schema["properties"]) == ["query", "limit"]
            assert search.input_schema["required"] == ["query"]
            assert docs.structured_content == {"result": "x in manual, 10"}
            assert app.structured_content == {"result": "y in app, 3"}
            assert page.structured_content == {"result": "wiki: z"}
            assert prompts.prompts == []

        # Another's private toolset does not exist.
        assert (await sets.refused(bob, "/toolsets/agent"))[0] == 404

        # A deny policy narrows it within a second; the listing clients hear of it.
        async with (
            sets.client(alice, "/toolsets/agent", "2026-07-28") as client,
            client.listen(tools_list_changed=True) as listened,
        ):
            events = aiter(listened)
            policy = {
                "name": "no search",
                "effect": "deny",
                "target": {"owner_id": sets.ids["code"], "tools": ["search"]},
                "subjects": {"everyone": True},
            }
            denied = await sets.ask(root, "POST", "/access/policies", json=policy)
            assert denied.status_code == 201, denied.text
            assert await anext(events) == ToolsListChanged()
            left = [tool.name for tool in (await client.list_tools()).tools]
            renamed = {"entries": [{"server": "wiki", "tool": "search", "name": "find"}]}
            seen = await sets.ask(alice, "GET", f"/toolsets/{made['id']}")
            patched = await sets.ask(
                alice,
                "PATCH",
                f"/toolsets/{made['id']}",
                json=renamed,
                headers={"If-Match": seen.headers["etag"]},
            )
            assert patched.status_code == 200, patched.text
            assert await anext(events) == ToolsListChanged()
            found = [tool.name for tool in (await client.list_tools()).tools]
        assert left == ["code__get_file", "code__list_files", "wiki__search"]
        assert [problem["entry"] for problem in seen.json()["problems"]] == [0, 1]
        assert found == ["find"]
        stale = await sets.ask(
            alice,
            "PUT",
            f"/toolsets/{made['id']}",
            json={"name": "agent", "entries": []},
            headers={"If-Match": '"1"'},
        )
        assert stale.status_code in {409, 412}
        emptied = await sets.ask(
            alice, "PUT", f"/toolsets/{made['id']}", json={"name": "agent", "entries": []}
        )
        assert emptied.json()["title"] is None
        assert await sets.names(alice, "/toolsets/agent", "legacy") == []


async def test_names_of_anothers_toolsets_are_in_nobodys_way(
    settings: Settings, alice: UserContext, bob: UserContext, root: UserContext
) -> None:
    async with running(settings, root, alice, bob) as sets:

        async def tools(user: UserContext) -> list[str]:
            async with sets.client(user, "/toolsets/mine", "2026-07-28") as client:
                return [tool.name for tool in (await client.list_tools()).tools]

        def entry(tool: str) -> dict[str, str]:
            return {"server": "code", "tool": tool}

        roots = await sets.made(root, "mine", entry("list_files"))
        await sets.made(alice, "mine", entry("search"))
        again = await sets.ask(alice, "POST", "/toolsets", json={"name": "mine", "entries": []})
        missing = await sets.refused(bob, "/toolsets/mine")
        asked = {"toolset": "mine", "expires_in_hours": 1}
        unknown = await sets.ask(bob, "POST", "/tokens/generate", json=asked)
        before = await tools(alice)
        path = f"/permissions/toolset/{roots['id']}"
        shared = await sets.ask(root, "PUT", path, json={"public": True})
        known = await sets.ask(bob, "POST", "/tokens/generate", json=asked)
        oldest = [await tools(bob), await tools(root)]
        bobs = await sets.made(bob, "mine", entry("get_file"))
        own = [await tools(alice), await tools(bob)]
        removed = await sets.ask(bob, "DELETE", f"/toolsets/{bobs['id']}")

        assert again.status_code == 409
        assert missing[0] == 404
        assert "unknown toolset mine" in unknown.text
        assert shared.status_code == 200, shared.text
        assert known.status_code == 200, known.text
        assert before == ["code__search"]
        assert oldest == [["code__list_files"]] * 2
        assert own == [["code__search"], ["code__get_file"]]
        assert removed.status_code == 204
        assert await tools(bob) == ["code__list_files"]


async def test_headers_tokens_and_defaults_narrow_and_never_widen(
    settings: Settings, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    async with asyncio.timeout(60), running(settings, root, alice, bob) as sets:
        reading = await sets.made(
            root,
            "reading",
            {"server": "code", "tool": "get_*"},
            {"server": "code", "tool": "search", "arguments": {"repo": "app"}},
            {"server": "wiki", "tool": "*"},
        )
        shared = await sets.ask(
            root, "PUT", f"/permissions/toolset/{reading['id']}", json={"public": True}
        )
        assert shared.status_code == 200, shared.text
        mine = await sets.made(
            alice,
            "mine",
            {"server": "code", "tool": "search", "name": "find"},
            {"server": "code", "tool": "drop_repo"},
        )
        narrow = {"code": ["code__get_file", "code__search"]}

        for mode in ERAS:
            assert await sets.names(bob, "/code", mode, header="reading") == narrow["code"]
            assert await sets.names(bob, "/code", mode, claim="reading") == narrow["code"]
            assert await sets.names(bob, "", mode, header="reading") == [
                *narrow["code"],
                "wiki__get_page",
                "wiki__search",
            ]
            # Its own toolset cannot give back what the token does not have, and the preset holds.
            async with sets.client(alice, "/toolsets/mine", mode, claim="reading") as client:
                assert [tool.name for tool in (await client.list_tools()).tools] == ["find"]
                result = await client.call_tool("find", {"query": "q", "repo": "other"})
                assert result.structured_content == {"result": "q in app, 10"}
            both = await sets.names(alice, "/code", mode, header="mine", claim="reading")
            assert both == ["find"]
        # Nor can a token that is limited to a toolset widen it.
        limited = {"Authorization": f"Bearer {await sets.token(alice, 'mine')}"}
        for method, path, body in (
            ("PATCH", f"/toolsets/{mine['id']}", {"entries": [{"server": "code", "tool": "*"}]}),
            ("DELETE", f"/toolsets/{mine['id']}", None),
            ("POST", "/toolsets", {"name": "more", "entries": []}),
        ):
            answer = await sets.ask(alice, method, path, json=body, headers=limited)
            assert answer.status_code == 403
            assert "limited to the toolset mine" in answer.text
        await stays_limited(sets, alice, mine)
        # A client of HTTP+SSE is limited to what its stream began with.
        sent = {"Authorization": f"Bearer {await sets.token(alice)}", "Mcp-Toolset": "mine"}
        async with (
            sse_client(f"{sets.url}/mcp/code", headers=sent) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            assert tools == ["code__drop_repo", "find"]
        for path, header in (
            ("/toolsets/nothing", None),
            ("/toolsets/mine", None),
            ("/code", "mine"),
            ("", "nothing"),
        ):
            status, text = await sets.refused(
                bob, path, **({} if header is None else {"Mcp-Toolset": header})
            )
            assert status == 404
            assert "does not exist, or you may not use it" in text

        # Defaults: an administrator narrows what others find at /mcp, and at /mcp alone.
        own = {"default_for": {"users": [bob.user_id]}}
        forbidden = await sets.ask(
            alice, "POST", "/toolsets", json={"name": "x", "entries": [], **own}
        )
        assert forbidden.status_code == 403
        default = {"default_for": {"users": [bob.user_id], "clients": ["ide"]}}
        given = await sets.ask(root, "PATCH", f"/toolsets/{reading['id']}", json=default)
        assert given.status_code == 200, given.text
        for mode in ERAS:
            assert await sets.names(bob, "", mode) == [
                "code__get_file",
                "code__search",
                "wiki__get_page",
                "wiki__search",
            ]
            assert len(await sets.names(bob, "/code", mode)) == 5
            assert len(await sets.names(alice, "", mode)) == 7
            assert len(await sets.names(alice, "", mode, name="ide")) == 4
        for user in (alice, bob):
            for path, narrowing in PATHS:
                await require_explained(sets, user, path, narrowing)
        private = await sets.ask(
            root, "PUT", f"/permissions/toolset/{reading['id']}", json={"public": False}
        )
        assert private.status_code == 200
        status, text = await sets.refused(bob, "")
        assert (status, "by default" in text) == (404, True)


async def stays_limited(sets: Sets, alice: UserContext, mine: Any) -> None:
    """Let the name of a token's toolset mean another one: the token keeps the first."""
    asked = {"expires_in_hours": 1, "toolset": "mine"}
    unknown = await sets.ask(
        alice, "POST", "/tokens/generate", json={**asked, "toolset": "nothing"}
    )
    issued = await sets.ask(alice, "POST", "/tokens/generate", json=asked)
    refresh = {"refresh_token": issued.json()["tokens"]["refresh_token"]}
    renewed = await sets.ask(alice, "POST", "/tokens/refresh-session", json=refresh)
    sets.tokens[alice.user_id, "issued"] = renewed.json()["tokens"]["access_token"]
    path, tools = f"/toolsets/{mine['id']}", ["code__drop_repo", "find"]

    await sets.ask(alice, "PATCH", path, json={"name": "older"})
    wide = await sets.made(alice, "mine", {"server": "code", "tool": "*"})

    assert len(await sets.names(alice, "/toolsets/mine", ERAS[1])) == 5
    for mode in ERAS:
        assert await sets.names(alice, "", mode, claim="issued") == tools
    issued_list = (await sets.ask(alice, "GET", "/tokens/issued")).json()
    assert '"toolset": "mine"' in json.dumps(issued_list)
    await sets.ask(alice, "DELETE", f"/toolsets/{wide['id']}")
    await sets.ask(alice, "PATCH", path, json={"name": "mine"})
    assert (unknown.status_code, "unknown toolset nothing" in unknown.text) == (422, True)


PATHS: tuple[tuple[str, dict[str, str]], ...] = (
    ("", {}),
    ("", {"client_name": "ide"}),
    ("", {"toolset": "reading"}),
    ("", {"toolset": "mine"}),
    ("/code", {}),
    ("/code", {"toolset": "reading"}),
    ("/toolsets/reading", {}),
    ("/toolsets/mine", {}),
    ("/toolsets/nothing", {}),
)
TOOLS = (
    *("code__search", "code__get_file", "code__list_files", "code__drop_repo", "code__none"),
    *("wiki__search", "wiki__get_page", "find"),
)


async def require_explained(
    sets: Sets, user: UserContext, path: str, narrowing: dict[str, str]
) -> None:
    """Check that each tool is explained as the list of the path has it."""
    header, client = narrowing.get("toolset"), narrowing.get("client_name")
    try:
        listed = set(await sets.names(user, path, ERAS[1], header=header, name=client))
    except* MCPError:
        listed = set()
    for tool in TOOLS:
        asked = {"path": f"/mcp{path}", "tool": tool, **narrowing}
        answer = await sets.ask(user, "POST", "/access/explain", json=asked)
        assert answer.status_code in {200, 404}, answer.text
        explained = answer.json()
        # At the path of one server without a toolset, tools have their own names, too.
        is_listed = tool in listed or (path == "/code" and tool.removeprefix("code__") in listed)
        assert explained.get("allowed", False) is is_listed, (user.username, asked, explained)
        if answer.status_code == 200 and is_listed:
            assert "toolset" in [reason["step"] for reason in explained["reasons"]]


async def test_a_thousand_tools_resolve_in_a_moment_and_what_is_wrong_is_said(
    settings: Settings, root: UserContext, alice: UserContext
) -> None:
    async with asyncio.timeout(60), running(settings, root, alice) as sets:
        bad = (
            ({"server": "code", "tool": "search", "arguments": {"limit": "many"}}, 422),
            ({"server": "code", "tool": "get_*", "name": "one"}, 422),
            ({"server": "nowhere", "tool": "x"}, 422),
            ({"server": "code"}, 422),
            ({"server": "code", "tool": "x", "arguments": {"n": 2**70}}, 422),
            ({"metadata": {"colour": True}}, 422),
        )
        for entry, status in bad:
            body = {"name": "bad", "entries": [entry]}
            answer = await sets.ask(alice, "POST", "/toolsets", json=body)
            assert answer.status_code == status, (entry, answer.text)
        made = await sets.made(
            alice,
            "odd",
            {"server": "code", "tool": "never_was"},
            {"server": "code", "tool": "get_file", "version": 7},
            {"server": "code", "tool": "list_files", "name": "same"},
            {"server": "code", "tool": "*"},
            {"metadata": {"read_only": True}},
            {"tag": "none"},
        )
        assert [tool["name"] for tool in made["tools"]] == [
            "code__create_issue",
            "code__drop_repo",
            "code__search",
            "same",
            "wiki__get_page",
        ]
        assert made["problems"] == [
            {
                "entry": 0,
                "message": "the server has no such tool that is available to you",
            },
            {"entry": 1, "message": "get_file: version 7 is pinned, and version 1 is served"},
        ]
        await follow_tools(sets, root, alice)
        gone = await sets.ask(root, "DELETE", f"/servers/{sets.ids['code']}")
        assert gone.status_code in {200, 204}
        async with asyncio.timeout(30):
            while (await sets.names(alice, "/toolsets/odd", "legacy")) != ["wiki__get_page"]:
                await SystemClock().sleep(0.02)
        seen = (await sets.ask(alice, "GET", f"/toolsets/{made['id']}")).json()
        assert {problem["entry"] for problem in seen["problems"]} == {0, 1, 2, 3}
        # What names a removed server may stay when the rest is changed.
        kept = await sets.ask(
            alice, "PATCH", f"/toolsets/{made['id']}", json={"entries": seen["entries"][:3]}
        )
        assert kept.status_code == 200, kept.text
        removed = await sets.ask(alice, "DELETE", f"/toolsets/{made['id']}")
        assert removed.status_code == 204
        assert (await sets.refused(alice, "/toolsets/odd"))[0] == 404


@pytest.mark.parametrize(
    ("defaults", "found"),
    [
        (("token", "user", "role", "client"), "token"),
        (("user", "role", "client"), "user"),
        (("role", "client"), "role"),
        (("client",), "client"),
        ((), None),
    ],
)
def test_the_most_specific_default_counts_and_only_in_its_tenant(
    alice: UserContext, defaults: tuple[str, ...], found: str | None
) -> None:
    caller = replace(alice, token_id="t1", tenant_id="acme")
    callers = {
        "token": DefaultFor(tokens=("t1",)),
        "user": DefaultFor(users=(alice.user_id,)),
        "role": DefaultFor(roles=("user",)),
        "client": DefaultFor(clients=("ide",)),
    }
    toolsets = Toolsets(FakeClock())
    held = {
        f"{tenant}-{kind}": Toolset(
            *(f"{tenant}-{kind}", kind, tenant, "c" * 24, ServerScope.SHARED_APP, ()),
            default_for=callers[kind],
        )
        for kind in defaults
        for tenant in ("acme", "other")
    }
    toolsets.replace({key: HeldToolset(one, ()) for key, one in held.items()})

    default = toolsets.default_of(caller, "ide")

    assert (None if default is None else default.toolset.id) == (found and f"acme-{found}")
    assert toolsets.default_of(replace(caller, tenant_id=None), "ide") is None


def list_files() -> str:
    """List files."""
    return "files"


def search(query: str, repo: str, limit: str = "few") -> str:
    """Search a repository."""
    return f"{query} in {repo}, {limit}"


async def follow_tools(sets: Sets, root: UserContext, alice: UserContext) -> None:
    """Take a tool from the server, give it back, and change another: the toolset follows."""
    made = await sets.made(
        alice,
        "steady",
        {"server": "code", "tool": "list_files", "name": "files"},
        {"server": "code", "tool": "search", "arguments": {"limit": 3}},
        {"server": "code", "tool": "search", "name": "find", "version": 1},
    )

    async def refreshed() -> dict[str, Any]:
        answer = await sets.ask(root, "POST", f"/servers/{sets.ids['code']}/refresh")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async with (
        sets.client(alice, "/toolsets/steady", "2026-07-28") as client,
        client.listen(tools_list_changed=True) as listened,
    ):
        events = aiter(listened)

        async def notified() -> tuple[list[str], dict[int, str]]:
            assert await anext(events) == ToolsListChanged()
            listed = [tool.name for tool in (await client.list_tools()).tools]
            seen = (await sets.ask(alice, "GET", f"/toolsets/{made['id']}")).json()
            assert listed == [tool["name"] for tool in seen["tools"]]
            return listed, {one["entry"]: one["message"] for one in seen["problems"]}

        sets.code.remove_tool("list_files")
        await refreshed()
        missing = await notified()
        sets.code.add_tool(list_files)
        await refreshed()
        back = await notified()
        # While the change is held, the approved definition is served, which the preset fits.
        sets.code.remove_tool("search")
        sets.code.add_tool(search)
        assert (await refreshed())["heldTools"] == ["search"]
        held = (await client.list_tools()).tools
        pending = await sets.ask(root, "GET", "/registry/tools?review=pending")
        (tool,) = pending.json()["tools"]
        accepted = await sets.ask(
            root,
            "POST",
            f"/registry/tools/{tool['id']}/accept",
            json={"hash": tool["pending_hash"]},
        )
        assert accepted.status_code == 200, accepted.text
        changed = await notified()

    assert missing == (
        ["code__search", "find"],
        {0: "the server has no such tool that is available to you"},
    )
    assert back == (["code__search", "files", "find"], {})
    assert [one.name for one in held] == back[0]
    assert changed == (
        ["files"],
        {
            1: "search: arguments.limit: does not match type of the tool's definition",
            2: "search: version 1 is pinned, and version 2 is served",
        },
    )
