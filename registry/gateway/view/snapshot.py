"""Snapshot: the gateway's view of the database, loaded at start and updated by change events.

Calls read the snapshot and nothing else. Only servers that are served have a route: inactive,
hidden and unknown ones look the same here. What lists need of all servers goes to the inventory
in the same step.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from math import inf

import structlog

from packages.database.changes import ChangeFeed, FeedItem, HistoryLost, Position
from packages.database.errors import DatabaseUnavailable
from packages.database.slices import slices
from registry.access.policies.values import Policy
from registry.access.quarantine.table import QuarantineTable
from registry.access.toolsets.resolution import Presentations
from registry.access.toolsets.values import Resolution, Toolset
from registry.auth.identity import UserContext
from registry.connections.tracker import ConnectionTracker
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.values import Credentials, Route
from registry.gateway.view.catalogue import Catalogue, CatalogueView
from registry.gateway.view.era_probe import EraReprobe
from registry.gateway.view.loading import (
    SERVERS_AT_ONCE,
    RouteReader,
    ServerView,
    SnapshotSources,
    about_deleted,
)
from registry.gateway.view.pending import (
    TABLE_NAMES,
    ChangeBatch,
    PendingChanges,
    TokenChanges,
)
from registry.gateway.view.policy_filter import RoutePolicies
from registry.gateway.view.tables import FollowedTable
from registry.gateway.view.toolsets import resolution
from registry.gateway.view.user_headers import UserHeaders
from registry.oauth.values import AccessToken
from registry.servers.credentials import CredentialVault
from registry.servers.storage.inventory import ListedServer
from registry.servers.values import ServerRecord

ROUND_SECONDS = 0.25
"""Longest delay of the events that follow a first one."""

GAP_SECONDS = 0.005
"""Events further apart than this did not come in one response."""

MAX_TOGETHER = 100
"""A larger response may be incomplete, so the next one is requested immediately."""


class FeedPacer:
    """Debounces the feed: passes the first change at once and batches those that follow."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._round_began_at = float("-inf")
        self._received_at = float("-inf")
        self._together = 0

    async def keep(self) -> None:
        """Note that a change arrived, and return when the next one may be requested."""
        now = self._clock.monotonic()
        came_with_former = now - self._received_at <= GAP_SECONDS
        self._received_at = now
        if came_with_former:
            self._together += 1
            return
        was_cut_short = self._together > MAX_TOGETHER
        self._together = 1
        rest = self._round_began_at + ROUND_SECONDS - now
        if rest > 0:
            if was_cut_short:
                return
            await self._clock.sleep(rest)
            # The rest of its batch is still to be returned.
            self._received_at = self._clock.monotonic()
        self._round_began_at = self._received_at


log = structlog.get_logger()

GATHER_SECONDS = 0.02
"""How long changes are gathered before they are applied: one registration makes several."""

GATHER_FACTOR, GATHER_SOON_SECONDS = 3, 0.3
"""After changes that took long to apply, this many times as long, up to the bound.
While many servers change, each is then read once, together with others."""

MAX_GATHER_SECONDS = 1.0
"""After changes that took longer than that bound: as long as they took, up to this bound."""

ID_CHARACTERS = 24
HEXADECIMAL = frozenset("0123456789abcdef")

MANY, MANY_OF = 500, 3
"""With more changed servers than this, and than every third, everything is reloaded."""

RETRY_SECONDS = 0.5
"""Pause before the feed is opened again."""


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """Age of the view.

    Attributes:
        age_seconds: Since it last agreed with the database; None if it never did.
        mode: How it is updated: `change_stream` or `polling`.
    """

    age_seconds: float | None
    mode: str


class Snapshot:
    """Routes by slug, replaced as a whole on each change.

    Implements `gateway.ports.RouteTable`, `servers.ports.ServerChanges`,
    `policies.ports.PolicyChanges` and `toolsets.ports.ServedToolsets`.

    Args:
        users_changed: Called when a user or a group changed.
        revocations_changed: Called when a token was revoked, or may have been.
        sessions_ended: Called with keys of client sessions that have ended in any replica.
        era_reprobe: Queues servers whose answers contradict their stored era.
        connections: Drops those to servers that changed, or are not served any more.
        servers_missing: Called with servers that changed and are not served; they may be deleted.
        freed: Called with the bytes of definitions that were read or released.
        servers_described: Called with servers that were reloaded and whose tools only the other
            application has described.
        tables: Small collections that are held in memory as a whole.
        quarantines: One of them: what is refused whatever else holds.
        via: Sent to every server in a header, which identifies requests that come back.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        feed: ChangeFeed,
        sources: SnapshotSources,
        vault: CredentialVault,
        *,
        clock: Clock,
        metrics: Metrics,
        settings: Settings,
        users_changed: Callable[[], None],
        revocations_changed: Callable[[], Awaitable[None]],
        sessions_ended: Callable[[Collection[str]], Awaitable[None]] | None = None,
        era_reprobe: EraReprobe | None = None,
        connections: ConnectionTracker | None = None,
        servers_missing: Callable[[Iterable[str]], None] = lambda _: None,
        freed: Callable[[int], None] = lambda _: None,
        servers_described: Callable[[Iterable[str]], None] = lambda _: None,
        tables: Iterable[FollowedTable] = (),
        quarantines: QuarantineTable | None = None,
        via: str | None = None,
    ) -> None:
        self._feed = feed
        self._tables = tuple(tables)
        self._quarantines = quarantines
        self._inventory = sources.inventory
        self._reader = RouteReader(
            sources,
            vault,
            idle_timeout_seconds=settings.gateway_idle_timeout_seconds,
            first_byte_timeout_seconds=settings.gateway_first_byte_timeout_seconds,
            max_definition_bytes=settings.server_max_definition_bytes,
            enforces_approvals=settings.approvals == "required",
            via=via,
        )
        self._admin_uses_private = settings.admin_uses_private
        self._presentations = Presentations()
        self._clock = clock
        self._users_changed = users_changed
        self._revocations_changed = revocations_changed
        self._sessions_ended = sessions_ended
        self._era_reprobe = era_reprobe
        self._connections = connections
        self._servers_missing = servers_missing
        self._freed = freed
        self._servers_described = servers_described
        self._routes: Mapping[str | None, Mapping[str, Route]] = {}
        self._catalogue = Catalogue({})
        self._policies: dict[str, Policy] = {}
        self._policing = RoutePolicies()
        self._views: dict[str, ServerView] = {}
        self._next_expiry: datetime | None = None
        self._user_headers = UserHeaders(
            sources.plugin_auths, sources.servers, vault, sources.tokens, clock
        )
        self._tokens = sources.tokens
        self._position: Position | None = None
        self._change = asyncio.Event()
        self._version = 0
        self._lock = asyncio.Lock()
        self._policies_unreadable = metrics.policies_unreadable
        self._full_reloads = metrics.snapshot_reloads.labels("full")
        self._server_reloads = metrics.snapshot_reloads.labels("server")
        metrics.snapshot_age.set_function(lambda: self._inventory.age_seconds)

    def route(self, slug: str, tenant_id: str | None = None) -> Route | None:
        """Return the route of `/mcp/<slug>` for callers of a tenant, or None."""
        routes = self._routes.get(tenant_id)
        return None if routes is None else routes.get(slug)

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue of the aggregate server."""
        return self._catalogue

    def routes(self) -> Mapping[str, Route]:
        """Return the routes without a tenant by slug, the oldest server first.

        The mapping is replaced on each change.
        """
        return self._routes.get(None, {})

    def is_fresh(self) -> bool:
        """Whether the view agreed with the database recently enough to be used."""
        return self._inventory.is_fresh()

    def status(self) -> SnapshotStatus:
        """Return the age of the view, and how it is updated."""
        age = self._inventory.age_seconds
        return SnapshotStatus(None if age == float("inf") else round(age, 3), self._feed.mode)

    def probe_eras(self, route: Route) -> None:
        """Queue an era re-probe: a server's answer contradicts its stored era. Cheap."""
        if self._era_reprobe is not None:
            self._era_reprobe.note(route.server_id)

    @property
    def version(self) -> int:
        """Return the version of the view; see `changed`."""
        return self._version

    async def changed(self, seen: int) -> int:
        """Wait until the version of the view is not *seen*, and return it.

        A version ends with each change that may change a decision about a caller or a server.
        """
        while self._version == seen:
            await self._change.wait()
        return self._version

    def _notify(self) -> None:
        self._version += 1
        self._change.set()
        self._change = asyncio.Event()

    async def user_headers(self, user: UserContext, route: Route) -> Credentials:
        """Return the upstream headers with the caller's own key or access token.

        Raises:
            ServerMovedError: The server's URL is no longer the route's.
            UserKeyMissingError: The caller has stored no key.
            AuthorizationRequiredError: The caller has not authorised the registry at the server.
            AuthorizationUnavailableError: The caller's access token cannot be renewed now.
            CredentialUnreadableError: It cannot be decrypted.
            DatabaseUnavailable: The key is not cached and cannot be read.
        """
        remembered = self._user_headers.cached(user, route)
        if remembered is not None:
            return remembered
        return await self._user_headers.read(user, route, self._record(route))

    async def renewed_headers(
        self, user: UserContext, route: Route, rejected: AccessToken
    ) -> Credentials:
        """Do the same with another access token than *rejected*, which the server refused."""
        return await self._user_headers.renewed(user, route, self._record(route), rejected)

    def _record(self, route: Route) -> ServerRecord | None:
        view = self._views.get(route.server_id)
        return None if view is None else view.record

    async def load(self) -> None:
        """Load everything; `follow` continues from there.

        Raises:
            DatabaseUnavailable: The view stays as it was.
        """
        # Before anything is read: changes that this load misses come after this position.
        position = await self._feed.now()
        await self._apply_callers(_all_of_callers())
        await self._load()
        self._position = position

    async def _load(self) -> None:
        async with self._lock:
            began_at = self._clock.monotonic()
            policies = await self._reader.policies()
            views: dict[str, ServerView] = {}
            for ids in slices(await self._reader.ids(), SERVERS_AT_ONCE):
                views |= await self._reader.read(ids, self._views, self._clock.now())
                # Lets calls continue.
                await self._clock.sleep(0)
            before, self._views = self._views, views
            self._inventory.replace_all(_listed(views))
            self._servers_described(_described(views))
            self._follow_connections(before, {*before, *views})
            await self._follow_policies(policies)
            self._publish()
            self._freed(_definition_bytes(before) + _definition_bytes(views))
            self._user_headers.clear()
            self._tokens.forget(_moved(before, views))
            self._full_reloads.inc()
            self._inventory.agrees(began_at)

    async def server_changed(self, server_id: str) -> None:
        """Reload one server; if the database is unavailable, leave that to `follow`."""
        # A user's key may have changed, and the old one must not be sent any more even if nothing
        # can be read now.
        self._user_headers.forget([server_id])
        self._tokens.forget([server_id])
        try:
            async with self._lock:
                await self._reload([server_id])
        except DatabaseUnavailable:
            log.warning("snapshot_reload_delayed", server_id=server_id)

    async def policy_changed(self, policy_id: str) -> None:
        """Reload one policy; if the database is unavailable, leave that to `follow`."""
        try:
            async with self._lock:
                await self._reload_policies({policy_id})
        except DatabaseUnavailable:
            log.warning("snapshot_reload_delayed", policy_id=policy_id)

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Reload a row of a table; if the database is unavailable, leave that to `follow`."""
        try:
            await self._apply_callers(ChangeBatch(tables={collection: {document_id}}))
        except DatabaseUnavailable:
            log.warning("snapshot_reload_delayed", collection=collection)

    def view(self, user: UserContext) -> CatalogueView:
        """Return *user*'s view of the catalogue."""
        return self._catalogue.view(user, admin_uses_private=self._admin_uses_private)

    def resolved(self, toolset: Toolset, user: UserContext) -> Resolution:
        """Return what a toolset serves to *user* now."""
        return resolution(self.view(user), toolset, self._presentations)

    async def follow(self) -> None:
        """Apply changes as they are committed, for ever. Survives database outages."""
        while True:
            try:
                await self._follow_feed()
            except* HistoryLost:
                log.warning("change_stream_history_lost")
                self._position = None
            except* DatabaseUnavailable as group:
                cause = group.exceptions[0].__cause__
                log.warning("change_stream_lost", error=type(cause).__name__)
            except* Exception:
                # All callers share this view: one bad document must not stop it from following.
                log.exception("snapshot_update_failed")
                self._position = None
            await self._clock.sleep(RETRY_SECONDS)

    async def _follow_feed(self) -> None:
        # Without a close, it would stay open on the server until garbage collection.
        async with aclosing(self._feed.changes(self._position)) as feed:
            opened = await anext(feed)
            if self._position is None:
                # The feed is open, so it delivers whatever this load misses.
                await self._apply_callers(_all_of_callers())
                await self._load()
                self._position = opened.position
            await self._follow_changes(feed)
        # It ended by itself: open it again.
        self._position = None

    async def _follow_changes(self, feed: AsyncIterator[FeedItem]) -> None:
        """Receive and apply concurrently: changes that arrive during a read need few bytes."""
        pending, pace = PendingChanges(), FeedPacer(self._clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apply_changes(pending))
            try:
                async for item in feed:
                    pending.add(item, self._clock.monotonic())
                    if item.change is not None:
                        await pace.keep()
            finally:
                # Closed as well as cancelled, because the driver can lose a cancellation.
                pending.finish()

    async def _apply_changes(self, pending: PendingChanges) -> None:
        took, applied_at = 0.0, -inf
        while not pending.is_over:
            if await pending.wait():
                # A server with thousands of changed tools causes a hundred events.
                idle = self._clock.monotonic() - applied_at
                await self._clock.sleep(_gathering(took, idle))
            taken = pending.take()
            began_at = self._clock.monotonic()
            await self._apply(taken, pending)
            if not taken.is_quiet:
                applied_at = self._clock.monotonic()
                took = applied_at - began_at
            await self._drop_expired_grants()
            if taken.position is not None:
                self._position = taken.position
            self._inventory.agrees(taken.received_at)

    async def _drop_expired_grants(self) -> None:
        # An entry that expires is no change of its document, so no stream reports it.
        if self._quarantines is not None and self._quarantines.expire():
            async with self._lock:
                await self._follow_quarantines()
        now = self._clock.now()
        if self._next_expiry is None or self._next_expiry > now:
            return
        async with self._lock:
            ended = [
                server_id
                for server_id, view in self._views.items()
                if (ends_at := _next_expiry(view)) is not None and ends_at <= now
            ]
            await self._reload(ended)

    async def _apply(self, taken: ChangeBatch, pending: PendingChanges) -> None:
        await self._apply_callers(taken)
        if taken.user_keys:
            self._user_headers.clear()
        if taken.is_too_much:
            await self._load()
            return
        # Held during the look-up of what deleted documents belonged to: a server that is being
        # reloaded may be made from one of them.
        async with self._lock:
            await self._reload_policies(taken.policies)
            servers = taken.servers | about_deleted(self._views, taken.deleted)
        if len(servers) > max(MANY, len(self._views) // MANY_OF):
            # Each batch of reloaded servers costs a new table of all routes.
            await self._load()
            return
        for ids in slices(sorted(servers), SERVERS_AT_ONCE):
            # Released after each batch, because a change of a server waits for it.
            async with self._lock:
                await self._reload(ids)
                callers = pending.take_callers()
                await self._apply_callers(callers, is_locked=True)
                await self._reload_policies(callers.policies)

    async def _apply_callers(self, taken: ChangeBatch, *, is_locked: bool = False) -> None:
        """Apply changes of who may call, before anything that may take longer."""
        if taken.tokens.are_unknown:
            self._tokens.clear()
        elif taken.tokens:
            self._tokens.changed(taken.tokens.user_ids, taken.tokens.row_ids)
        if taken.revocations:
            await self._revocations_changed()
        if taken.ended_sessions and self._sessions_ended is not None:
            await self._sessions_ended(taken.ended_sessions)
        if taken.users:
            self._users_changed()
        if taken.tables:
            await self._reload_tables(taken.tables)
            if self._quarantines is not None and self._quarantines.collection in taken.tables:
                if is_locked:
                    await self._follow_quarantines()
                else:
                    async with self._lock:
                        await self._follow_quarantines()
        if taken.revocations or taken.users or taken.tables:
            self._notify()

    async def _reload_tables(self, changed: Mapping[str, Collection[str] | None]) -> None:
        for table in self._tables:
            if table.collection in changed:
                ids = changed[table.collection]
                await table.reload(None if ids is None else frozenset(ids))

    async def _reload_policies(self, policy_ids: set[str]) -> None:
        """Reload a few policies. The caller holds the lock."""
        if not policy_ids:
            return
        found = await self._reader.some_policies(policy_ids)
        if len(found) < len(policy_ids) and any(not _is_id(one) for one in policy_ids):
            # The event names it by a text that is not its id, so it cannot be looked up.
            found = await self._reader.policies()
            kept: dict[str, Policy] = {}
        else:
            kept = {key: one for key, one in self._policies.items() if key not in policy_ids}
        await self._follow_policies(kept | found)
        self._publish()

    async def _follow_policies(self, policies: dict[str, Policy]) -> None:
        """Use *policies* from the next version on. The caller holds the lock."""
        before = self._policies
        # An unchanged policy stays the same object, which makes the comparison cheap.
        self._policies = {
            key: before[key] if before.get(key) == policy else policy
            for key, policy in policies.items()
        }
        self._policies_unreadable.set(
            sum(1 for policy in self._policies.values() if policy.problem is not None)
        )
        routes = [view.route for view in self._views.values() if view.route is not None]

        async def rest() -> None:
            await self._clock.sleep(0)

        denied = () if self._quarantines is None else self._quarantines.policies()
        await self._policing.replace([*self._policies.values(), *denied], routes, rest)

    async def _follow_quarantines(self) -> None:
        """Deny what is in quarantine now. The caller holds the lock."""
        await self._follow_policies(self._policies)
        self._publish()

    async def _reload(self, server_ids: list[str]) -> None:
        """Reload a few servers. The caller holds the lock."""
        views = await self._reader.read(server_ids, self._views, self._clock.now())
        before = {
            server_id: self._views.pop(server_id)
            for server_id in server_ids
            if server_id in self._views
        }
        self._views |= views
        self._inventory.replace(server_ids, _listed(views))
        self._servers_described(_described(views))
        self._follow_connections(before, server_ids)
        missing = [server_id for server_id in server_ids if server_id not in views]
        if missing:
            self._servers_missing(missing)
        self._publish()
        self._freed(_definition_bytes(before) + _definition_bytes(views))
        self._user_headers.forget(server_ids)
        self._tokens.forget(_moved(before, views))
        self._server_reloads.inc(len(server_ids))

    def _follow_connections(
        self, before: Mapping[str, ServerView], server_ids: Iterable[str]
    ) -> None:
        if self._connections is None:
            return
        served = {
            server_id: view.route
            for server_id in server_ids
            if (view := self._views.get(server_id)) is not None and view.route is not None
        }
        gone = [
            server_id
            for server_id, view in before.items()
            if view.route is not None and server_id not in served
        ]
        if gone:
            self._connections.forget(gone)
        self._connections.outdate(
            {server_id: route.modified_at for server_id, route in served.items()}
        )

    def _publish(self) -> None:
        """Replace the table in one step; the oldest server of a tenant keeps a contested slug."""
        routes: dict[str | None, dict[str, Route]] = {}
        views = [self._views[server_id] for server_id in sorted(self._views)]
        bare = [view.route for view in views if view.route is not None]
        for route in self._policing.applied(bare):
            routes.setdefault(route.facts.tenant_id, {}).setdefault(route.slug, route)
        self._routes = routes
        quarantines = self._quarantines
        known = [route for by_slug in routes.values() for route in by_slug.values()]
        quarantined = (
            []
            if quarantines is None or quarantines.is_empty
            else [one for one in known if quarantines.of_server(one.server_id) is not None]
        )
        gone = {route.server_id for route in quarantined}
        served = {route.server_id: route for route in known if route.server_id not in gone}
        self._catalogue = Catalogue(served, self._catalogue, quarantined)
        ends = (ends_at for view in views if (ends_at := _next_expiry(view)) is not None)
        self._next_expiry = min(ends, default=None)
        self._notify()


def _listed(views: Mapping[str, ServerView]) -> dict[str, ListedServer]:
    return {server_id: view.listed for server_id, view in views.items()}


def _definition_bytes(views: Mapping[str, ServerView]) -> int:
    return sum(view.definition_bytes for view in views.values())


def _described(views: Mapping[str, ServerView]) -> list[str]:
    return [server_id for server_id, view in views.items() if view.listed.described is not None]


def _moved(before: Mapping[str, ServerView], after: Mapping[str, ServerView]) -> list[str]:
    """Return the servers whose tokens may be for another place now."""
    moved = []
    for server_id, view in before.items():
        former = None if view.route is None else view.route.oauth
        if former is None:
            continue
        now = after.get(server_id)
        route = None if now is None else now.route
        current = None if route is None else route.oauth
        if current is None or not current.takes_tokens_of(former):
            moved.append(server_id)
    return moved


def _next_expiry(view: ServerView) -> datetime | None:
    return view.listed.facts.grants.next_expiry


def _all_of_callers() -> ChangeBatch:
    return ChangeBatch(
        revocations=True,
        ended_sessions={""},
        users=True,
        tokens=TokenChanges(are_unknown=True),
        tables=dict.fromkeys(TABLE_NAMES),
    )


def _is_id(text: str) -> bool:
    return len(text) == ID_CHARACTERS and not set(text) - HEXADECIMAL


def _gathering(took: float, idle: float) -> float:
    """Return the seconds to wait for more changes.

    Args:
        took: How long the last changes took to apply.
        idle: How long ago that was; a change long after them is no part of a burst.
    """
    soon = min(GATHER_FACTOR * took, GATHER_SOON_SECONDS)
    return max(GATHER_SECONDS, max(soon, min(took, MAX_GATHER_SECONDS)) - idle)
