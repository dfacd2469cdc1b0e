"""Clients of standing streams, as tests need them: over HTTP as it is, in either era."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson

from tests.gateway.conftest import Gateway, head, request

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
PATIENCE_SECONDS = 30


class Told:
    """What comes on one stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """Return the next message; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self._lines:
                if line.startswith("data: "):
                    message: dict[str, Any] = orjson.loads(line.removeprefix("data: "))
                    return message
        return None

    async def comment(self) -> str:
        """Return the next line that is a comment."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await anext(line async for line in self._lines if line.startswith(":"))

    async def method(self) -> str | None:
        """Return the method of the next message, without its beginning."""
        message = await self.next()
        return None if message is None else message["method"].removeprefix("notifications/")

    async def uri(self) -> str:
        """Return the resource that the next message is about."""
        message = await self.next()
        assert message is not None
        assert message["method"] == "notifications/resources/updated"
        uri: str = message["params"]["uri"]
        return uri


async def begin(gateway: Gateway, slug: str = "", user: str = "alice") -> dict[str, str]:
    """Begin a session, and return the headers of its requests."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    answer = await post(gateway, request("initialize", hello), head(user), slug)
    assert answer.status_code == 200, answer.text
    return head(user, mcp_session_id=answer.headers["mcp-session-id"])


async def post(
    gateway: Gateway, message: Any, headers: dict[str, str], slug: str = ""
) -> httpx.Response:
    """Send one message."""
    return await gateway.http.post(path(slug), json=message, headers=headers)


async def ask(
    gateway: Gateway, session: dict[str, str], method: str, params: Any, slug: str = ""
) -> dict[str, Any]:
    """Send a request in a session and return the answer."""
    answer: dict[str, Any] = (await post(gateway, request(method, params), session, slug)).json()
    return answer


def path(slug: str) -> str:
    """Return the path of a server, or of all together."""
    return f"/mcp/{slug}" if slug else "/mcp"


@asynccontextmanager
async def hearing(
    gateway: Gateway, session: dict[str, str], slug: str = ""
) -> AsyncIterator[Told]:
    """Open the stream of a session."""
    async with gateway.http.stream("GET", path(slug), headers=session) as answer:
        yield Told(answer)


@asynccontextmanager
async def listening(
    gateway: Gateway, wanted: Any, slug: str = "", user: str = "alice", request_id: Any = "sub-1"
) -> AsyncIterator[Told]:
    """Open a stream in the stateless era."""
    message = request("subscriptions/listen", {"notifications": wanted, "_meta": META}, request_id)
    headers = head(user, mcp_protocol_version=MODERN, mcp_method="subscriptions/listen")
    async with gateway.http.stream("POST", path(slug), json=message, headers=headers) as answer:
        yield Told(answer)
