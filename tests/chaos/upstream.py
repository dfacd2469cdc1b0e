"""Servers of one era each that tell whose credential a call brought, and may ask its client."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.lowlevel.server import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    InputRequiredResult,
    ListToolsResult,
    TextContent,
    Tool,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.fakes.everything import content
from tests.fakes.everything.asking import Context, ask
from tests.fakes.everything.eras import OneEra
from tests.gateway.serving import serve

TOOL = "tell"
SCHEMA = {
    "type": "object",
    "properties": {"nonce": {"type": "string"}, "asks": {"type": "boolean"}},
    "required": ["nonce", "asks"],
}
PATH = "/mcp"


@dataclass(slots=True)
class Telling:
    """One running server.

    Attributes:
        base_url: Everything below it that ends in `/mcp` is the server.
        carried_out: How often it began each round of each call.
    """

    base_url: str = ""
    carried_out: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def url(self, name: str) -> str:
        """Return the address under which it is registered as *name*."""
        return f"{self.base_url}/{name}{PATH}"

    async def call(
        self, context: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        """Tell the nonce, the credential, and what the client answered if it was asked."""
        arguments = params.arguments or {}
        nonce = str(arguments["nonce"])
        self.carried_out[nonce, bool(params.input_responses)] += 1
        answered = None
        if arguments["asks"]:
            question = content.form(nonce, content.text_schema("answer"))
            answers = await ask(context, params, {"question": question})
            if isinstance(answers, InputRequiredResult):
                return answers
            answer = answers["question"]
            assert isinstance(answer, ElicitResult)
            answered = (answer.content or {}).get("answer")
        assert context.request is not None
        told = {
            "nonce": nonce,
            "key": context.request.headers.get("authorization"),
            "answer": answered,
        }
        return CallToolResult(content=[TextContent(text=json.dumps(told))])


@asynccontextmanager
async def telling(*, is_modern: bool) -> AsyncIterator[Telling]:
    """Serve one on a free port."""
    running = Telling()
    server = Server(
        "telling",
        version="1.0",
        get_tool_input_schema=lambda _: SCHEMA,
        on_list_tools=_tools,
        on_call_tool=running.call,
    )
    app = OneEra(_at_any_path(server.streamable_http_app()), is_modern=is_modern)
    async with serve(app, lifespan=True) as url:
        running.base_url = url
        yield running


async def _tools(context: Context, params: Any) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name=TOOL, input_schema=SCHEMA)])


def _at_any_path(app: ASGIApp) -> ASGIApp:
    async def shortened(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": PATH, "raw_path": PATH.encode()}
        await app(scope, receive, send)

    return shortened
