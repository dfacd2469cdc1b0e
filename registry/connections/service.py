"""How connections stand, for those who may see the servers.

Every process knows its own connections. Workers of one port ask each other; replicas do not: each
tells what it knows itself (docs/decisions/0015-connection-state.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import orjson
import structlog

from registry.auth.identity import UserContext
from registry.connections.policy import merged, view_of
from registry.connections.ports import OtherWorkers, ServerDirectory
from registry.connections.tracker import ConnectionTracker
from registry.connections.values import (
    Connection,
    ConnectionState,
    ConnectionView,
    Version,
    VisibleServer,
)
from registry.core.clock import Clock
from registry.core.json import JsonObject

log = structlog.get_logger()


class ConnectionService:
    """Answers how connections stand. Writes nothing.

    Args:
        tracker: What this process knows.
        directory: Which servers callers may see.
        others: The other workers; None when there are none.
        clock: Says how long a connection was not used.
        idle_seconds: How long it need not be, to count still.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        directory: ServerDirectory,
        others: OtherWorkers | None,
        *,
        clock: Clock,
        idle_seconds: float,
    ) -> None:
        self._tracker = tracker
        self._directory = directory
        self._others = others
        self._clock = clock
        self._idle = timedelta(seconds=idle_seconds)

    async def of_all(self, user: UserContext) -> list[tuple[VisibleServer, ConnectionView]]:
        """Return how the connections of *user* to all servers that they may see stand.

        Raises:
            DatabaseUnavailable: The servers cannot be read.
        """
        servers = await self._directory.visible(user)
        views = await self.views(user, servers)
        return [(server, views[server.id]) for server in servers]

    async def of_one(
        self, server_id: str, user: UserContext
    ) -> tuple[VisibleServer, ConnectionView]:
        """Return how the connection of *user* to one server stands.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            DatabaseUnavailable: It cannot be read.
        """
        server = await self._directory.one(server_id, user)
        views = await self.views(user, [server])
        return server, views[server.id]

    async def views(
        self, user: UserContext, servers: Sequence[VisibleServer]
    ) -> dict[str, ConnectionView]:
        """Return how the connections of *user* to *servers* stand, by server. No database.

        The caller has checked that they may see them. What users connect to with credentials of
        their own is answered from the connections of *user* alone.
        """
        own = frozenset(server.id for server in servers if server.is_user_level)
        shared = [server.id for server in servers if server.id not in own]
        found = {server_id: [each] for server_id, each in self._known(user.user_id, shared, own)}
        if self._others is not None and servers:
            question = orjson.dumps({"user": user.user_id, "shared": shared, "own": sorted(own)})
            for reply in await self._others.connections(question):
                for server_id, each in _unpacked(reply).items():
                    found.setdefault(server_id, []).append(each)
        now = self._clock.now()
        return {
            server.id: view_of(server, merged(found.get(server.id, ())), now, self._idle)
            for server in servers
        }

    def now(self) -> datetime:
        """Return the time that connections are looked at in."""
        return self._clock.now()

    async def told(self, question: bytes) -> bytes:
        """Reply to another worker what this one knows."""
        asked = orjson.loads(question)
        known = self._known(asked["user"], asked["shared"], asked["own"])
        return orjson.dumps({server_id: _packed(each) for server_id, each in known})

    def _known(
        self, user_id: str, shared: Iterable[str], own: Iterable[str]
    ) -> Iterable[tuple[str, Connection]]:
        for server_id in shared:
            found = self._tracker.of_server(server_id)
            if found is not None:
                yield server_id, found
        for server_id in own:
            found = self._tracker.of_user(server_id, user_id)
            if found is not None:
                yield server_id, found


def _packed(connection: Connection) -> JsonObject:
    return {
        "state": connection.state.value,
        "version": _text(connection.version),
        "at": _text(connection.at),
        "problem": connection.problem,
    }


def _unpacked(reply: bytes) -> Mapping[str, Connection]:
    return {
        server_id: Connection(
            ConnectionState(told["state"]),
            _moment(told["version"]),
            _moment(told["at"]) or datetime.min.replace(tzinfo=UTC),
            problem=told["problem"],
        )
        for server_id, told in orjson.loads(reply).items()
    }


def _text(moment: Version) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> Version:
    return None if text is None else datetime.fromisoformat(text)
