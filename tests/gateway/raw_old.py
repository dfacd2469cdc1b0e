"""A client of the HTTP+SSE transport without any library, so that tests see the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson

from tests.gateway.conftest import Gateway, head, request

WAIT_SECONDS = 30
HELLO = request(
    "initialize",
    {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
    "hello",
)
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class RawOld:
    """One open stream.

    Attributes:
        endpoint: Where it was told to post.
    """

    def __init__(self, gateway: Gateway, answer: httpx.Response, user: str) -> None:
        self.answer = answer
        self.endpoint = ""
        self._gateway = gateway
        self._user = user
        self._lines = answer.aiter_lines()

    async def event(self) -> tuple[str, str]:
        """Return name and data of the next event; comments have the name of a colon."""
        name, data = "message", ""
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                match field:
                    case "event":
                        name = value
                    case "data":
                        data = f"{data}\n{value}" if data else value
                    case "" if line:
                        name, data = ":", value
                    case _:
                        return name, data
        return "end", ""

    async def message(self) -> Any:
        """Return the next message."""
        name, data = await self.event()
        assert name == "message", name
        return orjson.loads(data)

    async def send(self, message: Any, user: str | None = None) -> httpx.Response:
        """Post a message."""
        return await self._gateway.http.post(
            self.endpoint, content=orjson.dumps(message), headers=head(user or self._user)
        )

    def post_to(self, gateway: Gateway) -> None:
        """Post to another worker than the one that has the stream."""
        self._gateway = gateway

    async def hello(self) -> Any:
        """Shake hands; return the answer."""
        await self.send(HELLO)
        answer = await self.message()
        await self.send(INITIALIZED)
        return answer


@asynccontextmanager
async def raw_old(
    gateway: Gateway, path: str = "/mcp/demo", user: str = "alice"
) -> AsyncIterator[RawOld]:
    """Open a stream."""
    headers = {"authorization": f"Bearer {user}", "accept": "text/event-stream"}
    async with gateway.http.stream("GET", path, headers=headers) as answer:
        client = RawOld(gateway, answer, user)
        name, client.endpoint = await client.event()
        assert name == "endpoint"
        yield client
