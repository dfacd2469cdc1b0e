"""Connection state as callers may see it.

Every process knows its own connections. Workers of one port ask each other; replicas do not: each
returns only what it knows itself (docs/decisions/0015-connection-state.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import structlog

from packages.database.errors import DatabaseUnavailable
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
from registry.oauth.ports import AuthorizationStates
from registry.oauth.values import AuthorizationState

log = structlog.get_logger()


class ConnectionService:
    """Returns connection states. Writes nothing.

    Args:
        tracker: The connections of this process.
        directory: Reads the servers that callers may see.
        others: The other workers; None if there are none.
        authorizations: Reads users' authorizations; None if there are none.
        clock: Measures how long a connection was unused.
        idle_seconds: How long a connection may be unused and still count.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        directory: ServerDirectory,
        others: OtherWorkers | None,
        *,
        authorizations: AuthorizationStates | None = None,
        clock: Clock,
        idle_seconds: float,
    ) -> None:
        self._authorizations = authorizations
        self._tracker = tracker
        self._directory = directory
        self._others = others
        self._clock = clock
        self._idle = timedelta(seconds=idle_seconds)

    async def of_all(self, user: UserContext) -> list[tuple[VisibleServer, ConnectionView]]:
        """Return the state of the connections of *user* to all servers that they may see.

        Raises:
            DatabaseUnavailable: The servers cannot be read.
        """
        servers = await self._directory.visible(user)
        views = await self.views(user, servers)
        return [(server, views[server.id]) for server in servers]

    async def of_one(
        self, server_id: str, user: UserContext
    ) -> tuple[VisibleServer, ConnectionView]:
        """Return the state of the connection of *user* to one server.

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
        """Return the state of the connections of *user* to *servers*, by server.

        The database is read for servers with OAuth only. The caller has checked that *user* may
        see them. For servers to which users connect with credentials of their own, only the
        connections of *user* are used.
        """
        own = frozenset(server.id for server in servers if server.is_user_level)
        shared = [server.id for server in servers if server.id not in own]
        authorizations = await self._authorizations_of(user, servers)
        stored = {server_id: each.identity for server_id, each in authorizations.items()}
        known = self._known(user.user_id, shared, own, stored)
        found = {server_id: [each] for server_id, each in known}
        if self._others is not None and servers:
            question = orjson.dumps(
                {"user": user.user_id, "shared": shared, "own": sorted(own), "stored": stored}
            )
            for reply in await self._others.connections(question):
                for server_id, each in _unpacked(reply).items():
                    found.setdefault(server_id, []).append(each)
        now = self._clock.now()
        return {
            server.id: view_of(
                server,
                merged(found.get(server.id, ())),
                now,
                self._idle,
                authorizations.get(server.id),
            )
            for server in servers
        }

    async def _authorizations_of(
        self, user: UserContext, servers: Iterable[VisibleServer]
    ) -> Mapping[str, AuthorizationState]:
        asked = [server.oauth for server in servers if server.oauth is not None]
        if not asked or self._authorizations is None:
            return {}
        try:
            return await self._authorizations.states(user, asked)
        except DatabaseUnavailable:
            # What is known of connections is still worth showing.
            return {}

    def now(self) -> datetime:
        """Return the current time, for comparing with the times of connections."""
        return self._clock.now()

    async def reply(self, question: bytes) -> bytes:
        """Answer another worker's question with the connections of this one."""
        asked = orjson.loads(question)
        known = self._known(asked["user"], asked["shared"], asked["own"], asked.get("stored", {}))
        return orjson.dumps({server_id: _packed(each) for server_id, each in known})

    def _known(
        self,
        user_id: str,
        shared: Iterable[str],
        own: Iterable[str],
        stored: Mapping[str, str | None],
    ) -> Iterable[tuple[str, Connection]]:
        for server_id in shared:
            each = self._tracker.of_server(server_id)
            yield from self._found(user_id, server_id, each, stored)
        for server_id in own:
            each = self._tracker.of_user(server_id, user_id)
            yield from self._found(user_id, server_id, each, stored)

    def _found(
        self,
        user_id: str,
        server_id: str,
        connection: Connection | None,
        stored: Mapping[str, str | None],
    ) -> Iterable[tuple[str, Connection]]:
        """Yield the later of a connection and of a failure to obtain a token for it.

        Args:
            user_id: Whose.
            server_id: Of which server.
            connection: The one that is known.
            stored: What identifies stored authorizations, by server, where that is known.
        """
        authorizations = self._authorizations
        problem = None if authorizations is None else authorizations.problem(user_id, server_id)
        if problem is not None and stored.get(server_id, problem.authorization) == (
            problem.authorization
        ):
            failed = Connection(
                ConnectionState.ERROR, problem.version, problem.at, problem=problem.message
            )
            connection = failed if connection is None else merged([connection, failed])
            if connection is not None and connection.state is ConnectionState.ERROR:
                connection = replace(connection, lacks_token=True)
        if connection is not None:
            yield server_id, connection


def _packed(connection: Connection) -> JsonObject:
    return {
        "state": connection.state.value,
        "version": _text(connection.version),
        "at": _text(connection.at),
        "problem": connection.problem,
        "reconnecting": connection.is_reconnecting,
        "lacksToken": connection.lacks_token,
    }


def _unpacked(reply: bytes) -> Mapping[str, Connection]:
    return {
        server_id: Connection(
            ConnectionState(fields["state"]),
            _moment(fields["version"]),
            _moment(fields["at"]) or datetime.min.replace(tzinfo=UTC),
            problem=fields["problem"],
            # A worker of the release before does not send them.
            is_reconnecting=fields.get("reconnecting") is True,
            lacks_token=fields.get("lacksToken") is True,
        )
        for server_id, fields in orjson.loads(reply).items()
    }


def _text(moment: Version) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> Version:
    return None if text is None else datetime.fromisoformat(text)
