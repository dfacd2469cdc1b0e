"""A reverse proxy that adds a bearer token, for clients that cannot send one.

Everything else passes as it is, `Host` and `Origin` too: what it stands before must be told the
proxy's address as its own. A call whose client hangs up is hung up.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from multidict import CIMultiDict
from starlette.types import Receive, Scope, Send

from tests.fakes.renaming import Renaming
from tests.gateway.serving import serve

HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})
COMBINED = "/mcp"


class BearerProxy:
    """An ASGI application.

    Args:
        session: What it sends requests with.
        renaming: See below.

    Attributes:
        renaming: Applied to what passes to and from `/mcp`, and nowhere else.
        upstream: Base URL of what it stands before.
        token: The bearer token.
    """

    def __init__(self, session: aiohttp.ClientSession, renaming: Renaming | None) -> None:
        self._session = session
        self.renaming = renaming
        self.upstream = ""
        self.token = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        body = await _read(receive)
        async with asyncio.TaskGroup() as tasks:
            passing = tasks.create_task(self._pass_on(scope, body, send))
            watching = tasks.create_task(_hang_up(receive, passing))
            passing.add_done_callback(lambda _: watching.cancel())

    async def _pass_on(self, scope: Scope, body: bytes, send: Send) -> None:
        renaming = self.renaming if scope["path"] == COMBINED else None
        headers = _passed(scope["headers"])
        headers["Authorization"] = f"Bearer {self.token}"
        is_list = False
        if renaming is not None:
            body, is_list = renaming.request(body, headers)
        async with self._session.request(
            scope["method"], self.upstream + scope["path"], headers=headers, data=body or None
        ) as answer:
            # Lists are short and complete; everything else must flow as it comes.
            whole = renaming.listed(await answer.read()) if renaming and is_list else None
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [
                        (name.lower(), value)
                        for name, value in answer.raw_headers
                        if name.lower() not in HOP_BY_HOP
                    ],
                }
            )
            if whole is None:
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": whole or b""})


@asynccontextmanager
async def bearer_proxy(renaming: Renaming | None = None) -> AsyncIterator[tuple[BearerProxy, str]]:
    """Serve a proxy on a free port and yield it with its base URL; set its attributes then."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        proxy = BearerProxy(session, renaming)
        async with serve(proxy) as url:
            yield proxy, url


def _passed(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    headers = CIMultiDict[str]()
    for name, value in raw:
        if name not in HOP_BY_HOP:
            headers.add(name.decode(), value.decode("latin-1"))
    return headers


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _hang_up(receive: Receive, passing: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    passing.cancel()
