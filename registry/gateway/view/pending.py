"""Changes that the view was notified of and has not applied yet.

Events are kept as the ids of the servers that they affect, so this stays as small as the number
of servers, however many documents change and however long applying takes. Pure but for the wait.
"""

import asyncio
from dataclasses import dataclass, field

from packages.database.changes import ChangeEvent, FeedItem, Position, Watched, row_id

USERS = frozenset({"users", "groups"})
REVOKED = "revoked_tokens"
ENDED_SESSIONS = "ended_sessions"
USER_KEYS = "pluginauths"
TOKENS = "tokens"
SERVERS = "mcpservers"
APIS = "raw_apis"
POLICIES = "access_policies"

IGNORED = frozenset(
    {
        "lastConnected",
        "lastError",
        "errorMessage",
        "config.initDuration",
        "registry.consecutive_failures",
        "registry.last_sync_completed_at",
        "registry.last_sync_started_at",
        "registry.last_sync_status",
        "registry.last_synced_at",
        "registry.next_sync_at",
    }
)
"""Fields of a server that calls and unchanged discoveries write. If changes of them counted, each
would reload its server with all its tools in every process."""

LEASES = frozenset({"registry.lease", "registry.lease.holder"})
"""Fields of a refresh token that are written while it is exchanged."""

PROGRESS = frozenset({"alive_at", "notice_at", "notices", "notices.0.attempts"})
"""What says how the work on a request for approval goes on, and changes nothing of the request."""

LINK_WRITES = frozenset({"link_writes"})
"""What each server that is linked to one of the catalog writes there."""

TABLES: tuple[Watched, ...] = (
    Watched("quarantines", stamp="updated_at"),
    Watched("limits", stamp="updated_at"),
    Watched("approvals", stamp="updated_at", ignored=PROGRESS),
    Watched("toolsets", stamp="updated_at", is_counted=True),
    Watched("budgets", stamp="updated_at", is_counted=True),
    Watched("mcpservers_registry", stamp="updated_at", is_counted=True, ignored=LINK_WRITES),
)
"""Small collections that are held in memory as a whole, by the tables of `view.tables`."""

TABLE_NAMES = frozenset(table.collection for table in TABLES)

WATCHED = (
    *TABLES,
    Watched(SERVERS, is_counted=True, ignored=IGNORED),
    Watched(APIS, is_counted=True, ignored=IGNORED),
    Watched("mcp_tools", "owner_id", "updated_at", is_counted=True),
    Watched("mcp_features", "owner_id", "last_synced_at", is_counted=True),
    Watched("aclentries", "resourceId", is_counted=True),
    Watched(POLICIES, stamp="updated_at", is_counted=True),
    Watched(USER_KEYS),
    Watched(TOKENS, "userId", "createdAt", ignored=LEASES),
    Watched(REVOKED, stamp="revoked_at"),
    Watched(ENDED_SESSIONS, stamp="ended_at"),
    *(Watched(name) for name in sorted(USERS)),
)
"""The collections that the gateway's view depends on."""

MAX_DELETED = 20_000
"""Maximum number of remembered ids of deleted documents; with more, everything is reloaded."""

MAX_TOKENS_AT_ONCE = 10_000
"""Maximum number of remembered users whose tokens were written, and of tokens that were deleted;
with more, all users' tokens are read again."""

MAX_ROWS_AT_ONCE = 1_000
"""Maximum number of remembered documents of a table; with more, all of it is reloaded."""

MAX_ENDED_AT_ONCE = 1_000
"""Maximum number of remembered ended sessions; with more, the latest are read again."""


@dataclass(slots=True)
class TokenChanges:
    """Changes of users' stored tokens.

    Attributes:
        user_ids: Users whose tokens were written.
        row_ids: Tokens that were deleted; the event does not say whose they were.
        are_unknown: Whether any may have changed.
    """

    user_ids: set[str] = field(default_factory=set)
    row_ids: set[str] = field(default_factory=set)
    are_unknown: bool = False

    def __bool__(self) -> bool:
        return bool(self.user_ids or self.row_ids or self.are_unknown)

    def note(self, change: ChangeEvent) -> None:
        """Record a change."""
        if change.link is not None:
            self.user_ids.add(change.link)
        elif change.document_id:
            self.row_ids.add(change.document_id)
        else:
            self.are_unknown = True
        if max(len(self.user_ids), len(self.row_ids)) > MAX_TOKENS_AT_ONCE:
            self.user_ids, self.row_ids, self.are_unknown = set(), set(), True


@dataclass(slots=True)
class ChangeBatch:
    """The work that makes the view agree with the database.

    Attributes:
        servers: Ids of servers to reload.
        deleted: Ids of deleted documents that belonged to a server; see `row_id`.
        policies: Ids of policies to reload.
        revocations: Whether tokens were revoked.
        ended_sessions: Keys of client sessions that have ended; an empty key stands for
            unknown ones.
        users: Whether users or groups changed.
        user_keys: Whether users' own keys changed.
        tokens: Users' stored tokens that changed.
        tables: Documents of small collections that changed, by collection; None for all.
        is_too_much: Whether to reload everything.
        position: Where the feed resumes after this work; None if it reported no position.
        received_at: When the last of it was received; monotonic seconds.
    """

    servers: set[str] = field(default_factory=set)
    deleted: set[bytes] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)
    revocations: bool = False
    ended_sessions: set[str] = field(default_factory=set)
    users: bool = False
    user_keys: bool = False
    tokens: TokenChanges = field(default_factory=TokenChanges)
    tables: dict[str, set[str] | None] = field(default_factory=dict)
    is_too_much: bool = False
    position: Position | None = None
    received_at: float = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing changed."""
        return not (
            self.servers
            or self.deleted
            or self.policies
            or self.revocations
            or self.ended_sessions
            or self.users
            or self.user_keys
            or self.tokens
            or self.tables
            or self.is_too_much
        )


class PendingChanges:
    """Collects changes until `take` is called."""

    def __init__(self) -> None:
        self._next = ChangeBatch()
        self._arrived = asyncio.Event()
        self.is_over = False

    def add(self, item: FeedItem, now: float) -> None:
        """Record a change or a sign of life, received at the monotonic time *now*."""
        pending = self._next
        if item.position is not None:
            pending.position = item.position
        pending.received_at = now
        if item.change is not None:
            note = _note_row if item.change.collection in TABLE_NAMES else _note
            note(pending, item.change)
        self._arrived.set()

    def finish(self) -> None:
        """Signal that no more changes will come."""
        self.is_over = True
        self._arrived.set()

    async def wait(self) -> bool:
        """Wait for the next event; return whether it was a change."""
        await self._arrived.wait()
        self._arrived.clear()
        return not self._next.is_quiet

    def take(self) -> ChangeBatch:
        """Return the changes since the last call."""
        taken, self._next = self._next, ChangeBatch(received_at=self._next.received_at)
        return taken

    def take_callers(self) -> ChangeBatch:
        """Return only the changes of who may call; keep the rest."""
        pending = self._next
        taken = ChangeBatch(
            policies=pending.policies,
            revocations=pending.revocations,
            ended_sessions=pending.ended_sessions,
            users=pending.users,
            tokens=pending.tokens,
            tables=pending.tables,
        )
        pending.policies, pending.ended_sessions = set(), set()
        pending.revocations = pending.users = False
        pending.tokens = TokenChanges()
        pending.tables = {}
        return taken


def _note_row(pending: ChangeBatch, change: ChangeEvent) -> None:
    ids = pending.tables.setdefault(change.collection, set())
    if ids is None:
        return
    ids.add(change.document_id)
    if len(ids) > MAX_ROWS_AT_ONCE or not change.document_id:
        pending.tables[change.collection] = None


def _note(pending: ChangeBatch, change: ChangeEvent) -> None:
    match change.collection:
        case "mcpservers" | "raw_apis":
            pending.servers.add(change.document_id)
        case "access_policies":
            pending.policies.add(change.document_id)
        case "revoked_tokens":
            pending.revocations = True
        case "ended_sessions":
            is_room = len(pending.ended_sessions) < MAX_ENDED_AT_ONCE
            pending.ended_sessions.add(change.document_id if is_room else "")
        case "pluginauths":
            pending.user_keys = True
        case "tokens":
            pending.tokens.note(change)
        case "users" | "groups":
            pending.users = True
        case _ if change.link is not None:
            pending.servers.add(change.link)
        case _ if len(pending.deleted) < MAX_DELETED:
            pending.deleted.add(row_id(change.document_id))
        case _:
            pending.is_too_much = True
