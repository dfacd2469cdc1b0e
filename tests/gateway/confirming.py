"""Servers whose tools must be confirmed, and users who answer."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from registry.gateway.values import Route, ToolEntry
from registry.tools.call_rules import CallRules
from tests.fakes.call_counter import CallCounter
from tests.fakes.everything.eras import OneEra
from tests.fakes.everything.old import STREAM_PATH, OldEverything
from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.meeting import Kind, everything_tools, route_to, text
from tests.gateway.serving import serve

CONFIRMED = CallRules(is_confirmed=True)


@dataclass
class User:
    """A person in front of a client.

    Attributes:
        result: What they answer.
        questions: What they were asked.
        on_asked: Called before they answer.
    """

    result: ElicitResult
    questions: list[Any] = field(default_factory=list)
    on_asked: Callable[[], object] = lambda: None

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        """Answer."""
        self.questions.append(params)
        self.on_asked()
        return self.result


def agreeing() -> User:
    """Return a user who agrees."""
    return User(ElicitResult(action="accept", content={"confirm": True}))


@dataclass
class Place:
    """A gateway in front of a server all of whose tools must be confirmed."""

    gateway: Gateway
    server: CallCounter
    route: Route

    def change(self, name: str, definition: bytes) -> None:
        """Let a tool have another definition from now on."""
        tools = dict(self.route.tools)
        tools[name] = replace(tools[name], wire=definition)
        self.gateway.routes.replace(replace(self.route, tools=tools))


def confirmed(tools: Mapping[str, ToolEntry] | list[ToolEntry]) -> list[ToolEntry]:
    """Return tools that must be confirmed."""
    entries = tools.values() if isinstance(tools, Mapping) else tools
    return [replace(tool, rules=CONFIRMED) for tool in entries]


@asynccontextmanager
async def confirming(kind: Kind, start: StartGateway, **changes: Any) -> AsyncIterator[Place]:
    """Serve the everything server as one *kind* behind a gateway."""
    state = State()
    if kind is Kind.OLD:
        server = CallCounter(OldEverything(state))
    else:
        server = CallCounter(OneEra(everything_app(state), is_modern=kind is Kind.MODERN))
    async with serve(server, lifespan=kind is not Kind.OLD) as url:
        path = STREAM_PATH if kind is Kind.OLD else "/mcp"
        route = route_to(kind, url + path, tools=confirmed(everything_tools()))
        yield Place(await start(route, **changes), server, route)


async def refusal(client: Any, tool: str, **options: Any) -> str:
    """Return what a client is told of a call that is not made."""
    try:
        result = await client.call_tool(tool, {}, **options)
    except MCPError as error:
        return str(error)
    assert result.is_error
    return text(result)
