"""REST APIs on loopback that answer as a test says, and tools that call them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from aiohttp import web
from multidict import CIMultiDict

from registry.gateway.values import Route, ToolEntry, tool_entry
from registry.openapi.binding import (
    BodyBinding,
    Location,
    OperationBinding,
    ParameterBinding,
    with_binding,
)
from registry.servers.values import Era, Transport
from registry.tools.call_rules import NO_CALL_RULES, CallRules
from tests.gateway.fakes import make_route

Answers: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that an API got."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


async def _fine(_: web.Request) -> web.StreamResponse:
    return web.json_response({"fine": True})


@dataclass(slots=True)
class ScriptedApi:
    """An API.

    Attributes:
        answers: Answers every request; says `{"fine": true}` until a test wants something else.
        url: Where it is.
        seen: What it got.
    """

    answers: Answers = _fine
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        headers = CIMultiDict(request.headers)
        body = await request.read()
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        return await self.answers(request)


@asynccontextmanager
async def scripted_api(answers: Answers = _fine) -> AsyncIterator[ScriptedApi]:
    """Serve one."""
    api = ScriptedApi(answers)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield api
    finally:
        await runner.cleanup()


ITEM = OperationBinding(
    method="GET",
    path="/items/{id}",
    parameters=(
        ParameterBinding(argument="id", name="id", location=Location.PATH, required=True),
        ParameterBinding(
            argument="q", name="q", location=Location.QUERY, style="form", explode=True
        ),
        ParameterBinding(argument="trace", name="X-Trace", location=Location.HEADER),
    ),
    accepts=("application/json",),
)
MAKE = OperationBinding(
    method="POST",
    path="/items",
    body=BodyBinding(content_type="application/json", properties={"name": "name"}, is_open=True),
    accepts=("application/json",),
    idempotency_key="Idempotency-Key",
)
SEND = MAKE.model_copy(update={"idempotency_key": None})
REMOVE = ITEM.model_copy(update={"method": "DELETE"})


def api_tool(
    name: str,
    binding: OperationBinding,
    *,
    rules: CallRules = NO_CALL_RULES,
    **definition: Any,
) -> ToolEntry:
    """Return the entry of a tool as it is stored."""
    whole = {"name": name, "inputSchema": {"type": "object"}, **definition}
    text = orjson.dumps(with_binding(whole, binding)).decode()
    return tool_entry(name, text, rules=rules)


def api_route(url: str, **changes: Any) -> Route:
    """Return the route of an API with tools for items."""
    tools = [
        api_tool("get_item", ITEM, annotations={"readOnlyHint": True}),
        api_tool("make_item", MAKE),
        api_tool("send_item", SEND),
        api_tool("remove_item", REMOVE, annotations={"destructiveHint": True}),
    ]
    facts: dict[str, Any] = {
        "transport": Transport.OPENAPI,
        "eras": frozenset(Era),
        "tools": tools,
        "capabilities": {},
    }
    return make_route(url, **{**facts, **changes})
