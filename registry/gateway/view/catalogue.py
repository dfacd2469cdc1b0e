"""Catalogue of the aggregate server: what all servers offer, as each caller may see it.

Built from routes alone and replaced with them: everything here is derived.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias, TypeVar

import orjson
from cachetools import LRUCache

from registry.access.policies.decisions import ToolRule
from registry.access.policy import decide_use
from registry.auth.identity import UserContext
from registry.core.json import JsonObject, dump_text, load_text
from registry.gateway.protocol.list_pages import (
    PAGE_SIZE,
    CursorError,
    cursor_after,
    cursor_position,
)
from registry.gateway.values import FeatureEntry, Policies, Route, ToolEntry, may_tell_of_resources
from registry.tools.naming import SEPARATOR, public_prefix, public_suffix
from registry.upstream.sdk import UriTemplate

URI_MARK = "mcp."
"""Begins a resource's URI that names its server: `mcp.<slug>+<uri>`."""


def qualified_uri(slug: str, uri: str) -> str:
    """Return a resource's URI, or URI template, qualified by the slug of its server."""
    return f"{URI_MARK}{slug}+{uri}"


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return slug and URI of a qualified URI, or None for any other."""
    if not uri.startswith(URI_MARK):
        return None
    slug, plus, rest = uri.removeprefix(URI_MARK).partition("+")
    return (slug, rest) if plus and slug and rest else None


REMEMBERED_VIEWS = 2_000
"""Maximum number of callers whose view is cached."""

REMEMBERED_PAGE_BYTES = 32 * 1024 * 1024

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""What a template must begin with to be tried on URIs that are in no list."""

MAX_PATTERNS = 100
"""Maximum number of templates of one server that are tried on a URI that is in no list."""

REMEMBERED_NARROWED = 200_000
"""Maximum number of tools of policy-filtered servers in the cached views."""

ViewKey: TypeAlias = tuple[object, ...]
MemberKey: TypeAlias = tuple[str | None, str]
PageKey: TypeAlias = tuple[int, str, str | None]
T = TypeVar("T", ToolEntry, FeatureEntry)


@dataclass(frozen=True, slots=True)
class Preset:
    """Arguments that a toolset adds to each call of a tool.

    Attributes:
        text: Their JSON text.
        param_header_schema: What is left of the tool's, without them.
        is_mirrored: Whether any of them is mirrored in a header.
    """

    arguments: Mapping[str, Any]
    text: bytes
    param_header_schema: JsonObject | None
    is_mirrored: bool


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One thing that a server offers, as the aggregate server lists it.

    Attributes:
        key: The server's name for it.
        tool: The entry, if it is a tool.
        preset: Arguments that are added to each call; None for none.
    """

    route: Route
    key: str
    tool: ToolEntry | None = None
    preset: Preset | None = None


@dataclass(frozen=True, slots=True)
class BlockedTool:
    """A tool that policies refuse to a caller.

    Attributes:
        name: The server's name for it.
        rule: The policies that apply to it.
    """

    route: Route
    name: str
    rule: ToolRule


class AggregatedServer:
    """One server as a part of the aggregate server."""

    def __init__(
        self, route: Route, prefix: str | None = None, policies: Policies | None = None
    ) -> None:
        self.route = route
        self._policies = policies
        self.prefix = public_prefix(route.slug) if prefix is None else prefix

    def seen_by(self, user: UserContext) -> "AggregatedServer":
        """Return it with the tools that policies leave to *user*."""
        policies = self.route.policies
        if policies is None:
            return self
        return AggregatedServer(policies.seen_by(user), self.prefix, policies)

    @cached_property
    def blocked(self) -> Mapping[str, BlockedTool]:
        """Return the refused tools by the second half of their public names."""
        return {
            public_suffix(self.prefix, name): BlockedTool(self.route, name, rule)
            for name, rule in self.route.hidden.items()
        }

    @cached_property
    def hidden(self) -> Mapping[str, ToolEntry]:
        """Return the refused tools by name."""
        policies = self._policies
        return {} if policies is None else policies.tools_named(self.route.hidden)

    @cached_property
    def tools(self) -> Mapping[str, ToolEntry]:
        """Return the tools by the second half of their public names, in that order."""
        return self._by_suffix(self.route.tools)

    @cached_property
    def prompts(self) -> Mapping[str, FeatureEntry]:
        """Return the prompts by the second half of their public names, in that order."""
        return self._by_suffix(self.route.prompts)

    def _by_suffix(self, entries: Mapping[str, T]) -> Mapping[str, T]:
        named = {public_suffix(self.prefix, name): entry for name, entry in entries.items()}
        if named.keys() == entries.keys():
            # Nearly all servers: names are used unchanged, and need no second table.
            return entries if _is_sorted(entries) else dict(sorted(entries.items()))
        return dict(sorted(named.items()))


class Catalogue:
    """All routes of one version of the view.

    Args:
        routes: By any key.
        former: The version before; what did not change is reused.
        quarantined: Servers that are in no list, and whose callers are told why.

    Attributes:
        by_server: The servers by their ids.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        former: "Catalogue | None" = None,
        quarantined: Iterable[Route] = (),
    ) -> None:
        self._quarantined = [AggregatedServer(route) for route in quarantined]
        known: Mapping[str, AggregatedServer] = former.by_server if former is not None else {}
        members: list[AggregatedServer] = []
        for route in routes.values():
            member = known.get(route.server_id)
            is_same = member is not None and member.route is route
            members.append(member if member is not None and is_same else AggregatedServer(route))
        self.by_server: dict[str, AggregatedServer] = {
            member.route.server_id: member for member in members
        }
        self._members: dict[MemberKey, AggregatedServer] = {}
        # If hashes collide, the older server keeps its names.
        for member in sorted(members, key=lambda member: member.route.server_id):
            self._members.setdefault((member.route.facts.tenant_id, member.prefix), member)
        self._ordered: dict[str | None, list[AggregatedServer]] = {}
        for member in sorted(self._members.values(), key=lambda member: member.prefix + SEPARATOR):
            self._ordered.setdefault(member.route.facts.tenant_id, []).append(member)
        self._is_policed = any(member.route.policies is not None for member in members)
        self._narrowed = 0
        self._views: dict[ViewKey, CatalogueView] = {}
        self._serials = count()
        self._by_members: dict[tuple[str | int, ...], CatalogueView] = {}
        self._pages: LRUCache[PageKey, bytes] = LRUCache(REMEMBERED_PAGE_BYTES, getsizeof=len)

    @property
    def members(self) -> "Mapping[MemberKey, AggregatedServer]":
        """Return the servers by their tenants and name prefixes."""
        return self._members

    def member(self, prefix: str, tenant_id: str | None = None) -> "AggregatedServer | None":
        """Return the server of a tenant with the name prefix *prefix*."""
        return self._members.get((tenant_id, prefix))

    def view(self, user: UserContext, *, admin_uses_private: bool) -> "CatalogueView":
        """Return the view of *user*."""
        key: ViewKey = (
            user.user_id,
            user.role.value,
            user.role_principal,
            user.groups,
            user.tenant_id,
        )
        if self._is_policed:
            key = (*key, user.scopes, user.custom_scopes)
        view = self._views.get(key)
        if view is not None:
            return view
        allowed = [
            member
            for member in self._ordered.get(user.tenant_id, ())
            if decide_use(user, member.route.facts, admin_uses_private=admin_uses_private).allowed
        ]
        if self._is_policed:
            allowed = [member.seen_by(user) for member in allowed]
        quarantined = [
            member.seen_by(user)
            for member in self._quarantined
            if member.route.facts.tenant_id == user.tenant_id
            and decide_use(user, member.route.facts, admin_uses_private=admin_uses_private).allowed
        ]
        # Callers with equal views share the pages too.
        shared = tuple(_identity(member.route) for member in (*allowed, *quarantined))
        view = self._by_members.get(shared)
        if len(self._views) >= REMEMBERED_VIEWS or self._narrowed > REMEMBERED_NARROWED:
            self._views.clear()
            self._by_members.clear()
            self._narrowed = 0
        if view is None:
            view = CatalogueView(next(self._serials), allowed, self._pages, quarantined)
            self._by_members[shared] = view
            self._narrowed += sum(
                len(member.route.tools) for member in allowed if member.route.hidden
            )
        self._views[key] = view
        return view


class CatalogueView:
    """The part of the aggregate server that some callers see.

    Args:
        serial: Identifies the view in *pages*.
        members: In the order of their names.
        pages: Cache of built pages.
        quarantined: Servers that are in no list; all of their tools are blocked.

    Attributes:
        toolsets: Cache of the toolsets as these callers see them.
    """

    def __init__(
        self,
        serial: int,
        members: Sequence[AggregatedServer],
        pages: LRUCache[PageKey, bytes],
        quarantined: Sequence[AggregatedServer] = (),
    ) -> None:
        self.members = members
        self.quarantined = quarantined
        self._serial = serial
        self._pages = pages
        # Made of this view alone, and replaced with it.
        self.toolsets: dict[object, Any] = {}

    @cached_property
    def by_prefix(self) -> Mapping[str, AggregatedServer]:
        """Return the servers by name prefix."""
        return {member.prefix: member for member in self.members}

    def blocked(self, prefix: str, suffix: str) -> BlockedTool | None:
        """Return the tool of that public name that is refused to the callers, if there is one."""
        member = self.by_prefix.get(prefix)
        if member is None and self.quarantined:
            member = next((one for one in self.quarantined if one.prefix == prefix), None)
        return None if member is None else member.blocked.get(suffix)

    @cached_property
    def by_slug(self) -> Mapping[str, AggregatedServer]:
        """Return the servers by slug."""
        return {member.route.slug: member for member in self.members}

    @cached_property
    def capabilities(self) -> Mapping[str, Any]:
        """Return the servers' combined capabilities, in the terms of the handshake's era."""
        offered = [member.route.capabilities for member in self.members]
        merged: dict[str, Any] = {"tools": {"listChanged": True}}
        if any("prompts" in one for one in offered):
            merged["prompts"] = {"listChanged": True}
        if any("resources" in one for one in offered):
            can_subscribe = any(may_tell_of_resources(one.route) for one in self.members)
            merged["resources"] = {"subscribe": can_subscribe, "listChanged": True}
        for simple in ("completions", "logging"):
            if any(simple in one for one in offered):
                merged[simple] = {}
        return merged

    @cached_property
    def instructions(self) -> str:
        """Return the servers' instructions for models, each under its prefix."""
        parts = [
            f"## {member.prefix}\n{member.route.instructions}"
            for member in self.members
            if member.route.instructions
        ]
        hint = (
            "This server combines several. The names of tools and prompts begin with the server "
            f"they belong to, and `{SEPARATOR}`."
        )
        return "\n\n".join([hint, *parts])

    @cached_property
    def _owners(self) -> Mapping[str, CatalogueEntry]:
        """Return resources by the URI that this view lists; the oldest server is first."""
        return self._owned_uris("resources")

    @cached_property
    def _template_owners(self) -> Mapping[str, CatalogueEntry]:
        return self._owned_uris("templates")

    def _owned_uris(self, kind: str) -> Mapping[str, CatalogueEntry]:
        owners: dict[str, CatalogueEntry] = {}
        for member in sorted(self.members, key=lambda member: member.route.server_id):
            route = member.route
            for uri in getattr(route, kind):
                # A URI that looks qualified would be routed to another server.
                is_taken = uri in owners or split_uri(uri) is not None
                owners[qualified_uri(route.slug, uri) if is_taken else uri] = CatalogueEntry(
                    route, uri
                )
        return owners

    @cached_property
    def _patterns(self) -> Sequence[tuple[str, UriTemplate, Route]]:
        found: list[tuple[str, UriTemplate, Route]] = []
        counts: Counter[str] = Counter()
        for owned in self._template_owners.values():
            counts[owned.route.server_id] += 1
            if counts[owned.route.server_id] > MAX_PATTERNS:
                continue
            if SCHEME.match(owned.key) is None:
                # It would match URIs of other servers, and URIs of none.
                continue
            try:
                pattern = UriTemplate.parse(owned.key)
                found.append((owned.key.partition("{")[0], pattern, owned.route))
            except ValueError:
                # Still listed; the server is found by qualified URIs.
                continue
        return found

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return the server that has the resource *uri*, and the server's URI for it."""
        qualified = split_uri(uri)
        if qualified is not None:
            return self._qualified(*qualified)
        owned = self._owners.get(uri)
        if owned is not None:
            return owned
        for beginning, pattern, route in self._patterns:
            if uri.startswith(beginning) and pattern.match(uri) is not None:
                return CatalogueEntry(route, uri)
        return None

    def template(self, uri: str) -> CatalogueEntry | None:
        """Return the server that has the resource template *uri*, and the server's URI for it."""
        qualified = split_uri(uri)
        if qualified is not None:
            return self._qualified(*qualified)
        return self._template_owners.get(uri)

    def _qualified(self, slug: str, uri: str) -> CatalogueEntry | None:
        member = self.by_slug.get(slug)
        return None if member is None else CatalogueEntry(member.route, uri)

    def public_uri(self, route: Route, uri: str) -> str:
        """Return the public URI of the resource that *route* calls *uri*."""
        # No templates are tried: an answer may contain thousands of links.
        owned = self._owners.get(uri)
        is_listed = owned is not None and owned.route is route and split_uri(uri) is None
        return uri if is_listed else qualified_uri(route.slug, uri)

    def page(self, kind: str, cursor: object) -> bytes:
        """Return the members of a list result: `"tools":[…]` and perhaps `nextCursor`.

        Args:
            kind: `tools`, `prompts`, `resources` or `resourceTemplates`.
            cursor: As the client sent it; None for the first page.

        Raises:
            CursorError: The cursor was not issued here.
        """
        if cursor is not None and not isinstance(cursor, str):
            raise CursorError
        key = (self._serial, kind, cursor)
        page = self._pages.get(key)
        if page is None:
            page = self._built(kind, cursor)
            if len(page) <= self._pages.maxsize:
                self._pages[key] = page
        return page

    def _built(self, kind: str, cursor: str | None) -> bytes:
        after = "" if cursor is None else cursor_position(cursor)
        wires: list[bytes] = []
        last = ""
        for name, wire in self._listed(kind, after):
            if len(wires) == PAGE_SIZE:
                following = b',"nextCursor":' + orjson.dumps(cursor_after(last))
                break
            wires.append(wire)
            last = name
        else:
            following = b""
        return b"".join((b'"', kind.encode(), b'":[', b",".join(wires), b"]", following))

    def _listed(self, kind: str, after: str) -> Iterator[tuple[str, bytes]]:
        match kind:
            case "tools" | "prompts":
                for member in self.members:
                    yield from _named(member, kind, after)
            case "resources":
                yield from _located(self._owners, "resources", after)
            case _:
                yield from _located(self._template_owners, "templates", after)


def _identity(route: Route) -> str | int:
    """Return what identifies one caller's part of a server.

    The id belongs to a route that the view keeps alive, so no other object can get it.
    """
    return id(route) if route.hidden else route.server_id


def _named(member: AggregatedServer, kind: str, after: str) -> Iterator[tuple[str, bytes]]:
    beginning = member.prefix + SEPARATOR
    if after > beginning and not after.startswith(beginning):
        # All names of this server sort before it.
        return
    entries: Mapping[str, ToolEntry | FeatureEntry]
    entries = member.tools if kind == "tools" else member.prompts
    for suffix, entry in entries.items():
        name = beginning + suffix
        if name > after:
            own = entry.name if isinstance(entry, ToolEntry) else entry.key
            yield name, replaced(entry.wire, "name", own, name)


def _located(
    owners: Mapping[str, CatalogueEntry], kind: str, after: str
) -> Iterator[tuple[str, bytes]]:
    member = "uri" if kind == "resources" else "uriTemplate"
    for public in sorted(owners):
        if public > after:
            owned = owners[public]
            entry: FeatureEntry = getattr(owned.route, kind)[owned.key]
            yield public, replaced(entry.wire, member, owned.key, public)


def replaced(wire: bytes, member: str, old: str, new: str) -> bytes:
    """Return the JSON text of an object with one string member replaced."""
    if old == new:
        return wire
    known = b'"%s":%s' % (member.encode(), orjson.dumps(old))
    if wire.count(known) == 1 and wire.count(b'"%s"' % member.encode()) == 1:
        return wire.replace(known, b'"%s":%s' % (member.encode(), orjson.dumps(new)))
    document = load_text(wire)
    document[member] = new
    return dump_text(document)


def _is_sorted(names: Iterable[str]) -> bool:
    before = ""
    for name in names:
        if name < before:
            return False
        before = name
    return True
