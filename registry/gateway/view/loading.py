"""Build routes from stored documents, a few servers at a time.

Rows are converted as they come from the database, so that never more than a few hundred are in
memory in their stored form. What did not change is not rebuilt: the view that is served and the
one that is being loaded share it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from packages.database.changes import row_id
from packages.database.errors import DatabaseUnavailable
from packages.models.states import FeatureKind, SourceType
from registry.access.policies.repository import PolicyRepository
from registry.access.policies.values import Policy
from registry.access.policy import Grant, Grants, ServerFacts, ServerScope
from registry.access.repository import AclRepository
from registry.core.definitions import DecodeBudget
from registry.core.errors import RegistryError
from registry.core.json import JsonObject, members
from registry.gateway.values import (
    NO_CAPABILITIES,
    FeatureEntry,
    Route,
    ToolEntry,
    build_route,
    tool_entry,
)
from registry.oauth.policy import grant_of
from registry.oauth.ports import CachedTokens
from registry.prompts_and_resources.repository import FeatureRepository
from registry.prompts_and_resources.values import FeatureRow
from registry.servers.credentials import (
    CredentialVault,
    is_user_level,
    names_caller,
    needs_user_key,
)
from registry.servers.storage.inventory import (
    Inventory,
    ListedServer,
    listed_server,
    listed_tool,
    owner_words,
)
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import Era, ServerRecord, ServerStatus, Transport, oauth_server
from registry.tokens.plugin_auths import PluginAuthRepository
from registry.tools.call_rules import NO_CALL_RULES, SERVER_MEMBERS, CallRules, call_rules
from registry.tools.documents import is_object_text
from registry.tools.metadata import facets_of, requires_approval, said_in
from registry.tools.metadata import known as knowledge
from registry.tools.naming import slug_of
from registry.tools.projection import restore
from registry.tools.repository import ToolRepository
from registry.tools.values import ListedTool, ToolDefinition, ToolRow, ToolTraits

log = structlog.get_logger()

SERVERS_AT_ONCE = 20
"""Servers read by one query of each collection."""

MAX_FACET_SETS = 1_000

STOPPING = (
    *("serverName ", "config is "),
    *(f"config.{name} " for name in ("type", "url", "headers", "apiKey", "customUserVars")),
)
"""Prefixes of the problems for which a server is not served: half of its address or of its
credentials is worse than none."""

USER_KEY_MEMBERS = ("headers", "apiKey", "customUserVars")
"""The members of a server's `config` that its users' own headers are made from."""


@dataclass(frozen=True, slots=True)
class SnapshotSources:
    """What the snapshot reads from, and the inventory that it maintains.

    Attributes:
        inventory: Answers list requests; updated together with the routes.
        tokens: Supplies users' access tokens for servers.
    """

    inventory: Inventory
    servers: ServerRepository
    tools: ToolRepository
    features: FeatureRepository
    acl: AclRepository
    plugin_auths: PluginAuthRepository
    policies: PolicyRepository
    tokens: CachedTokens


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the view holds of one server.

    Attributes:
        listed: What lists need.
        route: What calls need; None if the server is not served.
        row_ids: Ids of all other documents that it was made from, 12 bytes each.
        record: What its users' own headers are made from, if users bring keys.
        definition_bytes: Size of everything that it offers.
    """

    listed: ListedServer
    route: Route | None
    row_ids: bytes
    record: ServerRecord | None
    definition_bytes: int = 0


@dataclass(slots=True)
class _Rows:
    """What is stored beside a server's own document, as far as it was read."""

    ids: bytearray
    listed: list[ListedTool]
    tools: list[ToolEntry]
    features: dict[FeatureKind, list[FeatureEntry]]
    grants: list[Grant]
    served: list[str]


class RouteReader:
    """Reads servers with everything that belongs to them. Writes nothing."""

    def __init__(
        self,
        sources: SnapshotSources,
        vault: CredentialVault,
        *,
        idle_timeout_seconds: float,
        first_byte_timeout_seconds: float,
        max_definition_bytes: int,
        enforces_approvals: bool,
        via: str | None,
    ) -> None:
        self._sources = sources
        self._vault = vault
        self._idle_timeout_seconds = idle_timeout_seconds
        self._first_byte_timeout_seconds = first_byte_timeout_seconds
        self._max_definition_bytes = max_definition_bytes
        self._enforces_approvals = enforces_approvals
        self._via = via
        self._facets: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._traits: dict[ToolTraits, ToolTraits] = {}
        self._call_rules: dict[CallRules, CallRules] = {}

    async def ids(self) -> list[str]:
        """Return the ids of all servers.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        await self._sources.servers.warn_of_odd_ids()
        return await self._sources.servers.ids_unchecked()

    async def policies(self) -> dict[str, Policy]:
        """Return all tool policies, by their ids.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        return await self._sources.policies.every()

    async def some_policies(self, policy_ids: Iterable[str]) -> dict[str, Policy]:
        """Return the existing policies among these ids.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        return await self._sources.policies.some(policy_ids)

    async def read(
        self, server_ids: Sequence[str], before: Mapping[str, ServerView], now: datetime
    ) -> dict[str, ServerView]:
        """Return what the view holds of a few servers.

        Args:
            server_ids: Their ids; few enough for one query.
            before: Earlier views whose unchanged parts are reused.
            now: ACL entries that ended by then do not count.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        try:
            return await self._read(server_ids, before, now)
        except DatabaseUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - one bad document must not affect the others
            if len(server_ids) == 1:
                reason = type(exc).__name__
                log.warning("server_invalid", server_id=server_ids[0], reason=reason)
                return {}
        views: dict[str, ServerView] = {}
        for server_id in server_ids:
            views |= await self.read([server_id], before, now)
        return views

    async def _read(
        self, server_ids: Sequence[str], before: Mapping[str, ServerView], now: datetime
    ) -> dict[str, ServerView]:
        servers = await self._sources.servers.by_ids_unchecked(server_ids)
        if not servers:
            return {}
        rows = await self._rows(servers, before, now)
        return {
            server.id: self._view(server, rows[server.id], before.get(server.id))
            for server in servers
        }

    def _view(self, server: ServerRecord, rows: _Rows, before: ServerView | None) -> ServerView:
        grants = Grants.of(rows.grants, server.tenant_id)
        described = rows.served if server.is_described_elsewhere else None
        listed = listed_server(server, grants, rows.listed, described)
        if before is not None:
            if listed == before.listed:
                listed = before.listed
            elif listed.tools == before.listed.tools:
                listed = replace(listed, tools=before.listed.tools)
        definition_bytes = self._bound(server.id, rows)
        route = self._build(server, listed.facts, rows) if _is_served(server) else None
        record = _for_user_keys(server) if route is not None and route.per_user else None
        return ServerView(listed, route, bytes(rows.ids), record, definition_bytes)

    def _bound(self, server_id: str, rows: _Rows) -> int:
        """Drop what exceeds a server's byte limit; return the number of bytes kept.

        More can be stored than one discovery ever returns: tools that the upstream no longer
        describes readably stay served, and it may offer other tools as well.
        """
        sizes = [len(tool.wire) for tool in rows.tools]
        lists = rows.features.values()
        feature_sizes = [len(feature.wire) for features in lists for feature in features]
        most = self._max_definition_bytes
        if sum(sizes) > most:
            left = DecodeBudget(most)
            tools = sorted(rows.tools, key=lambda tool: tool.name)
            rows.tools = [tool for tool in tools if left.take(tool.wire)]
            self._warn_left_out(server_id, "tools", len(tools) - len(rows.tools))
        if sum(feature_sizes) > most:
            left = DecodeBudget(most)
            for kind, features in rows.features.items():
                rows.features[kind] = [one for one in features if left.take(one.wire)]
                self._warn_left_out(
                    server_id, kind.value, len(features) - len(rows.features[kind])
                )
        return sum(sizes) + sum(feature_sizes)

    def _warn_left_out(self, server_id: str, kind: str, number: int) -> None:
        if number:
            log.warning("definitions_omitted", server_id=server_id, kind=kind, count=number)

    async def _rows(
        self, servers: Sequence[ServerRecord], before: Mapping[str, ServerView], now: datetime
    ) -> dict[str, _Rows]:
        ids = [server.id for server in servers]
        owners = {server.id: owner_words(server) for server in servers}
        servers_by_id = {server.id: server for server in servers}
        rows = {server_id: _Rows(bytearray(), [], [], {}, [], []) for server_id in ids}
        known = {
            server_id: route
            for server_id in ids
            if server_id in before and (route := before[server_id].route) is not None
        }
        async for row in self._sources.tools.rows(ids):
            owner_id = row.listed.owner_id
            own = rows[owner_id]
            own.ids += row.listed.row_id
            tool = listed_tool(row, owners[owner_id])
            own.listed.append(tool._replace(traits=self._shared_traits(tool.traits)))
            if not row.is_served:
                continue
            own.served.append(row.name)
            entry = _tool_entry(
                row.name,
                row.definition,
                known.get(owner_id),
                is_behind=row.is_behind,
                facets=self._shared(row.facets),
                rules=self._rules(row, servers_by_id[owner_id]),
                version=row.version,
                tags=self._shared(row.tags),
                row_id=row.listed.row_id,
            )
            if entry is None:
                log.warning("tool_invalid", tool_id=row.listed.row_id.hex(), server_id=owner_id)
            else:
                own.tools.append(entry)
        async for feature in self._sources.features.rows(ids):
            own = rows[feature.owner_id]
            own.ids += feature.row_id
            listed = _feature_entry(feature, known.get(feature.owner_id))
            own.features.setdefault(feature.feature.kind, []).append(listed)
        for server_id, grants in (await self._sources.acl.grants_of(ids, now)).items():
            own = rows[server_id]
            own.grants = grants
            for grant in grants:
                own.ids += b"" if grant.entry_id is None else row_id(grant.entry_id)
        for server in servers:
            if server.is_described_elsewhere and not rows[server.id].listed:
                await self._restore(server, rows[server.id], known.get(server.id))
        return rows

    async def _restore(self, server: ServerRecord, rows: _Rows, known: Route | None) -> None:
        """Read the tools of a server that only the other application has described."""
        functions = await self._sources.servers.tool_functions(server.id)
        restored = restore(functions, server.server_name)
        for rejected in restored.rejected:
            log.warning(
                "tool_invalid",
                tool=rejected.name,
                server_id=server.id,
                reason=rejected.reason,
            )
        rows.served = [tool.name for tool in restored.tools]
        if not _is_served(server):
            return
        entries = [
            _tool_entry(
                tool.name,
                tool.definition,
                known,
                # There is no stored metadata; the definition itself says something.
                facets=self._shared(_facets(tool)),
            )
            for tool in restored.tools
        ]
        rows.tools = [entry for entry in entries if entry is not None]

    def _shared(self, facets: tuple[str, ...]) -> tuple[str, ...]:
        """Return one shared object for equal metadata; there are few distinct sets."""
        if len(self._facets) > MAX_FACET_SETS:
            self._facets.clear()
        return self._facets.setdefault(facets, facets)

    def _rules(self, row: ToolRow, server: ServerRecord) -> CallRules:
        """Return the rules for a tool's calls; one shared object for equal ones."""
        defaults = members(server.registry.get("call_rules"))
        if not row.said and not defaults and not requires_approval(row.facets):
            return NO_CALL_RULES
        rules = call_rules(
            row.said,
            row.facets,
            {name: defaults[name] for name in SERVER_MEMBERS if name in defaults},
            is_shared=server.effective_scope is not ServerScope.PRIVATE_USER,
            enforces_approvals=self._enforces_approvals,
        )
        if len(self._call_rules) > MAX_FACET_SETS:
            self._call_rules.clear()
        return self._call_rules.setdefault(rules, rules)

    def _shared_traits(self, traits: ToolTraits) -> ToolTraits:
        if len(self._traits) > MAX_FACET_SETS:
            self._traits.clear()
        return self._traits.setdefault(traits, traits)

    def _build(self, server: ServerRecord, facts: ServerFacts, rows: _Rows) -> Route | None:
        slug = slug_of(server.effective_path)
        transport = _transport(server)
        url = server.config.get("url")
        if server.problems:
            reason = "; ".join(server.problems)
            if any(problem.startswith(STOPPING) for problem in server.problems):
                log.warning("server_invalid", server_id=server.id, reason=reason)
                return None
            log.warning("server_partly_invalid", server_id=server.id, reason=reason)
        if slug is None or transport is None or not (isinstance(url, str) and url):
            return None
        oauth = None if grant_of(server.config) is None else oauth_server(server)
        per_user = oauth is not None or needs_user_key(server.config)
        per_user = per_user or names_caller(server.config)
        headers: Mapping[str, str] = {}
        problem: str | None = None
        if not per_user:
            try:
                headers = self._vault.request_headers(server.id, server.config)
            except RegistryError as exc:
                problem = exc.message
                log.warning("credential_unreadable", server_id=server.id, error=problem)
        try:
            return build_route(
                server_id=server.id,
                server_name=server.server_name,
                slug=slug,
                facts=facts,
                url=url,
                transport=transport,
                eras=_eras(server),
                protocol_version=_text(server.registry.get("protocol_version")),
                headers=headers,
                credential_problem=problem,
                per_user=per_user,
                oauth=oauth,
                idle_timeout_seconds=_own_timeout(server) or self._idle_timeout_seconds,
                first_byte_timeout_seconds=(
                    _own_timeout(server) or self._first_byte_timeout_seconds
                ),
                tools=rows.tools,
                capabilities=server.capabilities or NO_CAPABILITIES,
                instructions=_instructions(server),
                title=_text(server.config.get("title")) or _text(server.registry.get("title")),
                prompts=rows.features.get(FeatureKind.PROMPT, ()),
                resources=rows.features.get(FeatureKind.RESOURCE, ()),
                templates=rows.features.get(FeatureKind.TEMPLATE, ()),
                features_known=server.registry.get("features_read") is True,
                modified_at=server.updated_at,
                is_user_level=is_user_level(server.config),
                default_effect=server.default_effect,
                via=self._via,
            )
        except (ValueError, TypeError, OverflowError, RecursionError) as exc:
            # Written by another program: one unusable document must not affect the others.
            log.warning("server_invalid", server_id=server.id, reason=type(exc).__name__)
            return None


def about_deleted(views: Mapping[str, ServerView], deleted: Iterable[bytes]) -> set[str]:
    """Return the ids of the servers whose views were made from deleted documents.

    A document that was not served is part of no view, so its deletion changes none.
    """
    gone = set(deleted)
    if not gone:
        return set()
    size = len(next(iter(gone)))
    return {
        server_id
        for server_id, view in views.items()
        if any(
            view.row_ids[start : start + size] in gone
            for start in range(0, len(view.row_ids), size)
        )
    }


def _own_timeout(server: ServerRecord) -> float | None:
    own = server.config.get("timeout")
    return own / 1000 if isinstance(own, int | float) and own > 0 else None


def _is_served(server: ServerRecord) -> bool:
    # A server in error keeps its route: its tools must not vanish because it was down for a while.
    return server.effective_status is not ServerStatus.INACTIVE


def _facets(tool: ToolDefinition) -> tuple[str, ...]:
    return facets_of(knowledge(tool.name, said_in(tool.definition), {}))


def _tool_entry(
    name: str,
    definition: str,
    known: Route | None,
    *,
    is_behind: bool = False,
    facets: tuple[str, ...] = (),
    rules: CallRules = NO_CALL_RULES,
    version: int = 1,
    tags: tuple[str, ...] = (),
    row_id: bytes = b"",
) -> ToolEntry | None:
    """Return the entry of a tool; None if it cannot be served.

    Its text may be unreadable for clients, or cost too much on each call.
    """
    if known is not None:
        entry = known.tools.get(name)
        is_same = entry is not None and entry.is_of(definition)
        if (
            entry is not None
            and is_same
            and entry.is_behind is is_behind
            and entry.facets == facets
            and entry.rules == rules
            and entry.version == version
            and entry.tags == tags
            and entry.row_id == row_id
        ):
            return entry
    if not is_object_text(definition):
        return None
    try:
        return tool_entry(
            name,
            definition,
            is_behind=is_behind,
            facets=facets,
            rules=rules,
            version=version,
            tags=tags,
            row_id=row_id,
        )
    except (ValueError, RecursionError):
        return None


def _feature_entry(row: FeatureRow, known: Route | None) -> FeatureEntry:
    feature, wire = row.feature, row.feature.definition.encode()
    if known is not None:
        tables = {
            FeatureKind.PROMPT: known.prompts,
            FeatureKind.RESOURCE: known.resources,
            FeatureKind.TEMPLATE: known.templates,
        }
        entry = tables[feature.kind].get(feature.key)
        if entry is not None and entry.wire == wire:
            return entry
    return FeatureEntry(feature.key, wire)


def _for_user_keys(server: ServerRecord) -> ServerRecord:
    config: JsonObject = {
        name: server.config[name] for name in USER_KEY_MEMBERS if name in server.config
    }
    return server.model_copy(update={"config": config, "registry": {}})


def _transport(server: ServerRecord) -> Transport | None:
    match server.config.get("type"):
        case "streamable-http" | "http":
            return Transport.STREAMABLE_HTTP
        case "openapi" if server.source_type is SourceType.OPENAPI:
            return Transport.OPENAPI
        case "sse" | None:
            return Transport.SSE
        case _:
            return None


def _eras(server: ServerRecord) -> frozenset[Era]:
    stored = server.registry.get("eras")
    names = stored if isinstance(stored, list) else []
    # Without versions it was not read yet: let calls through; the upstream says what it speaks.
    return frozenset(era for era in Era if era.value in names) or frozenset(Era)


def _instructions(server: ServerRecord) -> str | None:
    """Return the instructions that operators wrote for the server, or else its own."""
    return _text(server.config.get("serverInstructions")) or _text(
        server.registry.get("instructions")
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
