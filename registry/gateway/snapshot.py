"""The gateway's view of the database: loaded at start, kept fresh by change streams.

Calls read it and nothing else. Only servers that are served have a route: inactive, hidden and
unknown ones cannot be told apart by looking here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from cachetools import TTLCache

from packages.database.changes import Change, watch
from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from registry.access.policy import Grant, Grants, ServerFacts
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.catalogue import Catalogue
from registry.gateway.values import Route, build_route, tool_entry
from registry.servers.credentials import CredentialVault, needs_user_key
from registry.servers.errors import UserKeyMissingError
from registry.servers.naming import slug_of
from registry.servers.repository import ServerRepository
from registry.servers.values import Era, ServerRecord, ServerStatus, Transport
from registry.tokens.plugin_auths import PluginAuthRepository
from registry.tools.projection import restore
from registry.tools.repository import ToolRepository
from registry.tools.values import ServedTool

log = structlog.get_logger()

SERVER_LINKS = {"mcp_tools": "owner_id", "aclentries": "resourceId"}
"""Collections whose documents concern a server, and the field that names it."""

USER_COLLECTIONS = frozenset({"users", "groups"})
REVOKED = "revoked_tokens"
CALLER_COLLECTIONS = USER_COLLECTIONS | {REVOKED}
WATCHED = ("mcpservers", "pluginauths", REVOKED, *SERVER_LINKS, *USER_COLLECTIONS)

USER_KEYS = 10_000
USER_KEY_SECONDS = 300
"""How many users' own keys are remembered, and for how long; a change drops them all at once."""

GATHER_SECONDS = 0.02
"""How long changes are gathered before they are applied: one registration makes many."""

RETRY_SECONDS = 0.5
"""Pause before the change stream is opened again."""


@dataclass(frozen=True, slots=True)
class SnapshotSources:
    """Where the snapshot reads."""

    servers: ServerRepository
    tools: ToolRepository
    acl: AclRepository
    plugin_auths: PluginAuthRepository


class Snapshot:
    """Routes by slug, replaced as a whole whenever something changed.

    Implements `gateway.ports.RouteTable` and `servers.ports.ServerChanges`.

    Args:
        users_changed: Called when a user or a group changed.
        revocations_changed: Called when a token was revoked, or may have been.
    """

    def __init__(
        self,
        database: Database,
        sources: SnapshotSources,
        vault: CredentialVault,
        *,
        clock: Clock,
        metrics: Metrics,
        settings: Settings,
        users_changed: Callable[[], None],
        revocations_changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._sources = sources
        self._vault = vault
        self._clock = clock
        self._idle_timeout_seconds = settings.gateway_idle_timeout_seconds
        self._first_byte_timeout_seconds = settings.gateway_first_byte_timeout_seconds
        self._max_staleness_seconds = settings.gateway_max_staleness_seconds
        self._users_changed = users_changed
        self._revocations_changed = revocations_changed
        self._routes: dict[str, Route] = {}
        self._catalogue = Catalogue({})
        self._by_server: dict[str, Route] = {}
        self._configs: dict[str, ServerRecord] = {}
        self._entries: dict[str, str] = {}
        self._user_headers: TTLCache[tuple[str, str], Mapping[str, str]] = TTLCache(
            USER_KEYS, USER_KEY_SECONDS, timer=clock.monotonic
        )
        self._agreed_at = float("-inf")
        self._change = asyncio.Event()
        self._version = 0
        self._lock = asyncio.Lock()
        self._full_reloads = metrics.snapshot_reloads.labels("full")
        self._server_reloads = metrics.snapshot_reloads.labels("server")
        metrics.snapshot_age.set_function(lambda: clock.monotonic() - self._agreed_at)

    def route(self, slug: str) -> Route | None:
        """Return the route of `/mcp/<slug>`, or None."""
        return self._routes.get(slug)

    @property
    def catalogue(self) -> Catalogue:
        """What the combined server is made of."""
        return self._catalogue

    def is_fresh(self) -> bool:
        """Whether the view agreed with the database recently enough to be served."""
        return self._clock.monotonic() - self._agreed_at <= self._max_staleness_seconds

    async def changed(self, seen: int) -> int:
        """Wait until there is another version of the view than *seen*, and return it.

        A version ends with each change that may decide otherwise about a caller or a server.
        """
        while self._version == seen:
            await self._change.wait()
        return self._version

    def _notify(self) -> None:
        self._version += 1
        self._change.set()
        self._change = asyncio.Event()

    async def user_headers(self, user: UserContext, route: Route) -> Mapping[str, str]:
        """Return the upstream headers with the caller's own key.

        Raises:
            UserKeyMissingError: The caller has stored none.
            CredentialUnreadableError: It cannot be decrypted.
            DatabaseUnavailable: It is not remembered and cannot be read.
        """
        key = (user.user_id, route.server_id)
        remembered = self._user_headers.get(key)
        if remembered is not None:
            return remembered
        server = self._configs.get(route.server_id)
        if server is None:
            raise UserKeyMissingError
        own = await self._sources.plugin_auths.values(
            user.user_id, server.server_name, server.created_at
        )
        headers = self._vault.request_headers(server.id, server.config, own)
        self._user_headers[key] = headers
        return headers

    def forget_user_headers(self) -> None:
        """Drop what is remembered of users' own values."""
        self._user_headers.clear()

    async def load(self) -> None:
        """Read everything.

        Raises:
            DatabaseUnavailable: The view stays as it was.
        """
        async with self._lock:
            began_at = self._clock.monotonic()
            servers = [
                server for server in await self._sources.servers.all_unchecked() if _served(server)
            ]
            ids = [server.id for server in servers]
            tools = await self._sources.tools.served_by_owner(ids)
            grants = await self._sources.acl.grants_of(None, self._clock.now())
            self._entries = {}
            for server_id, entries in grants.items():
                self._note_entries(server_id, entries)
            foreign = [server for server in servers if _is_foreign(server, tools.get(server.id))]
            for server in foreign:
                functions = await self._sources.servers.tool_functions(server.id)
                tools[server.id] = restore(functions, server.server_name)
            self._configs = {server.id: server for server in servers}
            self._by_server = {
                server.id: route
                for server in servers
                if (route := self._build(server, tools.get(server.id, []), grants.get(server.id)))
            }
            self._publish()
            self._user_headers.clear()
            self._full_reloads.inc()
            self._agreed_at = began_at

    async def server_changed(self, server_id: str) -> None:
        """Read one server again; when the database is away, leave that to `follow`."""
        try:
            await self._reload(server_id)
        except DatabaseUnavailable:
            log.warning("snapshot_reload_postponed", server_id=server_id)

    async def follow(self) -> None:
        """Apply changes as they are committed, for ever. Survives the database going away."""
        while True:
            try:
                await self._follow_stream()
            except DatabaseUnavailable as exc:
                log.warning("snapshot_stream_lost", error=type(exc.__cause__).__name__)
            except Exception:
                # The one view of all callers must not stop following because of one bad document.
                log.exception("snapshot_follow_failed")
            await self._clock.sleep(RETRY_SECONDS)

    async def _follow_stream(self) -> None:
        links = sorted(set(SERVER_LINKS.values()))
        # Left without being closed, the stream would stay open on the server until collected.
        async with aclosing(watch(self._database, WATCHED, links)) as stream:
            await self._follow_changes(stream)

    async def _follow_changes(self, stream: AsyncIterator[Change | None]) -> None:
        gathered: list[Change] = []
        gather_until = 0.0
        loaded = False
        async for change in stream:
            if not loaded:
                # The stream is open, so whatever this read misses will come through it.
                await self._revocations_changed()
                await self.load()
                loaded = True
                continue
            now = self._clock.monotonic()
            if change is not None:
                if not gathered:
                    gather_until = now + GATHER_SECONDS
                gathered.append(change)
                if now < gather_until:
                    continue
            # There may never be a pause in which all has been heard: what changed keeps coming.
            await self._apply(gathered)
            gathered = []
            await self._drop_expired_grants()
            self._agreed_at = now

    async def _drop_expired_grants(self) -> None:
        # An entry that runs out is no change of its document, so no stream tells of it.
        now = self._clock.now()
        for server_id, route in list(self._by_server.items()):
            ends_at = route.facts.grants.next_expiry
            if ends_at is not None and ends_at <= now:
                await self._reload(server_id)

    async def _apply(self, changes: Iterable[Change]) -> None:
        servers: set[str] = set()
        changes = list(changes)
        await self._apply_callers({change.collection for change in changes})
        for change in changes:
            if change.collection == "mcpservers":
                servers.add(change.document_id)
            elif change.collection in SERVER_LINKS:
                link = change.links.get(SERVER_LINKS[change.collection])
                if link is None:
                    link = self._entries.pop(change.document_id, None)
                if link is None:
                    # A deleted document does not tell which server it was about.
                    await self.load()
                    return
                servers.add(link)
            elif change.collection == "pluginauths":
                self._user_headers.clear()
        for server_id in servers:
            await self._reload(server_id)

    async def _apply_callers(self, collections: set[str]) -> None:
        """Follow changes of who may call, before anything that may take longer."""
        if REVOKED in collections:
            await self._revocations_changed()
        if collections & USER_COLLECTIONS:
            self._users_changed()
        if collections & CALLER_COLLECTIONS:
            self._notify()

    async def _reload(self, server_id: str) -> None:
        async with self._lock:
            server = await self._sources.servers.get_unchecked(server_id)
            route = None
            if server is not None and _served(server):
                tools = await self._sources.tools.served(server_id)
                if _is_foreign(server, tools):
                    functions = server.config.get("toolFunctions")
                    tools = restore(
                        functions if isinstance(functions, dict) else {}, server.server_name
                    )
                grants = await self._sources.acl.grants_of([server_id], self._clock.now())
                self._note_entries(server_id, grants.get(server_id, []))
                route = self._build(server, tools, grants.get(server_id))
            if route is None or server is None:
                self._by_server.pop(server_id, None)
                self._configs.pop(server_id, None)
            else:
                self._by_server[server_id] = route
                self._configs[server_id] = server
            self._publish()
            self._user_headers.clear()
            self._server_reloads.inc()

    def _note_entries(self, server_id: str, entries: Iterable[Grant]) -> None:
        """Remember which server each entry is about, for when it is deleted."""
        for entry in entries:
            if entry.entry_id is not None:
                self._entries[entry.entry_id] = server_id

    def _publish(self) -> None:
        """Replace the table in one step; of two servers on one slug the older one keeps it."""
        routes: dict[str, Route] = {}
        for server_id in sorted(self._by_server):
            route = self._by_server[server_id]
            routes.setdefault(route.slug, route)
        self._routes = routes
        self._catalogue = Catalogue(routes)
        self._notify()

    def _build(
        self, server: ServerRecord, tools: list[ServedTool], grants: list[Grant] | None
    ) -> Route | None:
        slug = slug_of(server.effective_path)
        transport = _transport(server)
        url = server.config.get("url")
        if slug is None or transport is None or not isinstance(url, str):
            return None
        per_user = needs_user_key(server.config)
        headers: Mapping[str, str] = {}
        problem: str | None = None
        if not per_user:
            try:
                headers = self._vault.request_headers(server.id, server.config)
            except RegistryError as exc:
                problem = exc.message
                log.warning("credential_unreadable", server_id=server.id, problem=problem)
        try:
            return build_route(
                server_id=server.id,
                server_name=server.server_name,
                slug=slug,
                facts=ServerFacts(server.author, server.scope, Grants.of(grants or ())),
                url=url,
                transport=transport,
                eras=_eras(server),
                protocol_version=_text(server.registry.get("protocol_version")),
                headers=headers,
                credential_problem=problem,
                per_user=per_user,
                idle_timeout_seconds=_own_timeout(server) or self._idle_timeout_seconds,
                first_byte_timeout_seconds=(
                    _own_timeout(server) or self._first_byte_timeout_seconds
                ),
                tools=[tool_entry(tool.name, tool.definition) for tool in tools],
            )
        except (ValueError, TypeError, OverflowError) as exc:
            # Written by another program: one unusable document must not cost the others.
            log.warning("server_unusable", server_id=server.id, reason=type(exc).__name__)
            return None


def _own_timeout(server: ServerRecord) -> float | None:
    own = server.config.get("timeout")
    return own / 1000 if isinstance(own, int | float) and own > 0 else None


def _served(server: ServerRecord) -> bool:
    # A server in error keeps its route: its tools must not vanish because it was away for a while.
    return server.effective_status is not ServerStatus.INACTIVE


def _is_foreign(server: ServerRecord, tools: list[ServedTool] | None) -> bool:
    return not tools and "auto_expose" not in server.registry


def _transport(server: ServerRecord) -> Transport | None:
    match server.config.get("type"):
        case "streamable-http" | "http":
            return Transport.STREAMABLE_HTTP
        case "sse" | None:
            return Transport.SSE
        case _:
            return None


def _eras(server: ServerRecord) -> frozenset[Era]:
    stored = server.registry.get("eras")
    names = stored if isinstance(stored, list) else []
    # Without any it was not read yet: let calls through and the upstream say what it speaks.
    return frozenset(era for era in Era if era.value in names) or frozenset(Era)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
