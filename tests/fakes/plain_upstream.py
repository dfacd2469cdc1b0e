"""An MCP server on loopback whose tools are JSON text, sent as it is."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

HOST = "127.0.0.1"
PATH = "/mcp"
ECHO = (
    '{"name":"echo","description":"Says it again.","inputSchema":{"type":"object",'
    '"properties":{"text":{"type":"string"}},"required":["text"]}}'
)
METHOD_NOT_FOUND = -32601
TOOLS_CHANGED = '{"jsonrpc":"2.0","method":"notifications\\/tools\\/list_changed"}'
"""With escaped slashes, as PHP writes them."""


@dataclass(slots=True)
class PlainUpstream:
    """Speaks the stateful era without sessions.

    Attributes:
        tools: JSON text of the list of tools.
        announces: Say on the stream of each call's answer that the tools changed.
        redirects_to: Answer every request by sending it elsewhere.
        session_id: Of the one session that it keeps; None where it keeps none.
        takes_key: The one bearer key that is not refused; None for any.
        seen: The headers of every request.
        methods: The methods of all requests that await an answer.
        reached: Set by the first request.
        released: While this is not set, no request is answered.
    """

    tools: str = f"[{ECHO}]"
    announces: bool = False
    redirects_to: str | None = None
    session_id: str | None = None
    takes_key: str | None = None
    seen: list[dict[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    url: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Let it answer at once unless told otherwise."""
        self.released.set()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        self.reached.set()
        await self.released.wait()
        if self.redirects_to is not None:
            return web.Response(status=307, headers={"Location": self.redirects_to})
        if self.takes_key not in {None, request.headers.get("Authorization", "")[7:]}:
            return web.Response(status=401)
        if request.method != "POST":
            ends_session = request.method == "DELETE" and self.session_id is not None
            return web.Response(status=200 if ends_session else 405)
        message = json.loads(await request.text())
        if "id" not in message:
            return web.Response(status=202)
        self.methods.append(message["method"])
        body = '{"jsonrpc":"2.0","id":%s,%s}' % (  # noqa: UP031 - the parts are JSON text
            json.dumps(message["id"]),
            self._outcome(message),
        )
        if self.announces and message["method"] == "tools/call":
            told = f"data: {TOOLS_CHANGED}\n\ndata: {body}\n\n"
            return web.Response(text=told, content_type="text/event-stream")
        named = {} if self.session_id is None else {"Mcp-Session-Id": self.session_id}
        return web.Response(text=body, content_type="application/json", headers=named)

    def _outcome(self, message: dict[str, object]) -> str:
        match message["method"]:
            case "initialize":
                return (
                    '"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":'
                    '{"listChanged":true}},"serverInfo":{"name":"plain","version":"1"}}'
                )
            case "tools/list":
                return f'"result":{{"tools":{self.tools}}}'
            case _:
                return f'"error":{{"code":{METHOD_NOT_FOUND},"message":"Method not found"}}'


@asynccontextmanager
async def plain_upstream(port: int = 0) -> AsyncIterator[PlainUpstream]:
    """Serve one, on a free port unless one is given."""
    upstream = PlainUpstream()
    app = web.Application()
    app.router.add_route("*", PATH, upstream.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        upstream.url = f"http://{HOST}:{runner.addresses[0][1]}{PATH}"
        yield upstream
    finally:
        await runner.cleanup()
