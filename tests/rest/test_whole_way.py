"""From a description to a call, on a real database: every path, both eras, and an older client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from aiohttp import web
from bson import ObjectId
from mcp import Client, ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from registry.auth.identity import UserContext
from registry.core.settings import Settings
from registry.main import application
from tests.fakes.descriptions import document
from tests.gateway.serving import serve
from tests.rest.serving import ScriptedApi, scripted_api

pytestmark = [pytest.mark.wire, pytest.mark.integration]

ERAS = ("legacy", "2026-07-28")
SECRET = "s3cr3t&key/12345"


@dataclass(frozen=True, slots=True)
class World:
    """A registry with an API for pets, and the token of who registered it."""

    url: str
    http: httpx.AsyncClient
    api: ScriptedApi
    token: str
    api_id: str

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        """Send a request; *path* follows `/api/v1`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = await self.http.request(method, f"/api/v1{path}", headers=headers, **request)
        assert answer.is_success, answer.text
        return answer.json()

    @asynccontextmanager
    async def client(self, path: str, mode: str) -> AsyncIterator[Client]:
        """Connect the SDK's client to a gateway path."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp{path}", http_client=http), mode=mode
            ) as client,
        ):
            yield client


async def _pets(request: web.Request) -> web.Response:
    if request.path == "/v1/pets" and request.method == "GET":
        return web.json_response([{"name": "Rex"}])
    return web.json_response({"error": "no such pet"}, status=404)


@pytest.fixture
async def world(settings: Settings, root: UserContext) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(90))
        api = await stack.enter_async_context(scripted_api(_pets))
        app, parts = await stack.enter_async_context(application(settings))
        url = await stack.enter_async_context(serve(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        user = {"_id": ObjectId(root.user_id), "username": root.username, "role": "ADMIN"}
        await parts.database.collection("users").insert_one({**user, "email": "r@example.com"})
        token = parts.issuer.issue(
            user_id=root.user_id,
            username=root.username,
            role=root.role,
            scopes=root.held_scopes,
            lifetime=timedelta(hours=1),
        )
        key = {"source": "admin", "key": SECRET, "authorization_type": "custom"}
        body = {
            "name": "pets",
            "document": document(server=f"{api.url}/v1"),
            "scope": "shared_app",
            "apiKey": {**key, "custom_header": "api_key", "location": "query"},
        }
        headers = {"Authorization": f"Bearer {token}"}
        made = await http.post("/api/v1/apis", json=body, headers=headers)
        assert made.status_code == 201, made.text
        api.seen.clear()
        yield World(url, http, api, token, made.json()["id"])


async def test_an_api_is_called_like_any_server(world: World) -> None:
    await world.ask(
        "POST",
        "/toolsets",
        json={
            "name": "vet",
            "entries": [
                {"server": "pets", "tool": "listPets", "name": "ten", "arguments": {"limit": 10}}
            ],
        },
    )
    found = []
    for mode in ERAS:
        for path, name in (
            ("/pets", "listPets"),
            ("", "pets__listPets"),
            ("/toolsets/vet", "ten"),
        ):
            async with world.client(path, mode) as client:
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                assert tools[name].meta is None
                arguments = {} if name == "ten" else {"limit": 3}
                result = await client.call_tool(name, arguments)
            assert result.structured_content == {"result": [{"name": "Rex"}]}
            found.append(world.api.seen.pop().target)

    query = "api_key=s3cr3t%26key%2F12345"
    assert (
        found
        == [
            f"/v1/pets?limit=3&{query}",
            f"/v1/pets?limit=3&{query}",
            f"/v1/pets?limit=10&{query}",
        ]
        * 2
    )


async def test_a_client_of_the_oldest_transport_calls_it_too(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.token}"}
    async with (
        sse_client(f"{world.url}/mcp/pets", headers=headers) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        result = await session.call_tool("showPet", {"petId": "../admin"})
        missing = await session.call_tool("showPet", {"petId": "7/8"})

    assert result.is_error
    assert missing.is_error
    assert "404" in str(missing.content)
    assert [seen.target.partition("?")[0] for seen in world.api.seen] == ["/v1/pets/7%2F8"]


async def test_the_key_is_in_no_answer_and_no_log(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async def quotes(request: web.Request) -> web.Response:
        return web.Response(status=403, text=f"refused: {request.raw_path}")

    world.api.answers = quotes
    for mode in ERAS:
        for path, name in (("/pets", "showPet"), ("", "pets__showPet")):
            async with world.client(path, mode) as client:
                result = await client.call_tool(name, {"petId": "7"})
            assert result.is_error
            assert "s3cr3t" not in str(result)
    calls = await world.ask("GET", "/usage")

    assert "s3cr3t" not in str(calls)
    assert "s3cr3t" not in capsys.readouterr().out


async def test_a_projection_is_set_and_taken_back(world: World) -> None:
    tools = (await world.ask("GET", "/registry/tools?source_type=openapi"))["tools"]
    tool_id = next(tool["id"] for tool in tools if tool["name"] == "listPets")
    results = []
    for expression in ("[].name", None):
        body = {"tool_metadata": {"projection": expression}}
        await world.ask("PATCH", f"/registry/tools/{tool_id}", json=body)
        wanted = {"result": ["Rex"] if expression else [{"name": "Rex"}]}
        while True:
            async with world.client("/pets", ERAS[1]) as client:
                result = await client.call_tool("listPets", {})
            if result.structured_content == wanted:
                break
        results.append(result.structured_content)

    assert results == [{"result": ["Rex"]}, {"result": [{"name": "Rex"}]}]


async def test_the_registry_is_an_api_of_itself(world: World) -> None:
    body = {
        "name": "itself",
        "url": f"{world.url}/api/v1/openapi.json",
        "baseUrl": world.url,
        "apiKey": {"key": world.token},
        "operations": {"include": [{"method": "get"}]},
    }

    # Made once for each process, which takes seconds.
    described = (await world.http.get("/api/v1/openapi.json", timeout=60)).json()
    made = await world.ask("POST", "/apis?strict=true", json=body)
    async with world.client("/itself", "legacy") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("list_apis", {"query": "pets"})

    reads = [path for path, item in described["paths"].items() if "get" in item]
    assert made["status"] == "active"
    assert "toolProblems" not in made
    assert len(tools) == made["numTools"] == len(reads)
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())
    assert result.structured_content is not None
    assert [api["name"] for api in result.structured_content["apis"]] == ["pets"]
