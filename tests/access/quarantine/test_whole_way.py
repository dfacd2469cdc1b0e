"""A quarantine in the middle of a long call: two replicas, a real server, the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import httpx
import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.main import application
from tests.gateway.serving import serve
from tests.gateway.test_whole_way import LIST, Whole
from tests.kit.waiting import until_async

pytestmark = pytest.mark.wire

MODES = ("legacy", "2026-07-28")
PATHS = {"news": "watch", "": "news__watch"}
IN_FORCE_SECONDS = 1.0


class News:
    """An MCP server with a tool that reports progress for some seconds."""

    def __init__(self) -> None:
        self.server = MCPServer("news")

        @self.server.tool()
        async def watch(ctx: Context) -> str:
            """Report what happens."""
            for number in range(300):
                await ctx.report_progress(number)
                await SystemClock().sleep(0.02)
            return "the end"

        @self.server.tool()
        def latest() -> str:
            """Return what happened last."""
            return "nothing"


@asynccontextmanager
async def replicas(settings: Settings, news: News) -> AsyncIterator[tuple[Whole, Whole]]:
    """Start two registries on one database, in front of one server."""
    async with (
        application(settings) as (first, first_parts),
        application(settings) as (second, second_parts),
        serve(news.server.streamable_http_app(), lifespan=True) as upstream,
        serve(first) as first_url,
        serve(second) as second_url,
        httpx.AsyncClient(base_url=first_url, timeout=30) as first_http,
        httpx.AsyncClient(base_url=second_url, timeout=30) as second_http,
    ):
        url = f"{upstream}/mcp"
        yield (
            Whole(first_url, url, first_parts, first_http),
            Whole(second_url, url, second_parts, second_http),
        )


async def asked(whole: Whole, user: UserContext, method: str, path: str, **sent: Any) -> Any:
    """Send a request to the API and return its body."""
    headers = whole.authorization(user)
    answer = await whole.http.request(method, f"/api/v1{path}", headers=headers, **sent)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def serves_news(whole: Whole, user: UserContext) -> bool:
    """Return whether a registry knows the server, which another one registered."""
    headers = whole.authorization(user) | {"Accept": "application/json, text/event-stream"}
    answer = await whole.http.post("/mcp/news", json=LIST, headers=headers)
    return answer.is_success


async def ended_by_quarantine(
    first: Whole, second: Whole, users: tuple[UserContext, UserContext], where: str
) -> tuple[float, dict[str, Any], str]:
    """Quarantine a user at one replica while a call of theirs streams from the other.

    Args:
        first: Where the quarantine is written.
        second: Where the call is made.
        users: The administrator, and whose call it is.
        where: The era of the client, and the path.

    Returns:
        After how many seconds the call had ended, what had been reached, and how the call ended.
    """
    mode, path = where.split(" ")
    root, user = users
    clock, told = SystemClock(), asyncio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        if progress:
            told.set()

    async def call() -> str:
        async with second.client(user, path, mode) as client:
            try:
                result = await client.call_tool(PATHS[path], {}, progress_callback=heard)
            except MCPError as exc:
                return str(exc)
            return str(result.content)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await told.wait()
        began = clock.monotonic()
        body = {"kind": "user", "subject": user.user_id, "reason": "odd", "ends_calls": True}
        made = await asked(first, root, "POST", "/access/quarantine", json=body)
        said = await task
        seconds = clock.monotonic() - began
    await asked(first, root, "DELETE", f"/access/quarantine/{made['id']}")
    headers = second.authorization(user)
    while not (await second.http.get("/api/v1/servers", headers=headers)).is_success:
        await clock.sleep(0.02)
    return seconds, made["reached"], said


async def test_a_quarantine_ends_a_streaming_call_at_another_replica_and_says_what_was_reached(
    settings: Settings, root: UserContext, alice: UserContext
) -> None:
    news = News()
    async with asyncio.timeout(150), replicas(settings, news) as (first, second):
        await first.register(root, "news", scope="shared_app")
        await until_async(lambda: serves_news(second, alice))
        async with second.client(alice, "news", MODES[0]) as client:
            await client.call_tool("latest", {})
        while not (await asked(first, root, "GET", "/usage"))["records"]:
            await SystemClock().sleep(0.05)

        ends = [
            await ended_by_quarantine(first, second, (root, alice), f"{mode} {path}")
            for mode in MODES
            for path in PATHS
        ]
        async with second.client(alice, "news", MODES[0]) as client:
            again = await client.call_tool("latest", {})

    assert median(seconds for seconds, _, _ in ends) < IN_FORCE_SECONDS
    assert ["is in quarantine" in said for _, _, said in ends] == [True] * len(ends)
    assert ["the server may have done it" in said for _, _, said in ends] == [True] * len(ends)
    reached = ends[0][1]
    assert (reached["calls"], reached["is_complete"]) == (1, True)
    assert [(one["server"], one["tool"]) for one in reached["groups"]] == [("news", "latest")]
    assert "nothing" in str(again.content)
