"""What calls through the gateway show of connections to servers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from registry.connections.values import Connection
from registry.core.clock import SystemClock
from registry.gateway.values import Route
from registry.servers.values import Era, Transport
from tests.conftest import ALICE, BOB
from tests.fakes.connections import Connections, connections_of
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import LegacyServer
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve

VERSION = datetime(2026, 1, 1, tzinfo=UTC)
SERVER = "demo".ljust(24, "0")
CALL = request("tools/call", {"name": "echo", "arguments": {}})


@dataclass
class Watched:
    """A gateway whose connections are known, in front of an upstream."""

    gateway: Gateway
    upstream: ScriptedUpstream
    connections: Connections
    route: Route

    @property
    def known(self) -> Connection | None:
        """What is known of the gateway's connection."""
        return self.connections.tracker.of_server(SERVER)

    @property
    def state(self) -> str:
        """Its state."""
        return "disconnected" if self.known is None else self.known.state.value

    def state_of(self, user_id: str) -> str:
        """The state of a user's own connection."""
        known = self.connections.tracker.of_user(SERVER, user_id)
        return "disconnected" if known is None else known.state.value

    async def told(self) -> list[str]:
        """What the database was told."""
        await self.connections.writer.write_due()
        return [str(told[0]) for told in self.connections.health.told]


StartWatched = Callable[..., Awaitable[Watched]]


@pytest.fixture
def start(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> StartWatched:
    """Return what starts a gateway in front of *upstream*, with facts of its route."""

    async def begin(url: str | None = None, **facts: Any) -> Watched:
        where = url or f"{await stack.enter_async_context(serve(upstream))}/mcp"
        route = make_route(where, modified_at=VERSION, **facts)
        connections = connections_of(SystemClock(), interval_seconds=0.001)
        gateway = await start_gateway(
            route,
            connections=connections.tracker,
            gateway_breaker_failures=0,
            gateway_first_byte_timeout_seconds=0.2,
        )
        return Watched(gateway, upstream, connections, route)

    return begin


def answering(status: int, body: bytes = b"{}", **headers: str) -> Any:
    async def answer(request: Request) -> None:
        await request.answer(status, body, **headers)

    return answer


async def test_a_call_that_is_answered_is_a_connection_that_works(start: StartWatched) -> None:
    watched = await start()
    before = watched.state

    await watched.gateway.call()

    assert (before, watched.state, await watched.told()) == (
        "disconnected",
        "connected",
        ["connected"],
    )
    assert watched.known is not None
    assert watched.known.version == VERSION


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}'),
        (400, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"no"}}'),
        (404, b"not found"),
        (429, b"slowly"),
        (500, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}'),
    ],
)
async def test_an_error_that_the_server_answers_is_a_connection_that_works(
    start: StartWatched, status: int, body: bytes
) -> None:
    watched = await start()
    content_type = "application/json" if body.startswith(b"{") else "text/plain"
    watched.upstream.behaviour = answering(status, body, content_type=content_type)

    await watched.gateway.call()

    assert (watched.state, await watched.told()) == ("connected", ["connected"])


NO_ANSWER = "The server demo returned HTTP 200 without a JSON-RPC response."
HELLO = request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>", {}),
        (b"", {}),
        (b"null", {}),
        (b'{"jsonrpc":"2.0","id":1}', {}),
        (b'{"jsonrpc":"2.0","id":1,"result":"hello"}', {}),
        (b'{"error":"no such page"}', {}),
        (b"event: message\ndata: hello\n\n", {"content_type": "text/event-stream"}),
    ],
)
async def test_a_handshake_without_an_answer_is_told_and_leaves_the_error_that_is_known(
    start: StartWatched, body: bytes, headers: dict[str, str]
) -> None:
    watched = await start()
    watched.upstream.behaviour = answering(503, b"", content_type="text/html")
    await watched.gateway.call()
    watched.upstream.behaviour = answering(200, body, **headers)

    answer = await watched.gateway.post(HELLO)

    assert watched.known is not None
    assert (watched.state, watched.known.problem) == ("error", NO_ANSWER)
    assert NO_ANSWER in answer.text
    assert await watched.told() == ["failed"]


async def test_a_handshake_that_is_refused_reaches_the_client_and_says_nothing_of_the_connection(
    start: StartWatched,
) -> None:
    watched = await start()
    watched.upstream.behaviour = answering(503, b"", content_type="text/html")
    await watched.gateway.call()
    refusal = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such version"}}'
    watched.upstream.behaviour = answering(200, refusal)

    answer = await watched.gateway.post(HELLO)

    assert (answer.content, watched.state) == (refusal, "error")


@pytest.mark.parametrize("path", ["/mcp", "/mcp/demo"])
async def test_a_call_without_an_answer_is_an_error_of_the_connection(
    start: StartWatched, path: str
) -> None:
    watched = await start()
    no_answer = answering(200, b'{"jsonrpc":"2.0","id":1}')
    # On `/mcp` the gateway opens a session with the server first.
    watched.upstream.behaviour = LegacyServer(no_answer) if path == "/mcp" else no_answer
    name = "demo__echo" if path == "/mcp" else "echo"
    call = request("tools/call", {"name": name, "arguments": {}})

    answer = await watched.gateway.http.post(path, json=call, headers=head())

    assert NO_ANSWER in answer.text
    assert watched.known is not None
    assert (watched.state, watched.known.problem) == ("error", NO_ANSWER)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/demo"])
@pytest.mark.parametrize(
    ("status", "body"), [(202, b""), (204, b""), (205, b"{}"), (201, b'{"error":"busy"}')]
)
async def test_a_call_that_is_taken_without_an_answer_is_told_and_keeps_nobody_waiting(
    start: StartWatched, path: str, status: int, body: bytes
) -> None:
    watched = await start()
    taken = answering(status, body, content_type="application/json")
    watched.upstream.behaviour = LegacyServer(taken) if path == "/mcp" else taken
    name = "demo__echo" if path == "/mcp" else "echo"
    call = request("tools/call", {"name": name, "arguments": {}})

    answer = await watched.gateway.http.post(path, json=call, headers=head())

    assert f"returned HTTP {status} without a JSON-RPC response" in answer.text
    assert answer.json()["id"] == call["id"]


@pytest.mark.parametrize("status", [400, 429, 500, 503])
@pytest.mark.parametrize("body", [b'{"detail":"slowly"}', b'{"error":"slowly"}'])
async def test_the_status_of_an_error_that_says_nothing_of_mcp_is_told_at_the_combined_server(
    start: StartWatched, status: int, body: bytes
) -> None:
    watched = await start()
    watched.upstream.behaviour = LegacyServer(answering(status, body))
    call = request("tools/call", {"name": "demo__echo", "arguments": {}})

    answer = await watched.gateway.http.post("/mcp", json=call, headers=head())

    assert f"The server demo answered HTTP {status}." in answer.text


@pytest.mark.parametrize(
    ("status", "content_type", "problem"),
    [
        (502, "application/json", "The server demo answered HTTP 502."),
        (503, "text/html", "The server demo answered HTTP 503."),
        (500, "text/html", "The server demo answered HTTP 500."),
        (200, "text/html", "The server demo answered text/html instead of JSON."),
        (
            302,
            "text/html",
            (
                "The server demo answered with a redirect (HTTP 302), which is not followed; "
                "register the address it leads to."
            ),
        ),
        (
            401,
            "application/json",
            "The server demo rejected the credentials stored for it (HTTP 401).",
        ),
    ],
)
async def test_an_answer_that_is_no_mcp_is_a_connection_that_does_not_work(
    start: StartWatched, status: int, content_type: str, problem: str
) -> None:
    watched = await start()
    watched.upstream.behaviour = answering(status, b"{}", content_type=content_type)

    await watched.gateway.call()

    assert watched.known is not None
    assert (watched.state, watched.known.problem) == ("error", problem)
    assert await watched.told() == ["failed"]


async def test_a_server_that_cannot_be_reached_is_an_error(start: StartWatched) -> None:
    watched = await start("http://127.0.0.1:9/mcp")

    await watched.gateway.call()

    assert watched.known is not None
    assert watched.known.problem == "The server demo cannot be reached."
    assert "127.0.0.1" not in str(watched.connections.health.told)
    assert await watched.told() == ["failed"]


async def test_a_server_that_does_not_answer_in_time_is_an_error(start: StartWatched) -> None:
    watched = await start(first_byte_timeout_seconds=0.2)
    watched.upstream.behaviour = watched.upstream.hang

    await watched.gateway.call()

    assert watched.known is not None
    assert watched.known.problem == "The server demo did not begin to answer in time."


async def test_a_call_under_way_is_a_connection_that_is_being_made(start: StartWatched) -> None:
    watched = await start()
    states = []

    async def look(request: Request) -> None:
        states.append(watched.state)
        await request.result({})

    watched.upstream.behaviour = look

    await watched.gateway.call()

    assert states == ["connecting"]


@pytest.mark.requirement("R-287")
async def test_three_failures_one_after_another_are_told_as_the_last_straw(
    start: StartWatched,
) -> None:
    watched = await start("http://127.0.0.1:9/mcp")

    for _ in range(3):
        await watched.gateway.call()

    assert watched.known is not None
    assert watched.known.failures == 3


@pytest.mark.requirement("R-282")
async def test_a_users_own_credentials_that_are_refused_are_an_error_of_that_user_alone(
    start: StartWatched,
) -> None:
    watched = await start(per_user=True)
    headers = {"Authorization": "Bearer own"}
    for user in (ALICE, BOB):
        watched.gateway.routes.own_headers[user.user_id, "demo"] = {
            **headers,
            "X-User": user.username,
        }

    async def pick(request: Request) -> None:
        await (
            request.answer(401, b"{}")
            if request.headers["x-user"] == "bob"
            else request.result({})
        )

    watched.upstream.behaviour = pick
    await watched.gateway.post(CALL, user="bob")
    alone = (watched.state, watched.state_of(BOB.user_id), await watched.told())

    await watched.gateway.post(CALL, user="alice")

    assert alone == ("disconnected", "error", [])
    assert watched.state_of(ALICE.user_id) == watched.state == "connected"
    assert watched.state_of(BOB.user_id) == "error"
    assert await watched.told() == ["connected"]


async def test_a_server_of_oauth_that_refuses_says_nothing_of_itself(start: StartWatched) -> None:
    watched = await start(is_user_level=True)
    watched.upstream.behaviour = answering(401)

    await watched.gateway.call()

    assert (watched.state, watched.state_of(ALICE.user_id)) == ("disconnected", "error")
    assert await watched.told() == []


@pytest.mark.parametrize(
    "facts",
    [
        {"eras": frozenset({Era.MODERN})},
        {"eras": frozenset({Era.LEGACY}), "transport": Transport.SSE},
    ],
)
async def test_calls_between_protocols_are_told_of_likewise(
    start: StartWatched, facts: dict[str, Any]
) -> None:
    watched = await start("http://127.0.0.1:9/mcp", **facts)

    await watched.gateway.call()

    assert watched.known is not None
    assert watched.known.problem == "The server demo cannot be reached."


async def test_a_call_of_another_era_is_a_connection_of_its_user(start: StartWatched) -> None:
    watched = await start(eras=frozenset({Era.MODERN}), is_user_level=True)

    async def answer(request: Request) -> None:
        await request.result({"content": [], "resultType": "complete"})

    watched.upstream.behaviour = answer

    response = await watched.gateway.call()

    assert response.json().get("result") is not None, response.text
    assert watched.state == watched.state_of(ALICE.user_id) == "connected"


async def test_what_cannot_be_read_between_protocols_is_an_error(start: StartWatched) -> None:
    watched = await start(eras=frozenset({Era.MODERN}))
    watched.upstream.behaviour = answering(200, b"<html>", content_type="text/html")

    await watched.gateway.call()

    assert watched.state == "error"


async def test_calls_of_the_combined_server_are_told_of_likewise(start: StartWatched) -> None:
    watched = await start()

    await watched.gateway.http.post(
        "/mcp", json=request("tools/call", {"name": "demo__echo"}), headers=head()
    )

    assert watched.state != "disconnected"


async def test_a_stream_is_a_connection_while_it_is_open_and_its_loss_no_failure(
    start: StartWatched,
) -> None:
    watched, broken = await start(eras=frozenset({Era.LEGACY})), asyncio.Event()

    async def stream(request: Request) -> None:
        if request.method == "POST":
            await request.result({}, mcp_session_id="one")
            return
        await request.start(content_type="text/event-stream")
        await request.chunk(b": hello\n\n")
        await broken.wait()
        raise ConnectionError

    watched.upstream.behaviour = stream
    begun = await watched.gateway.post(request("initialize", {"protocolVersion": "2025-11-25"}))
    watched.connections.tracker.forget([SERVER])
    headers = head(accept="text/event-stream", mcp_session_id=begun.headers["mcp-session-id"])
    async with watched.gateway.http.stream("GET", "/mcp/demo", headers=headers) as answer:
        pieces = answer.aiter_raw()
        await anext(pieces)
        during, told = watched.state, await watched.told()
        broken.set()
        with suppress(httpx.HTTPError, StopAsyncIteration):
            await anext(pieces)

    assert (during, told) == ("connected", ["connected"])
    assert (watched.state, await watched.told()) == ("disconnected", ["connected"])


async def test_a_route_that_was_replaced_tells_of_the_configuration_that_was_called(
    start: StartWatched,
) -> None:
    watched = await start()
    newer = datetime(2026, 1, 2, tzinfo=UTC)

    async def replace_meanwhile(request: Request) -> None:
        watched.gateway.routes.replace(replace(watched.route, modified_at=newer))
        await request.result({})

    watched.upstream.behaviour = replace_meanwhile
    await watched.gateway.call()
    known = watched.known
    assert known is not None
    assert known.version == VERSION

    await watched.gateway.call()

    assert watched.known is not None
    assert watched.known.version == newer
