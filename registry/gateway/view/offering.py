"""What a client finds at a path where the gateway itself is the server: one server, or all."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from registry.core.json import JsonObject, dump_text, load_text, members
from registry.gateway.protocol.list_pages import page_members
from registry.gateway.values import FeatureEntry, Route
from registry.gateway.view.catalogue import BlockedTool, CatalogueEntry, CatalogueView
from registry.tools.naming import SEPARATOR

COMBINED = "*"
"""Scope id of sessions with the aggregate server; no server has such an id."""

RESOURCE_LINK = b'"resource_link"'

MAX_EDITED_BYTES = 1024 * 1024
"""Longer answers pass unchanged, even where a URI in them should be replaced."""

PAGE_KINDS: Mapping[str, str] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


class Offering(Protocol):
    """What one caller finds at one path.

    Attributes:
        scope_id: What sessions at this path are bound to.
        title: The display name.
        only: The server, if there is exactly one.
    """

    scope_id: str
    title: str
    only: Route | None

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Return the capabilities, in the terms of the handshake's era."""

    @property
    def instructions(self) -> str | None:
        """Return the instructions for models."""

    def page(self, kind: str, cursor: object) -> bytes | None:
        """Return the members of a list result; None when only the server itself can answer.

        Raises:
            CursorError: The cursor was not issued here.
        """

    def tool(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the tool."""

    def blocked(self, name: str) -> BlockedTool | None:
        """Return the tool of that name that policies refuse to the caller, if there is one."""

    def prompt(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the prompt."""

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource."""

    def template(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource template."""

    def public_uri(self, route: Route, uri: str) -> str:
        """Return the public URI of the resource that *route* calls *uri*."""


class CombinedOffering:
    """All servers that the caller may use, at one path.

    Args:
        view: The caller's view of the catalogue.
    """

    scope_id = COMBINED
    title = "All servers"
    only: Route | None = None

    def __init__(self, view: CatalogueView) -> None:
        self._view = view

    @property
    def view(self) -> CatalogueView:
        """Return the caller's view of the catalogue."""
        return self._view

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Return the combined capabilities of the servers."""
        return self._view.capabilities

    @property
    def instructions(self) -> str | None:
        """Return the instructions of the servers, each under its name."""
        return self._view.instructions

    def page(self, kind: str, cursor: object) -> bytes | None:
        """Return the members of a list result."""
        return self._view.page(kind, cursor)

    def tool(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the tool."""
        prefix, _, suffix = name.partition(SEPARATOR)
        member = self._view.by_prefix.get(prefix)
        tool = member.tools.get(suffix) if member is not None else None
        if member is None or tool is None:
            return None
        return CatalogueEntry(member.route, tool.name, tool)

    def blocked(self, name: str) -> BlockedTool | None:
        """Return the tool of that name that policies refuse to the caller, if there is one."""
        prefix, _, suffix = name.partition(SEPARATOR)
        return self._view.blocked(prefix, suffix)

    def prompt(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the prompt."""
        prefix, _, suffix = name.partition(SEPARATOR)
        member = self._view.by_prefix.get(prefix)
        prompt = member.prompts.get(suffix) if member is not None else None
        if member is None or prompt is None:
            return None
        return CatalogueEntry(member.route, prompt.key)

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource."""
        return self._view.resource(uri)

    def template(self, uri: str) -> CatalogueEntry | None:
        """Return the route of the server that has the resource template."""
        return self._view.template(uri)

    def public_uri(self, route: Route, uri: str) -> str:
        """Return the public URI of the resource that *route* calls *uri*."""
        return self._view.public_uri(route, uri)


class SingleOffering:
    """One server, for a client of an era that the server does not speak.

    Args:
        route: The server.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self.scope_id = route.server_id
        self.title = route.title or route.server_name
        self.only: Route | None = route

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Return the server's capabilities; list changes are announced from stored data."""
        known = _known(self._route.capabilities)
        if self._route.features_known:
            for kind in ("prompts", "resources"):
                if kind in known:
                    known[kind] = {**members(known[kind]), "listChanged": True}
        return {**known, "tools": {"listChanged": True}}

    @property
    def instructions(self) -> str | None:
        """Return the server's instructions for models."""
        return self._route.instructions

    def page(self, kind: str, cursor: object) -> bytes | None:
        """Return the members of a list result."""
        route = self._route
        match kind:
            case "tools":
                return b",".join(page_members(route.pages, cursor))
            case _ if not route.features_known:
                return None
            case "prompts":
                return _all(kind, route.prompts)
            case "resources":
                return _all(kind, route.resources)
            case _:
                return _all(kind, route.templates)

    def tool(self, name: str) -> CatalogueEntry | None:
        """Return the tool, if it is exposed."""
        tool = self._route.tools.get(name)
        return None if tool is None else CatalogueEntry(self._route, name, tool)

    def blocked(self, name: str) -> BlockedTool | None:
        """Return the tool of that name that policies refuse to the caller, if there is one."""
        return blocked_tool(self._route, name)

    def prompt(self, name: str) -> CatalogueEntry | None:
        """Return the prompt; whether it exists is for the server to say."""
        return CatalogueEntry(self._route, name)

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return the resource; whether it exists is for the server to say."""
        return CatalogueEntry(self._route, uri)

    def template(self, uri: str) -> CatalogueEntry | None:
        """Return the resource template; whether it exists is for the server to say."""
        return CatalogueEntry(self._route, uri)

    def public_uri(self, route: Route, uri: str) -> str:  # noqa: ARG002 - there is only one server
        """Return *uri*."""
        return uri


def nothing_of(kind: str) -> bytes:
    """Return the members of the result of an empty list."""
    return _all(kind, {})


def blocked_tool(route: Route, name: str) -> BlockedTool | None:
    """Return the tool of one server that policies refuse to the caller, if there is one."""
    rule = route.hidden.get(name)
    return None if rule is None else BlockedTool(route, name, rule)


def publish_links(offering: Offering, route: Route, body: JsonObject) -> None:
    """Replace the URIs of resource links in a result by the public ones."""
    result = members(body.get("result"))
    blocks = [
        *_objects(result.get("content")),
        *(members(one.get("content")) for one in _objects(result.get("messages"))),
    ]
    for block in blocks:
        uri = block.get("uri")
        if block.get("type") == "resource_link" and isinstance(uri, str):
            block["uri"] = offering.public_uri(route, uri)


def with_public_links(offering: Offering, route: Route) -> Callable[[bytes], bytes] | None:
    """Return a function that rewrites the text of each message; None if there is nothing to do."""
    if offering.only is not None:
        return None

    def edited(raw: bytes) -> bytes:
        if RESOURCE_LINK not in raw or len(raw) > MAX_EDITED_BYTES:
            return raw
        try:
            body = load_text(raw)
        except (ValueError, RecursionError):
            # The client reports the error.
            return raw
        publish_links(offering, route, body)
        return dump_text(body)

    return edited


def _objects(value: object) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _known(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Return the capabilities that mean the same in both eras."""
    return {
        name: value
        for name, value in capabilities.items()
        if name in {"prompts", "resources", "completions", "logging", "tools"}
    }


def _all(kind: str, entries: Mapping[str, FeatureEntry]) -> bytes:
    return b"%s:[%s]" % (orjson.dumps(kind), b",".join(entry.wire for entry in entries.values()))
