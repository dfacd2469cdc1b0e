"""An upstream whose calls take as long as they are asked to, and whose streams stay open."""

import asyncio
from contextlib import suppress

from tests.gateway.fakes import Request

TOOL = {
    "name": "nap",
    "inputSchema": {"type": "object", "properties": {"seconds": {"type": "number"}}},
}


def takes_a_while(received: Request) -> bool:
    """Whether a request is a call that is not answered at once."""
    if received.method != "POST" or received.message.get("method") != "tools/call":
        return False
    return bool(received.message["params"]["arguments"]["seconds"])


UNTIL_WOKEN_SECONDS = 3600.0
"""Longer than any test: such a call ends when the test says so."""


class Naps:
    """Answers requests of the stateful era.

    Attributes:
        woken: Set by tests; all calls end then.
    """

    def __init__(self) -> None:
        self.woken = asyncio.Event()

    async def __call__(self, received: Request) -> None:
        """Answer one request."""
        if received.method == "GET":
            await received.start(content_type="text/event-stream")
            await received.chunk(b": hello\n\n")
            await received.wait_for_disconnect()
            return
        message = received.message
        if "id" not in message:
            await received.answer(202, b"")
            return
        match message["method"]:
            case "initialize":
                await received.result(
                    {
                        "protocolVersion": "2025-11-25",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "naps", "version": "1"},
                    }
                )
            case "tools/list":
                await received.result({"tools": [TOOL]})
            case "tools/call":
                with suppress(TimeoutError):
                    async with asyncio.timeout(message["params"]["arguments"]["seconds"]):
                        await self.woken.wait()
                text = str(message["id"])
                await received.result({"content": [{"type": "text", "text": text}]})
            case _:
                body = b'{"jsonrpc":"2.0","id":"%s","error":{"code":-32601,"message":"no"}}'
                await received.answer(200, body % str(message["id"]).encode())
