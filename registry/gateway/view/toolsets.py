"""Toolsets in memory: which exist, who has which by default, and what a caller finds in one.

A toolset is resolved against a caller's view of the catalogue, so it can never contain what that
view does not. The result is kept with the view, and callers with equal views share it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Protocol

import orjson

from registry.access.policies.values import NarrowedPath, Reason
from registry.access.policy import Grant, Grants, ServerFacts, decide_use
from registry.access.toolsets.presets import without
from registry.access.toolsets.resolution import (
    Offered,
    Presentations,
    Served,
    narrowed,
    resolve,
)
from registry.access.toolsets.values import Resolution, ResolvedTool, Toolset, default_keys
from registry.auth.identity import UserContext, claimed_toolset
from registry.core.clock import Clock
from registry.core.json import members
from registry.gateway.errors import ToolsetUnknown
from registry.gateway.protocol.list_pages import ToolPages, build_pages, page_members
from registry.gateway.values import Route, ToolEntry
from registry.gateway.view.catalogue import BlockedTool, CatalogueEntry, CatalogueView, Preset
from registry.gateway.view.offering import COMBINED, nothing_of

COLLECTION = "toolsets"
CAPABILITIES: Mapping[str, Any] = {"tools": {"listChanged": True}}

BY_DEFAULT = "by default"

MAX_KEPT = 1_000
"""Maximum number of toolsets that are kept with one view."""


class ToolsetReader(Protocol):
    """The stored toolsets."""

    async def some(self, ids: Iterable[str] | None) -> dict[str, Toolset]:
        """Return the toolsets with these ids, or all, by their ids."""


class GrantReader(Protocol):
    """The access entries of toolsets."""

    async def grants_of(
        self, server_ids: list[str] | None, now: datetime
    ) -> dict[str, list[Grant]]:
        """Return the unexpired grants of the toolsets named, or of all, by their ids."""


@dataclass(slots=True)
class HeldToolset:
    """A toolset with its access entries.

    Attributes:
        facts: What decides who may use it; computed again when an entry has expired.
    """

    toolset: Toolset
    grants: Sequence[Grant]
    facts: ServerFacts = field(init=False)

    def __post_init__(self) -> None:
        """Combine the access entries."""
        self._combine(self.grants)

    def current_facts(self, clock: Clock) -> ServerFacts:
        """Return what decides who may use it now."""
        ends_at = self.facts.grants.next_expiry
        if ends_at is not None and ends_at <= (now := clock.now()):
            self._combine([g for g in self.grants if g.expires_at is None or g.expires_at > now])
        return self.facts

    def _combine(self, grants: Sequence[Grant]) -> None:
        toolset = self.toolset
        self.grants = grants
        self.facts = ServerFacts(
            toolset.author,
            toolset.scope,
            Grants.of(grants, toolset.tenant_id),
            tenant_id=toolset.tenant_id,
        )


class Toolsets:
    """All toolsets, from memory. Implements `FollowedTable` if it has readers.

    Args:
        clock: Ends access entries that expire.
    """

    collection = COLLECTION

    def __init__(
        self,
        clock: Clock,
        reader: ToolsetReader | None = None,
        grants: GrantReader | None = None,
    ) -> None:
        self._clock = clock
        self._reader = reader
        self._grants = grants
        self._by_id: dict[str, HeldToolset] = {}
        self._by_name: dict[tuple[str | None, str], list[HeldToolset]] = {}
        self._defaults: dict[tuple[str | None, str], HeldToolset] = {}
        self._presentations = Presentations()
        self.has_client_defaults = False

    @property
    def has_defaults(self) -> bool:
        """Whether any caller has a toolset by default."""
        return bool(self._defaults)

    async def reload(self, ids: AbstractSet[str] | None) -> None:
        """Read toolsets again: those with these ids, or all.

        Raises:
            DatabaseUnavailable: They stay as they were.
        """
        if self._reader is None or self._grants is None:
            return
        found = await self._reader.some(ids)
        grants = await self._grants.grants_of(
            None if ids is None else sorted(found), self._clock.now()
        )
        held = {key: HeldToolset(one, grants.get(key, ())) for key, one in found.items()}
        if ids is not None:
            held = {k: one for k, one in self._by_id.items() if k not in ids} | held
        self.replace(held)

    def replace(self, held: Mapping[str, HeldToolset]) -> None:
        """Use these toolsets, by their ids; the oldest has a contested caller."""
        by_name: dict[tuple[str | None, str], list[HeldToolset]] = {}
        defaults: dict[tuple[str | None, str], HeldToolset] = {}
        for key in sorted(held):
            toolset = held[key].toolset
            by_name.setdefault((toolset.tenant_id, toolset.name), []).append(held[key])
            for caller in toolset.default_for.keys:
                defaults.setdefault((toolset.tenant_id, caller), held[key])
        self._by_id = dict(held)
        self._by_name = by_name
        self._defaults = defaults
        self.has_client_defaults = any(key.startswith("client:") for _, key in defaults)

    def _named(
        self, name: str, user: UserContext, *, admin_uses_private: bool
    ) -> HeldToolset | None:
        """Return what a name means to *user*: their own toolset, or the oldest they may use.

        One that they may not use if there is no other: that it exists is told to nobody.
        """
        found = self._by_name.get((user.tenant_id, name), ())
        if len(found) > 1:
            own = [one for one in found if one.toolset.author == user.user_id]
            for held in own or found:
                facts = held.current_facts(self._clock)
                if decide_use(user, facts, admin_uses_private=admin_uses_private).allowed:
                    return held
        return found[0] if found else None

    def _claimed(
        self, claim: str, user: UserContext, *, admin_uses_private: bool
    ) -> HeldToolset | None:
        name, toolset_id = claimed_toolset(claim)
        if toolset_id is None:
            return self._named(name, user, admin_uses_private=admin_uses_private)
        held = self._by_id.get(toolset_id)
        return held if held is not None and held.toolset.tenant_id == user.tenant_id else None

    def default_of(self, user: UserContext, client: str | None) -> HeldToolset | None:
        """Return what a caller has by default: of the token, the user, the role or the client.

        The client's name counts last, because a client gives it to itself.
        """
        keys = default_keys(user)
        for key in keys if client is None else (*keys, f"client:{client}"):
            held = self._defaults.get((user.tenant_id, key))
            if held is not None:
                return held
        return None

    def applied(
        self, user: UserContext, path: NarrowedPath, *, admin_uses_private: bool
    ) -> list[tuple[Toolset, str]]:
        """Return the toolsets that narrow a path for *user*, and what names each.

        The first gives the tools their names.

        Raises:
            ToolsetUnknown: One does not exist, or *user* may not use it.
        """
        find = partial(self._named, user=user, admin_uses_private=admin_uses_private)
        named: list[tuple[str, HeldToolset | None, str]] = []
        if path.toolset is not None:
            named.append((path.toolset, find(path.toolset), "in the path"))
        if path.header is not None:
            named.append((path.header, find(path.header), "in the header Mcp-Toolset"))
        if user.toolset is not None:
            name, _ = claimed_toolset(user.toolset)
            held = self._claimed(user.toolset, user, admin_uses_private=admin_uses_private)
            named.append((name, held, "in the token"))
        found: list[tuple[HeldToolset, str]] = []
        for name, held, named_by in named:
            if held is None:
                raise ToolsetUnknown(name, named_by)
            found.append((held, named_by))
        if path.server_id is None and path.toolset is None:
            held = self.default_of(user, path.client)
            if held is not None:
                found.insert(0, (held, BY_DEFAULT))
        for held, named_by in found:
            facts = held.current_facts(self._clock)
            decision = decide_use(user, facts, admin_uses_private=admin_uses_private)
            if not decision.allowed:
                raise ToolsetUnknown(held.toolset.name, named_by, decision.rule)
        return [(held.toolset, named_by) for held, named_by in found]

    def offering(
        self,
        view: CatalogueView,
        toolsets: Sequence[Toolset],
        *,
        server_id: str | None = None,
        is_default: bool = False,
    ) -> "ToolsetOffering":
        """Return what a caller finds where *toolsets* narrow the path; the first gives the names.

        Args:
            view: What the caller may use anyway.
            toolsets: One at least.
            server_id: The one server of the path; None for all.
            is_default: Whether sessions are those of the path without a toolset.
        """
        key = (
            tuple((one.id, one.revision, one.name) for one in toolsets),
            server_id,
            is_default,
        )
        known = view.toolsets.get(key)
        if isinstance(known, ToolsetOffering):
            return known
        served = self._served(toolsets, _offered(view, server_id))
        ids = "+".join(one.id for one in toolsets)
        offering = ToolsetOffering(
            served,
            {member.route.server_id: member.route for member in view.members},
            scope_id=COMBINED if is_default else f"toolset:{ids}@{server_id or COMBINED}",
            title=toolsets[0].title or toolsets[0].name,
            instructions=toolsets[0].description,
            blocked=partial(self._blocked, view, toolsets, server_id),
        )
        if len(view.toolsets) >= MAX_KEPT:
            view.toolsets.clear()
        view.toolsets[key] = offering
        return offering

    def _served(
        self, toolsets: Sequence[Toolset], offered: Sequence[Offered[ToolEntry]]
    ) -> dict[str, Served[ToolEntry]]:
        first, *others = toolsets
        served, _ = resolve(first, offered, self._presentations)
        for other in others:
            served = narrowed(served, resolve(other, offered, self._presentations)[0])
        return served

    def _blocked(
        self, view: CatalogueView, toolsets: Sequence[Toolset], server_id: str | None
    ) -> dict[str, BlockedTool]:
        """Return what the toolsets would serve of the tools that are refused to the caller."""
        members = {
            member.route.server_id: member
            for member in (*view.members, *view.quarantined)
            if member.route.hidden and server_id in {None, member.route.server_id}
        }
        if not members:
            return {}
        offered = [Offered(key, member.prefix, member.hidden) for key, member in members.items()]
        return {
            name: BlockedTool(
                members[one.server_id].route,
                one.tool.name,
                members[one.server_id].route.hidden[one.tool.name],
            )
            for name, one in self._served(toolsets, offered).items()
        }


class ToolsetOffering:
    """What a caller finds where toolsets narrow the path: tools, and nothing else.

    Attributes:
        searched: Keeps what tool search makes of it.

    Args:
        served: The tools by name, in that order.
        routes: The servers that have them, by id.
        scope_id: What sessions are bound to.
        title: The display name.
        instructions: For models.
        blocked: Finds the tools that would be served too, but are refused to the caller.
    """

    only: Route | None = None
    capabilities = CAPABILITIES

    def __init__(
        self,
        served: Mapping[str, Served[ToolEntry]],
        routes: Mapping[str, Route],
        *,
        scope_id: str,
        title: str,
        instructions: str | None,
        blocked: Callable[[], Mapping[str, BlockedTool]],
    ) -> None:
        self._find_blocked = blocked
        self.scope_id = scope_id
        self.title = title
        self.instructions = instructions
        self.searched: object = None
        self.pages: ToolPages = build_pages([(one.name, one.wire) for one in served.values()])
        self._entries = {
            name: CatalogueEntry(
                routes[one.server_id], one.tool.name, one.tool, _preset(one.tool, one.presets)
            )
            for name, one in served.items()
        }

    def page(self, kind: str, cursor: object) -> bytes | None:
        """Return the members of a list result."""
        if kind == "tools":
            return b",".join(page_members(self.pages, cursor))
        return nothing_of(kind)

    def tool(self, name: str) -> CatalogueEntry | None:
        """Return the route of the server that has the tool."""
        return self._entries.get(name)

    def wires(self) -> Iterator[tuple[str, bytes]]:
        """Return the tools' names and the texts of their objects."""
        return zip(self.pages.names, self.pages.wires, strict=True)

    def wire(self, name: str) -> bytes:
        """Return the text of the object of a tool that is there."""
        return self.pages.wires[self.pages.names.index(name)]

    def blocked(self, name: str) -> BlockedTool | None:
        """Return the tool of that name that policies refuse to the caller, if there is one."""
        return self._blocked.get(name)

    def names_of(self, server_id: str, tool: str) -> list[str]:
        """Return the names that it has for a tool, be it that policies refuse it to the caller."""
        served = {
            name: (entry.route.server_id, entry.key) for name, entry in self._entries.items()
        }
        refused = {name: (one.route.server_id, one.name) for name, one in self._blocked.items()}
        both = {**refused, **served}
        return [name for name, owned in both.items() if owned == (server_id, tool)]

    @cached_property
    def _blocked(self) -> Mapping[str, BlockedTool]:
        # Few callers ask for what is not in their list.
        return self._find_blocked()

    def prompt(self, name: str) -> CatalogueEntry | None:  # noqa: ARG002 - as of other offerings
        """Return None: toolsets have tools alone."""
        return None

    def resource(self, uri: str) -> CatalogueEntry | None:  # noqa: ARG002 - as of other offerings
        """Return None: toolsets have tools alone."""
        return None

    def template(self, uri: str) -> CatalogueEntry | None:  # noqa: ARG002 - as of other offerings
        """Return None: toolsets have tools alone."""
        return None

    def public_uri(self, route: Route, uri: str) -> str:  # noqa: ARG002 - nothing is read here
        """Return *uri*."""
        return uri


class ExplainedToolsets:
    """What toolsets do to paths, in words. Implements `policies.ports.ToolsetSteps`.

    Args:
        toolsets: All toolsets.
        view: Returns what a caller may use anyway.
        admin_uses_private: Whether administrators use private toolsets of others.
    """

    def __init__(
        self,
        toolsets: Toolsets,
        view: Callable[[UserContext], CatalogueView],
        *,
        admin_uses_private: bool,
    ) -> None:
        self._toolsets = toolsets
        self._view = view
        self._admin_uses_private = admin_uses_private

    def meant(self, user: UserContext, path: NarrowedPath, name: str) -> tuple[str, str] | None:
        """Return server and own name of the tool that *user* finds under a name at a path."""
        try:
            applied = self._applied(user, path)
        except ToolsetUnknown:
            return None
        if not applied:
            return None
        toolsets = [toolset for toolset, _ in applied]
        offering = self._toolsets.offering(self._view(user), toolsets, server_id=path.server_id)
        found = offering.tool(name)
        if found is not None:
            return found.route.server_id, found.key
        refused = offering.blocked(name)
        return None if refused is None else (refused.route.server_id, refused.name)

    def step(
        self,
        user: UserContext,
        path: NarrowedPath,
        server_id: str,
        tool: str,
        name: str | None,
    ) -> Reason | None:
        """Return whether toolsets keep a tool from *user*; None if it is not theirs anyway."""
        try:
            applied = self._applied(user, path)
        except ToolsetUnknown as unknown:
            which = f"{unknown.name!r} ({unknown.named_by})"
            return _step(f"The toolset {which} does not exist, or they may not use it.", False)
        if not applied:
            return _step("No toolset narrows the path.", True)
        view = self._view(user)
        if not any(member.route.server_id == server_id for member in view.members):
            return None
        for toolset, named_by in applied:
            offering = self._toolsets.offering(view, [toolset], server_id=path.server_id)
            if not offering.names_of(server_id, tool):
                return _step(f"The toolset {toolset.name!r} ({named_by}) lacks it.", False)
        toolsets = [toolset for toolset, _ in applied]
        which = " and ".join(f"{toolset.name!r} ({named_by})" for toolset, named_by in applied)
        offering = self._toolsets.offering(view, toolsets, server_id=path.server_id)
        names = offering.names_of(server_id, tool)
        if name is not None and name not in names:
            called = f"; it is called {names[0]!r} there" if names else ""
            return _step(f"The toolset {which} has nothing of that name{called}.", False)
        return _step(f"In the toolset {which}.", True)

    def _applied(self, user: UserContext, path: NarrowedPath) -> list[tuple[Toolset, str]]:
        return self._toolsets.applied(user, path, admin_uses_private=self._admin_uses_private)


def _step(message: str, passed: bool) -> Reason:  # noqa: FBT001 - of a constructor
    return Reason("toolset", passed, message)


def _preset(tool: ToolEntry, presets: Mapping[str, Any]) -> Preset | None:
    if not presets:
        return None
    schema, left = tool.param_header_schema, None
    is_mirrored = schema is not None and not presets.keys().isdisjoint(
        members(schema.get("properties"))
    )
    if schema is not None:
        left = without(schema, frozenset(presets))
        left = left if left.get("properties") else None
    return Preset(presets, orjson.dumps(presets), left, is_mirrored)


def resolution(view: CatalogueView, toolset: Toolset, presentations: Presentations) -> Resolution:
    """Return what a toolset serves to a caller, and why it withholds the rest."""
    served, problems = resolve(toolset, _offered(view, None), presentations)
    names = {member.route.server_id: member.route.server_name for member in view.members}
    tools = tuple(
        ResolvedTool(one.name, one.server_id, names[one.server_id], one.tool.name, one.entry)
        for one in served.values()
    )
    return Resolution(tools, problems)


def _offered(view: CatalogueView, server_id: str | None) -> list[Offered[ToolEntry]]:
    return [
        Offered(member.route.server_id, member.prefix, member.route.tools)
        for member in view.members
        if server_id is None or member.route.server_id == server_id
    ]
