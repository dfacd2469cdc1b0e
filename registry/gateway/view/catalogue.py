"""What the combined server offers to each caller: everything of all servers they may use.

Built from routes alone, and thrown away with them: nothing here is more than a derived read.
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
from mcp.shared.uri_template import UriTemplate

from registry.access.policies.decisions import ToolRule
from registry.access.policy import decide_use
from registry.auth.identity import UserContext
from registry.core.json import dump_text, load_text
from registry.gateway.protocol.list_pages import (
    PAGE_SIZE,
    CursorError,
    cursor_after,
    cursor_position,
)
from registry.gateway.values import FeatureEntry, Route, ToolEntry, may_tell_of_resources
from registry.tools.public_names import SEPARATOR, public_prefix, public_suffix

URI_MARK = "mcp."
"""Begins a resource's URI that says which server is meant: `mcp.<slug>+<uri>`."""


def qualified_uri(slug: str, uri: str) -> str:
    """Return a resource's URI, or URI template, that says which server is meant."""
    return f"{URI_MARK}{slug}+{uri}"


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return slug and URI of a qualified one, or None for any other."""
    if not uri.startswith(URI_MARK):
        return None
    slug, plus, rest = uri.removeprefix(URI_MARK).partition("+")
    return (slug, rest) if plus and slug and rest else None


REMEMBERED_VIEWS = 2_000
"""Callers whose view is remembered."""

REMEMBERED_PAGE_BYTES = 32 * 1024 * 1024

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""What a template must begin with to be asked about URIs that are in no list."""

MAX_PATTERNS = 100
"""Templates of one server that are tried on a URI that is in no list."""

REMEMBERED_NARROWED = 200_000
"""Tools of servers with policies, as views have them, that are remembered with these."""

ViewKey: TypeAlias = tuple[object, ...]
MemberKey: TypeAlias = tuple[str | None, str]
PageKey: TypeAlias = tuple[int, str, str | None]
T = TypeVar("T", ToolEntry, FeatureEntry)


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """Something that one server offers, as the combined server knows it.

    Attributes:
        key: What that server calls it.
        tool: The entry, if it is a tool.
    """

    route: Route
    key: str
    tool: ToolEntry | None = None


@dataclass(frozen=True, slots=True)
class BlockedTool:
    """A tool that policies refuse to a caller.

    Attributes:
        name: What its server calls it.
        rule: The policies about it.
    """

    route: Route
    name: str
    rule: ToolRule


class AggregatedServer:
    """One server's part of the combined server."""

    def __init__(self, route: Route, prefix: str | None = None) -> None:
        self.route = route
        self.prefix = public_prefix(route.slug) if prefix is None else prefix

    def seen_by(self, user: UserContext) -> "AggregatedServer":
        """Return it with the tools that policies leave to *user*."""
        policies = self.route.policies
        if policies is None:
            return self
        return AggregatedServer(policies.seen_by(user), self.prefix)

    @cached_property
    def blocked(self) -> Mapping[str, BlockedTool]:
        """Return the tools that policies refuse, by the second half of their names."""
        return {
            public_suffix(self.prefix, name): BlockedTool(self.route, name, rule)
            for name, rule in self.route.hidden.items()
        }

    @cached_property
    def tools(self) -> Mapping[str, ToolEntry]:
        """Return the tools by the second half of their names, in that order."""
        return self._by_suffix(self.route.tools)

    @cached_property
    def prompts(self) -> Mapping[str, FeatureEntry]:
        """Return the prompts by the second half of their names, in that order."""
        return self._by_suffix(self.route.prompts)

    def _by_suffix(self, entries: Mapping[str, T]) -> Mapping[str, T]:
        named = {public_suffix(self.prefix, name): entry for name, entry in entries.items()}
        if named.keys() == entries.keys():
            # Nearly all servers: their names serve as they are, and need no second table.
            return entries if _is_sorted(entries) else dict(sorted(entries.items()))
        return dict(sorted(named.items()))


class Catalogue:
    """All routes of one version of the gateway's view.

    Args:
        routes: By any key.
        former: Whatever of it did not change is used again.

    Attributes:
        by_server: The servers by their ids.
    """

    def __init__(self, routes: Mapping[str, Route], former: "Catalogue | None" = None) -> None:
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
        # Should hashes ever collide, the older server keeps its names.
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
        """Return the servers by their tenants and what their names begin with."""
        return self._members

    def member(self, prefix: str, tenant_id: str | None = None) -> "AggregatedServer | None":
        """Return the server of a tenant whose names begin with *prefix*."""
        return self._members.get((tenant_id, prefix))

    def view(self, user: UserContext, *, admin_uses_private: bool) -> "CatalogueView":
        """Return what *user* may use."""
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
        # People who see the same share the pages too.
        shared = tuple(_identity(member.route) for member in allowed)
        view = self._by_members.get(shared)
        if len(self._views) >= REMEMBERED_VIEWS or self._narrowed > REMEMBERED_NARROWED:
            self._views.clear()
            self._by_members.clear()
            self._narrowed = 0
        if view is None:
            view = CatalogueView(next(self._serials), allowed, self._pages)
            self._by_members[shared] = view
            self._narrowed += sum(
                len(member.route.tools) for member in allowed if member.route.hidden
            )
        self._views[key] = view
        return view


class CatalogueView:
    """What some callers may see of the combined server.

    Args:
        serial: Tells views apart in *pages*.
        members: In the order of their names.
        pages: Where built pages are kept.
    """

    def __init__(
        self, serial: int, members: Sequence[AggregatedServer], pages: LRUCache[PageKey, bytes]
    ) -> None:
        self.members = members
        self._serial = serial
        self._pages = pages

    @cached_property
    def by_prefix(self) -> Mapping[str, AggregatedServer]:
        """Return the servers by what their names begin with."""
        return {member.prefix: member for member in self.members}

    @cached_property
    def by_slug(self) -> Mapping[str, AggregatedServer]:
        """Return the servers by slug."""
        return {member.route.slug: member for member in self.members}

    @cached_property
    def capabilities(self) -> Mapping[str, Any]:
        """Return what the servers can do, together, as the handshake's era names it."""
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
        """Return what the servers tell models about their use, each under its prefix."""
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
        """Resources by the URI that this view lists them under; the oldest server is first."""
        return self._owned_uris("resources")

    @cached_property
    def _template_owners(self) -> Mapping[str, CatalogueEntry]:
        return self._owned_uris("templates")

    def _owned_uris(self, kind: str) -> Mapping[str, CatalogueEntry]:
        owners: dict[str, CatalogueEntry] = {}
        for member in sorted(self.members, key=lambda member: member.route.server_id):
            route = member.route
            for uri in getattr(route, kind):
                # What looks qualified would be taken for another server's.
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
                # It would catch what is meant for other servers, and what is nobody's.
                continue
            try:
                pattern = UriTemplate.parse(owned.key)
                found.append((owned.key.partition("{")[0], pattern, owned.route))
            except ValueError:
                # It is listed all the same; its server is found when the URI says which.
                continue
        return found

    def resource(self, uri: str) -> CatalogueEntry | None:
        """Return whose resource *uri* is, and what that server calls it."""
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
        """Return whose resource template *uri* is, and what that server calls it."""
        qualified = split_uri(uri)
        if qualified is not None:
            return self._qualified(*qualified)
        return self._template_owners.get(uri)

    def _qualified(self, slug: str, uri: str) -> CatalogueEntry | None:
        member = self.by_slug.get(slug)
        return None if member is None else CatalogueEntry(member.route, uri)

    def public_uri(self, route: Route, uri: str) -> str:
        """Return the URI under which a reader finds what *route* calls *uri*."""
        # No templates are tried: an answer may hold thousands of links.
        owned = self._owners.get(uri)
        is_listed = owned is not None and owned.route is route and split_uri(uri) is None
        return uri if is_listed else qualified_uri(route.slug, uri)

    def page(self, kind: str, cursor: object) -> bytes:
        """Return the members of a list result: `"tools":[…]` and perhaps `nextCursor`.

        Args:
            kind: `tools`, `prompts`, `resources` or `resourceTemplates`.
            cursor: As the client sent it; None for the first page.

        Raises:
            CursorError: It is not one of ours.
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
    """Return what tells one caller's part of a server from another's.

    The number stands for a route that its view keeps, so that no other gets it.
    """
    return id(route) if route.hidden else route.server_id


def _named(member: AggregatedServer, kind: str, after: str) -> Iterator[tuple[str, bytes]]:
    beginning = member.prefix + SEPARATOR
    if after > beginning and not after.startswith(beginning):
        # All names of this server come before it.
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
    """Return the JSON text of an object with another value of one string member."""
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
