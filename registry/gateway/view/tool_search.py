"""Tool search: two tools in place of all, one that finds tools and one that calls them.

What can be found and called is what another offering lists to the same caller, and nothing else.
Names and shapes are those of earlier programs of this kind; see docs/tool-search.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from registry.core.json import JsonObject
from registry.gateway.values import Route, ToolEntry
from registry.gateway.view.catalogue import (
    AggregatedServer,
    BlockedTool,
    CatalogueEntry,
    CatalogueView,
    replaced,
)
from registry.gateway.view.offering import CombinedOffering, Offering
from registry.gateway.view.toolsets import ToolsetOffering
from registry.search.ports import Candidates
from registry.tools.naming import SEPARATOR, public_prefix, public_suffix

FIND_TOOL = "find_tool"
CALL_TOOL = "call_tool"
LIST_TOOLS = "list_tools"
"""Served only where it is named among the tools that are always visible."""

CHARACTERS_PER_TOKEN = 4
"""Tokens are estimated: tokenizers differ between models, and none is needed to compare."""

MAX_FOUND = 50
DEFAULT_FOUND = 8
MAX_TEXT_CHARACTERS = 2_000
MIN_BUDGET = 50

DETAILS = ("names", "summary", "full")

INSTRUCTIONS = (
    "The tools here are found before they are called: describe what you need to `find_tool`, then "
    "call one of the tools it returns with `call_tool`, giving its `mcp_server_name`, its `name` "
    "and arguments that match its `inputSchema`."
)

FIND_TOOL_DEFINITION: JsonObject = {
    "name": FIND_TOOL,
    "title": "Find tools",
    "description": (
        "Find tools that can do what is needed. Returns the best matches with the server they "
        "belong to and their input schemas; call one with call_tool."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "tool_description": {
                "type": "string",
                "maxLength": MAX_TEXT_CHARACTERS,
                "description": "What the tool should do, e.g. `send a message to a channel`.",
            },
            "tool_keywords": {
                "type": "string",
                "maxLength": MAX_TEXT_CHARACTERS,
                "description": "Words it is likely to be described with, e.g. `slack post`.",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_FOUND,
                "default": DEFAULT_FOUND,
            },
            "detail": {
                "type": "string",
                "enum": [*DETAILS],
                "default": "full",
                "description": "How much of each tool is returned.",
            },
            "max_tokens": {
                "type": "integer",
                "minimum": MIN_BUDGET,
                "description": "Budget for the tools that are returned.",
            },
        },
        "required": ["tool_description"],
    },
    "annotations": {"readOnlyHint": True, "openWorldHint": False},
}
CALL_TOOL_DEFINITION: JsonObject = {
    "name": CALL_TOOL,
    "title": "Call a tool",
    "description": "Call a tool that find_tool has found, and return its result.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "server_name": {"type": "string", "description": "Its `mcp_server_name`."},
            "tool_name": {"type": "string", "description": "Its `name`."},
            "parameters": {
                "type": "object",
                "description": "Arguments that match its `inputSchema`.",
            },
        },
        "required": ["server_name", "tool_name", "parameters"],
    },
}
LIST_TOOLS_DEFINITION: JsonObject = {
    "name": LIST_TOOLS,
    "title": "List all tools",
    "description": "Return all tools with their servers. Prefer find_tool: the list can be long.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "detail": {"type": "string", "enum": [*DETAILS], "default": "full"},
        },
    },
    "annotations": {"readOnlyHint": True, "openWorldHint": False},
}
META_TOOLS: Mapping[str, bytes] = {
    str(one["name"]): orjson.dumps(one)
    for one in (FIND_TOOL_DEFINITION, CALL_TOOL_DEFINITION, LIST_TOOLS_DEFINITION)
}


class ListedTool(NamedTuple):
    """A tool as it is found, and called with `call_tool`.

    Attributes:
        server: What `call_tool` calls its server.
        name: What `call_tool` calls it.
        wire: JSON text of its object, under that name.
    """

    server: str
    name: str
    wire: bytes

    @property
    def tokens(self) -> int:
        """Return about how many tokens its definition takes in a list."""
        return tokens_in(len(self.wire))


def tokens_in(characters: int) -> int:
    """Return about how many tokens a text has."""
    return -(-characters // CHARACTERS_PER_TOKEN)


class SearchedTools:
    """The tools that one offering lists, as they can be found and called.

    Args:
        offering: Of all servers, or of toolsets.
        view: From which the offering of all servers is made; None for one of toolsets.
    """

    def __init__(self, offering: Offering, view: CatalogueView | None) -> None:
        self._offering = offering
        self._view = view

    @cached_property
    def candidates(self) -> Candidates:
        """Return what a search may find; made once, as the mask of a search is kept with it."""
        if self._view is not None:
            return Candidates(
                tools={
                    member.route.server_id: member.route.tools
                    for member in self._view.members
                    if member.route.tools
                }
            )
        found: dict[str, set[str]] = {}
        for server_id, name in self._names:
            found.setdefault(server_id, set()).add(name)
        return Candidates(tools=found)

    @cached_property
    def all_tokens(self) -> int:
        """Return about how many tokens the whole list takes."""
        return sum(one.tokens for one in self.all())

    def all(self) -> Iterator[ListedTool]:
        """Yield all tools, in the order of their names."""
        if self._view is None:
            for entries in self._names.values():
                yield from entries
            return
        for member in self._view.members:
            for suffix, tool in member.tools.items():
                yield _listed(member.prefix, suffix, tool)

    def listed(self, server_id: str, name: str) -> Sequence[ListedTool]:
        """Return a server's tool as it is listed: more than once where toolsets have it so.

        Empty if it is not in the list any more.
        """
        if self._view is None:
            return self._names.get((server_id, name), ())
        member = self._by_server.get(server_id)
        tool = None if member is None else member.route.tools.get(name)
        if member is None or tool is None:
            return ()
        return (_listed(member.prefix, public_suffix(member.prefix, name), tool),)

    def named(self, name: str) -> tuple[str, CatalogueEntry] | None:
        """Return the public name and the entry of a tool, by the name of an inner call.

        Servers are also known by their names and paths, and tools of the combined list by the
        names that their servers use, as a caller may know them from elsewhere.
        """
        owned = self._offering.tool(name)
        if owned is not None:
            return name, owned
        server, separator, tool = name.partition(SEPARATOR)
        if not separator:
            return None
        if self._view is None:
            owned = self._offering.tool(tool)
            if owned is None or server not in _names_of(owned.route):
                return None
            return tool, owned
        member = self._by_alias.get(server)
        if member is None:
            return None
        public = f"{member.prefix}{SEPARATOR}{public_suffix(member.prefix, tool)}"
        owned = self._offering.tool(public)
        return None if owned is None else (public, owned)

    @cached_property
    def _by_server(self) -> Mapping[str, AggregatedServer]:
        members = () if self._view is None else self._view.members
        return {member.route.server_id: member for member in members}

    @cached_property
    def _by_alias(self) -> Mapping[str, AggregatedServer]:
        members = () if self._view is None else self._view.members
        found = {member.route.server_name: member for member in members}
        found |= {member.route.slug: member for member in members}
        return found | {member.prefix: member for member in members}

    @cached_property
    def _names(self) -> Mapping[tuple[str, str], list[ListedTool]]:
        """Return the tools of toolsets by server and own name."""
        found: dict[tuple[str, str], list[ListedTool]] = {}
        if isinstance(self._offering, ToolsetOffering):
            for name, wire in self._offering.wires():
                owned = self._offering.tool(name)
                if owned is not None:
                    one = ListedTool(public_prefix(owned.route.slug), name, wire)
                    found.setdefault((owned.route.server_id, owned.key), []).append(one)
        return found


def searched(offering: CombinedOffering | ToolsetOffering) -> SearchedTools:
    """Return the tools of an offering, kept with what the offering is made of."""
    if isinstance(offering, ToolsetOffering):
        if offering.searched is None:
            offering.searched = SearchedTools(offering, None)
        kept = offering.searched
    else:
        view = offering.view
        kept = view.toolsets.get(FIND_TOOL)
        if kept is None:
            kept = view.toolsets[FIND_TOOL] = SearchedTools(offering, view)
    assert isinstance(kept, SearchedTools)  # noqa: S101 - just made, or kept under this key
    return kept


class SearchOffering:
    """What a caller finds where tools are searched: tools to find and call others.

    Prompts and resources stay as they are.

    Args:
        whole: What can be found and called.
        always_visible: Names of tools that are listed beside, of those that *whole* lists.
    """

    only: Route | None = None

    def __init__(
        self, whole: CombinedOffering | ToolsetOffering, always_visible: Sequence[str]
    ) -> None:
        self.whole = whole
        self.tools = searched(whole)
        self.scope_id = whole.scope_id
        self.title = whole.title
        self._always_visible = always_visible

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Return the capabilities."""
        return self.whole.capabilities

    @property
    def instructions(self) -> str | None:
        """Return how tools are found; instructions of all servers would fill a model's context."""
        return INSTRUCTIONS

    @property
    def meta_tools(self) -> tuple[str, ...]:
        """Return the tools that are answered here."""
        named = LIST_TOOLS in self._always_visible
        return (FIND_TOOL, CALL_TOOL, LIST_TOOLS) if named else (FIND_TOOL, CALL_TOOL)

    def page(self, kind: str, cursor: object) -> bytes | None:
        """Return the members of a list result."""
        if kind != "tools":
            return self.whole.page(kind, cursor)
        wires = [META_TOOLS[name] for name in self.meta_tools]
        for name in self._always_visible:
            owned = None if name in META_TOOLS else self.whole.tool(name)
            if owned is not None and owned.tool is not None:
                wires.append(self._wire(name, owned.tool))
        return b'"tools":[%s]' % b",".join(wires)

    def _wire(self, name: str, tool: ToolEntry) -> bytes:
        if isinstance(self.whole, ToolsetOffering):
            return self.whole.wire(name)
        return replaced(tool.wire, "name", tool.name, name)

    def tool(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the tool."""
        found = self.tools.named(name)
        return None if found is None else found[1]

    def public_name(self, name: str) -> str:
        """Return the name in the whole list of a tool that is there."""
        found = self.tools.named(name)
        return name if found is None else found[0]

    def blocked(self, name: str) -> BlockedTool | None:
        """Return the tool of that name that policies refuse to the caller, if there is one."""
        blocked = self.whole.blocked(name)
        if blocked is None and isinstance(self.whole, ToolsetOffering):
            server, _, tool = name.partition(SEPARATOR)
            blocked = self.whole.blocked(tool)
            if blocked is not None and server not in _names_of(blocked.route):
                blocked = None
        return blocked

    def prompt(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the prompt."""
        return self.whole.prompt(name)

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource."""
        return self.whole.resource(uri)

    def template(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource template."""
        return self.whole.template(uri)

    def public_uri(self, route: Route, uri: str) -> str:
        """Return the public URI of the resource that *route* calls *uri*."""
        return self.whole.public_uri(route, uri)


def is_meta_tool(offering: Offering, name: object) -> bool:
    """Whether a tool is answered here."""
    return isinstance(offering, SearchOffering) and name in offering.meta_tools


def whole_of(offering: Offering) -> Offering:
    """Return what is offered without search: what notifications are about."""
    return offering.whole if isinstance(offering, SearchOffering) else offering


def _listed(prefix: str, suffix: str, tool: ToolEntry) -> ListedTool:
    return ListedTool(prefix, suffix, replaced(tool.wire, "name", tool.name, suffix))


def _names_of(route: Route) -> tuple[str, ...]:
    return public_prefix(route.slug), route.slug, route.server_name
