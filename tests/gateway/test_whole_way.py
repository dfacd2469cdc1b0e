"""From a client through the whole application to a real upstream, on a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from bson import ObjectId
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost, ToolsListChanged
from mcp.server.mcpserver import MCPServer
from pydantic import SecretStr
from pymongo import monitoring
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from registry.auth.identity import ALL_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.main import application
from registry.wiring.components import Components
from tests.fakes.blocking import BlockingCalls
from tests.fakes.mongo_daemon import start_daemon
from tests.gateway.failing import outcome
from tests.gateway.serving import serve
from tests.kit.commands import commands, settled

pytestmark = pytest.mark.wire


@dataclass(frozen=True, slots=True)
class Whole:
    """A running application in front of a running upstream."""

    url: str
    upstream: str
    parts: Components
    http: httpx.AsyncClient

    def token(self, user: UserContext) -> str:
        """Return a bearer token of *user*."""
        return self.parts.issuer.issue(
            user_id=user.user_id,
            username=user.username,
            role=user.role,
            scopes=user.held_scopes,
            lifetime=timedelta(hours=1),
            is_service_account=True,
        )

    def authorization(self, user: UserContext) -> dict[str, str]:
        """Return the Authorization header of *user*."""
        return {"Authorization": f"Bearer {self.token(user)}"}

    async def register(self, user: UserContext, name: str, **fields: object) -> dict[str, str]:
        """Register the upstream over the API."""
        answer = await self.http.post(
            "/api/v1/servers",
            json={"serverName": name, "url": self.upstream, **fields},
            headers=self.authorization(user),
        )
        assert answer.status_code == 201, answer.text
        server: dict[str, str] = answer.json()
        return server

    @asynccontextmanager
    async def client(
        self, user: UserContext, name: str, mode: str, **options: Any
    ) -> AsyncIterator[Client]:
        """Connect the SDK's client to a gateway path."""
        async with (
            httpx2.AsyncClient(headers=self.authorization(user), timeout=30) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp/{name}", http_client=http),
                mode=mode,
                **options,
            ) as client,
        ):
            yield client


class OwnCommands(monitoring.CommandListener):
    """Notes what requests send to the database themselves, and what the leases that they begin do.

    Attributes:
        own: Names of commands, of the requests and the tasks that they start.
        leases: Those of leases of quota.
    """

    def __init__(self) -> None:
        self._is_request: ContextVar[bool] = ContextVar("is_request", default=False)
        self.own: list[str] = []
        self.leases: list[str] = []

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an application that marks what its requests do."""

        async def marked(scope: Scope, receive: Receive, send: Send) -> None:
            self._is_request.set(scope["type"] == "http")
            await app(scope, receive, send)

        return marked

    @override
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if not self._is_request.get():
            return
        task = asyncio.current_task()
        is_lease = task is not None and "CallLimits._leased" in repr(task.get_coro())
        (self.leases if is_lease else self.own).append(event.command_name)

    @override
    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Ignore it."""

    @override
    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore it."""


@asynccontextmanager
async def running(
    settings: Settings, around: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> AsyncIterator[Whole]:
    upstream = MCPServer("upstream")

    @upstream.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async with (
        application(settings) as (app, parts),
        serve(upstream.streamable_http_app(), lifespan=True) as upstream_url,
        serve(around(app)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield Whole(url, f"{upstream_url}/mcp", parts, http)


@pytest.fixture
async def whole(settings: Settings) -> AsyncIterator[Whole]:
    async with running(settings) as whole:
        yield whole


ADMINISTRATOR = UserContext("9" * 24, "olga", Role.ADMIN, ALL_SCOPES)
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


async def put_user(whole: Whole, **fields: object) -> None:
    """Store the user behind `ADMINISTRATOR`, or change what is stored."""
    await whole.parts.database.collection("users").update_one(
        {"_id": ObjectId(ADMINISTRATOR.user_id)},
        {"$set": {"username": "olga", "role": "ADMIN", **fields}},
        upsert=True,
    )


async def remove_user(whole: Whole) -> None:
    """Remove that user."""
    users = whole.parts.database.collection("users")
    await users.delete_one({"_id": ObjectId(ADMINISTRATOR.user_id)})


@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        (remove_user, (401, 401, 401)),
        (lambda whole: put_user(whole, disabled=True), (401, 401, 401)),
        (lambda whole: put_user(whole, role="USER"), (404, 403, 403)),
    ],
    ids=["removed", "disabled", "demoted"],
)
async def test_a_token_of_ours_gives_no_more_than_its_user_has_at_this_moment(
    settings: Settings,
    alice: UserContext,
    change: Callable[[Whole], Awaitable[None]],
    statuses: tuple[int, int, int],
) -> None:
    async with running(settings.model_copy(update={"admin_uses_private": True})) as whole:
        await whole.register(alice, "sums")
        await put_user(whole)
        issuer, user = whole.parts.issuer, ADMINISTRATOR
        token = issuer.issue(
            user_id=user.user_id,
            username=user.username,
            role=user.role,
            scopes=user.held_scopes,
            lifetime=timedelta(hours=1),
        )
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
        }
        body = {"expires_in_hours": 1, "requested_scopes": ["read:audit"]}

        async def asked() -> tuple[int, int, int]:
            answers = [
                await whole.http.post("/mcp/sums", json=LIST, headers=headers),
                await whole.http.get("/api/v1/servers/stats", headers=headers),
                await whole.http.post("/api/v1/tokens/generate", json=body, headers=headers),
            ]
            first, second, third = (answer.status_code for answer in answers)
            return first, second, third

        before = await asked()
        await change(whole)
        async with asyncio.timeout(30):
            while await asked() != statuses:
                await SystemClock().sleep(0.02)

        assert before == (200, 200, 200)


@pytest.mark.requirement("R-019")
@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_a_registered_server_is_listed_and_called_in_each_era(
    whole: Whole, alice: UserContext, mode: str
) -> None:
    await whole.register(alice, "sums")

    async with whole.client(alice, "sums", mode) as client:
        tools = await client.list_tools()
        result = await client.call_tool("add", {"a": 2, "b": 3})

    assert [tool.name for tool in tools.tools] == ["add"]
    assert result.structured_content == {"result": 5}


async def test_an_open_stream_hears_of_servers_and_ends_with_its_token(
    whole: Whole, alice: UserContext, root: UserContext
) -> None:
    authorization = whole.authorization(alice)
    transport_http = httpx2.AsyncClient(headers=authorization, timeout=30)
    async with (
        asyncio.timeout(20),
        transport_http as http,
        Client(
            streamable_http_client(f"{whole.url}/mcp", http_client=http), mode="2026-07-28"
        ) as client,
        client.listen(tools_list_changed=True, prompts_list_changed=True) as listened,
    ):
        events = aiter(listened)
        server = await whole.register(alice, "sums")
        come = await anext(events)
        names = [tool.name for tool in (await client.list_tools()).tools]
        await whole.http.delete(f"/api/v1/servers/{server['id']}", headers=authorization)
        gone = await anext(events)
        revoked = await whole.http.post(
            "/api/v1/tokens/revoke",
            json={"user_id": alice.user_id},
            headers=whole.authorization(root),
        )
        with pytest.raises(SubscriptionLost):
            await anext(events)

    assert come == gone == ToolsListChanged()
    assert names == ["sums__add"]
    assert revoked.status_code < 300


@pytest.mark.parametrize("user", ["alice", "root"])
async def test_a_warm_call_sends_no_command_to_the_database(
    settings: Settings, request: pytest.FixtureRequest, user: str
) -> None:
    caller: UserContext = request.getfixturevalue(user)
    # Records of calls are written in batches later, and jobs are looked for, which is not what
    # this is about.
    without_records = settings.model_copy(
        update={"usage_retention_days": 0, "sync_worker_enabled": False}
    )

    async with running(without_records) as whole:
        await whole.register(caller, "sums")
        async with whole.client(caller, "sums", "legacy") as client:
            await client.call_tool("add", {"a": 1, "b": 1})
            before = await settled(whole.parts.metrics)
            for number in range(20):
                await client.call_tool("add", {"a": number, "b": 1})
                await client.list_tools()

        assert commands(whole.parts.metrics) == before


async def govern(whole: Whole, user: UserContext) -> None:
    """Register a server, and switch on all that governs calls of its tool."""
    headers = whole.authorization(user)
    api = f"{whole.url}/api/v1"
    owner = {"owner_id": (await whole.register(user, "sums"))["id"]}
    tools = (await whole.http.get(f"{api}/registry/tools", headers=headers)).json()["tools"]
    (tool,) = [one for one in tools if one["owner_id"] == owner["owner_id"]]
    priced = {"tool_metadata": {"price_per_call": 0.5, "billing_tags": ["gpu"]}}
    changed = await whole.http.patch(
        f"{api}/registry/tools/{tool['id']}", json=priced, headers=headers
    )
    assert changed.status_code == 200, changed.text
    everyone = {"everyone": True}
    rates = [{"count": 100_000, "per": "hour"}]
    bodies: dict[str, dict[str, object]] = {
        "access/policies": {"effect": "allow", "target": owner, "subjects": everyone},
        "limits": {"target": owner, "per": ["user"], "rates": rates, "in_flight": 100},
        "budgets": {"amount": 1_000, "subjects": everyone},
        "toolsets": {"entries": [{"server": "sums", "tool": "add", "name": "plus"}]},
    }
    for path, body in bodies.items():
        written = await whole.http.post(
            f"{api}/{path}", json={"name": "all", **body}, headers=headers
        )
        assert written.status_code == 201, written.text


async def test_a_warm_call_with_all_of_governance_sends_no_command_of_its_own(
    settings: Settings, root: UserContext
) -> None:
    sent = OwnCommands()
    monitoring.register(sent)

    async with running(settings, sent.around) as whole, asyncio.timeout(30):
        await govern(whole, root)
        assert "insert" in sent.own
        for mode in ("legacy", "2026-07-28"):
            for path, name in {"sums": "add", "toolsets/all": "plus"}.items():
                async with whole.client(root, path, mode) as client:
                    # The limit is in force once quota was leased for it.
                    await client.call_tool(name, {"a": 1, "b": 1})
                    while not sent.leases:
                        await client.call_tool(name, {"a": 1, "b": 1})
                    refused = await client.call_tool(name, {"a": "x", "b": 1})
                    sent.own.clear()
                    results = [await client.call_tool(name, {"a": n, "b": 1}) for n in range(20)]
                    own = [*sent.own]

                assert own == []
                assert refused.is_error
                assert not any(result.is_error for result in results)


@pytest.mark.requirement("R-242")
async def test_what_a_caller_may_not_see_is_answered_like_what_is_not_there(
    whole: Whole, alice: UserContext, bob: UserContext
) -> None:
    off = await whole.register(alice, "off")
    await whole.register(alice, "hidden")
    toggled = await whole.http.post(
        f"/api/v1/servers/{off['id']}/toggle",
        json={"enabled": False},
        headers=whole.authorization(alice),
    )
    assert toggled.status_code == 200
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {
        **whole.authorization(bob),
        "Accept": "application/json, text/event-stream",
    }

    answers = [
        await whole.http.post(f"/mcp/{name}", json=message, headers=headers)
        for name in ("off", "hidden", "never-was")
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert len({answer.text for answer in answers}) == 1


async def test_the_gateway_outlives_the_database_for_a_while_and_recovers(
    settings: Settings, tmp_path: Path, alice: UserContext
) -> None:
    with start_daemon(tmp_path / "mongo") as daemon:
        changed = settings.model_copy(
            update={
                "mongo_uri": SecretStr(f"{daemon.uri}test"),
                "mongo_timeout_ms": 300,
                "gateway_max_staleness_seconds": 4.0,
                "user_cache_seconds": 60,
            }
        )
        async with running(changed) as whole, asyncio.timeout(100):
            await whole.register(alice, "sums")
            async with whole.client(alice, "sums", "legacy") as client:
                daemon.stop()
                served = await client.call_tool("add", {"a": 1, "b": 1})
                await until_ready(whole, ready=False)
                sent = whole.authorization(alice)
                sent["Accept"] = "application/json, text/event-stream"
                while (
                    outcome(refused := await whole.http.post("/mcp/sums", json=LIST, headers=sent))
                    == httpx.codes.OK
                ):
                    await SystemClock().sleep(0.05)
                listed = await whole.http.get(
                    "/api/v1/servers", headers=whole.authorization(alice)
                )
                daemon.restart()
                await until_ready(whole, ready=True)
                again = await client.call_tool("add", {"a": 2, "b": 2})

    assert (served.structured_content, again.structured_content) == ({"result": 2}, {"result": 4})
    assert (outcome(refused), listed.status_code) == (503, 503)
    assert listed.json()["error"] == "service_unavailable"
    assert "retry-after" in refused.headers
    assert "retry-after" in listed.headers


async def until_ready(whole: Whole, *, ready: bool) -> None:
    wanted = 200 if ready else 503
    while (await whole.http.get("/health/ready")).status_code != wanted:
        await SystemClock().sleep(0.05)


@pytest.mark.requirement("R-333")
async def test_nothing_on_the_way_makes_the_event_loop_wait(
    settings: Settings, alice: UserContext
) -> None:
    with BlockingCalls() as seen:
        async with running(settings) as whole:
            server = await whole.register(alice, "sums")
            async with whole.client(alice, "sums", "auto") as client:
                await client.list_tools()
                await client.call_tool("add", {"a": 2, "b": 3})
            headers = whole.authorization(alice)
            await whole.http.post(f"/api/v1/servers/{server['id']}/refresh", headers=headers)
            await whole.http.delete(f"/api/v1/servers/{server['id']}", headers=headers)

    assert seen == []
