"""An MCP server that does everything, written with the official SDK, in both eras on one path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    EmptyResult,
    JSONRPCMessage,
    ListToolsResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from starlette.types import ASGIApp
from typing_extensions import override

from tests.fakes.everything import catalog
from tests.fakes.everything.asking import Context
from tests.fakes.everything.state import State, session_id
from tests.fakes.everything.tools import TOOLS, Result

NAME = "everything"
RETRY_MILLISECONDS = 100
TTL_MILLISECONDS = 5000
CACHED = (
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "server/discover",
)


class RememberedEvents(EventStore):
    """Keeps every event, so that a stream can be taken up where it broke."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._events: list[tuple[int, str, JSONRPCMessage | None]] = []

    @override
    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        number = next(self._numbers)
        self._events.append((number, stream_id, message))
        return str(number)

    @override
    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        last = int(last_event_id)
        stream = next((name for number, name, _ in self._events if number == last), None)
        for number, name, message in self._events:
            if name == stream and number > last and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class EverythingServer(Server[State]):
    """Says in the handshake, too, that its lists change."""

    @override
    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changing = NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(
            changing, experimental_capabilities, extensions
        )


def everything_app(state: State) -> ASGIApp:
    """Return the server at `/mcp`; its lifespan must be run."""
    return everything_server(state).streamable_http_app(
        event_store=RememberedEvents(), retry_interval=RETRY_MILLISECONDS
    )


def everything_server(state: State) -> EverythingServer:
    """Return the server, for any transport."""

    @asynccontextmanager
    async def lifespan(_: Server[State]) -> AsyncIterator[State]:
        yield state

    server = EverythingServer(
        NAME,
        version="1.0",
        instructions="Everything, for tests.",
        lifespan=lifespan,
        cache_hints={method: CacheHint(TTL_MILLISECONDS, "public") for method in CACHED},  # type: ignore[misc] # names, as the SDK's own Literal has them
        get_tool_input_schema=_input_schema,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_resources=catalog.list_resources,
        on_list_resource_templates=catalog.list_templates,
        on_read_resource=catalog.read_resource,
        on_subscribe_resource=_subscribe,
        on_unsubscribe_resource=_unsubscribe,
        on_subscriptions_listen=ListenHandler(state.bus),
        on_list_prompts=catalog.list_prompts,
        on_get_prompt=catalog.get_prompt,
        on_completion=catalog.complete,
    )
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
    security = RequestStateSecurity.ephemeral()
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


def _input_schema(name: str) -> dict[str, Any] | None:
    offered = TOOLS.get(name)
    return None if offered is None else offered.tool.input_schema


async def _list_tools(context: Context, params: Any) -> ListToolsResult:
    unlisted = context.lifespan_context.unlisted
    return ListToolsResult(
        tools=[offered.tool for name, offered in TOOLS.items() if name not in unlisted]
    )


async def _call_tool(context: Context, params: CallToolRequestParams) -> Result:
    offered = TOOLS.get(params.name)
    if offered is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await offered.handler(context, params)


async def _subscribe(context: Context, params: SubscribeRequestParams) -> EmptyResult:
    context.lifespan_context.subscribed[session_id(context)].add(str(params.uri))
    return EmptyResult()


async def _unsubscribe(context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
    context.lifespan_context.subscribed[session_id(context)].discard(str(params.uri))
    return EmptyResult()


async def _set_level(context: Context, params: SetLevelRequestParams) -> EmptyResult:
    context.lifespan_context.levels[session_id(context)] = params.level
    return EmptyResult()
