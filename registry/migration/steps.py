"""The steps of a migration. Each says what it has to do, and does it in batches.

What is one document is written by itself. A batch that takes more is one transaction, and few do:
of a process that is killed inside one, the database keeps the documents locked for a minute.

A step asks again when it writes, so that several processes may run at once: what another
one did, or a user changed meanwhile, is left alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from packages.database.client import Transaction
from packages.database.slices import slices
from registry.migration.values import Left, Meant, StepPlan, Written
from registry.servers.lookup import ServerLookup
from registry.servers.store import ServerRepositories
from registry.servers.transport import connection_members
from registry.servers.values import READ_HERE, ServerRecord, names_in
from registry.servers.versions import ServerVersionRepository
from registry.tools.lifecycle import EXPOSED
from registry.tools.projection import restore
from registry.tools.reconcile import Changes, ToolInsert
from registry.tools.repository import RowCheck, ToolRepository
from registry.tools.values import RejectedTool, ToolSnapshot

SERVERS = "mcpservers"
TOOLS = "mcp_tools"
SERVERS_AT_ONCE = 200


class Step(Protocol):
    """One thing that a migration does."""

    name: str
    collection: str
    """What its ids are of."""
    batch: int
    """How many documents are written in one transaction."""

    async def plan(self, *, every: bool) -> StepPlan:
        """Say what there is to do. Writes nothing.

        Args:
            every: Look at everything; otherwise at what indexes tell.

        Raises:
            DatabaseUnavailable: It is away.
        """

    async def write_singly(self, ids: Sequence[str], now: datetime) -> Written:
        """Bring documents up to date that can be written by themselves."""

    async def write(self, ids: Sequence[str], now: datetime, tx: Transaction) -> Written:
        """Bring documents up to date in a transaction, as far as they still are not."""


class RestoreTools:
    """Gives servers that we have read their rows back, from what jarvis-api reads of their tools.

    Servers that jarvis-api alone has read are left as they are: their tools are served from that
    projection, which it keeps, and a copy of ours would go out of date unnoticed.
    """

    name = "tools_restored"
    collection = SERVERS
    batch = 1

    def __init__(self, repositories: ServerRepositories) -> None:
        self._servers = repositories.servers
        self._lookup = repositories.lookup
        self._tools = repositories.tools
        self._versions = repositories.versions

    async def plan(self, *, every: bool) -> StepPlan:
        """Say which servers have lost their rows.

        What an earlier release wrote has no version either, which tells where to look.
        """
        ids = await self._lookup.ids_unchecked()
        if not every:
            ids = await unversioned(self._lookup, self._versions)
        wanted: dict[str, str] = {}
        meant: dict[str, Meant] = {}
        left: list[Left] = []
        for server in await _read(self._lookup, ids):
            if not _was_read(server) or await self._tools.has_rows(server.id):
                continue
            found = await self._snapshot(server)
            if found.tools:
                wanted[server.id] = server.server_name
                meant[server.id] = Meant(server.id, len(found.tools))
            left += _rejected(server, found.rejected)
        return StepPlan(self.name, wanted, meant, tuple(left))

    async def write_singly(self, ids: Sequence[str], now: datetime) -> Written:  # noqa: ARG002 - as the protocol has it
        """Leave all of it to transactions."""
        return Written(rest=tuple(ids))

    async def write(self, ids: Sequence[str], now: datetime, tx: Transaction) -> Written:
        """Write rows as registration would have."""
        done: list[str] = []
        left: list[Left] = []
        for server_id in ids:
            if await self._tools.has_rows(server_id, tx):
                continue
            server = await self._servers.touch(server_id, tx)
            if server is None or not _was_read(server):
                continue
            found = await self._snapshot(server, tx)
            left += _rejected(server, found.rejected)
            if found.tools:
                inserts = tuple(
                    ToolInsert(tool, *EXPOSED, position)
                    for position, tool in enumerate(found.tools)
                )
                await self._tools.apply(server_id, Changes(inserts, (), ()), now, tx)
                done.append(server_id)
        return Written(tuple(done), tuple(left))

    async def _snapshot(self, server: ServerRecord, tx: Transaction | None = None) -> ToolSnapshot:
        functions = await self._lookup.tool_functions(server.id, tx)
        return restore(functions, server.server_name)


class CompleteTools:
    """Gives rows of tools what rows have today."""

    name = "tools_completed"
    collection = TOOLS
    batch = 100

    def __init__(self, tools: ToolRepository) -> None:
        self._tools = tools

    async def plan(self, *, every: bool) -> StepPlan:
        """Say which rows lack something."""
        wanted: dict[str, str] = {}
        meant: dict[str, Meant] = {}
        left: dict[str, Left] = {}
        async for check in self._tools.incomplete(every=every):
            if check.lacks:
                wanted[check.id] = check.name
                meant[check.id] = Meant(check.owner_id, 1)
            if check.left is not None:
                left[check.id] = _left_row(check, check.left)
        return StepPlan(self.name, wanted, meant, tuple(left.values()))

    async def write_singly(self, ids: Sequence[str], now: datetime) -> Written:
        """Complete the rows that lack no versions."""
        checks, rest = await self._tools.complete_alone(ids, now)
        found = _written(checks)
        done = tuple(each for each in found.done if each not in rest)
        return Written(done, found.left, tuple(rest))

    async def write(self, ids: Sequence[str], now: datetime, tx: Transaction) -> Written:
        """Complete rows."""
        return _written(await self._tools.complete(ids, now, tx))


class FirstVersions:
    """Keeps how servers are reached that nobody changed since versions are kept."""

    name = "first_versions"
    collection = SERVERS
    batch = 20

    def __init__(self, repositories: ServerRepositories) -> None:
        self._servers = repositories.servers
        self._lookup = repositories.lookup
        self._versions = repositories.versions

    async def plan(self, *, every: bool) -> StepPlan:  # noqa: ARG002 - one way serves both
        """Say which servers have no version."""
        wanted: dict[str, str] = {}
        left: list[Left] = []
        for server in await _read(self._lookup, await unversioned(self._lookup, self._versions)):
            problem = self._problem(server)
            if problem is None:
                wanted[server.id] = server.server_name
            else:
                left.append(_left_server(server, problem))
        meant = {server_id: Meant(server_id, 0) for server_id in wanted}
        return StepPlan(self.name, wanted, meant, tuple(left))

    async def write_singly(self, ids: Sequence[str], now: datetime) -> Written:  # noqa: ARG002 - as the protocol has it
        """Leave all of it to transactions."""
        return Written(rest=tuple(ids))

    async def write(self, ids: Sequence[str], now: datetime, tx: Transaction) -> Written:
        """Make version 1 of what is there."""
        done: list[str] = []
        left: list[Left] = []
        for server_id in ids:
            if await self._versions.exists_of(server_id, tx):
                continue
            # So that nobody removes it or changes it at the same time.
            server = await self._servers.touch(server_id, tx)
            if server is None:
                continue
            problem = self._problem(server)
            if problem is not None:
                left.append(_left_server(server, problem))
                continue
            await self._versions.record_found(server_id, server.config, now, tx)
            done.append(server_id)
        return Written(tuple(done), tuple(left))

    def _problem(self, server: ServerRecord) -> str | None:
        if not connection_members(server.config):
            return "does not say how it is reached"
        unreadable = self._versions.taken(server.id, server.config).unreadable
        if unreadable:
            # With the right key a later run keeps them; without them it would be of little use.
            return f"{', '.join(unreadable)} cannot be decrypted"
        return None


async def unversioned(lookup: ServerLookup, versions: ServerVersionRepository) -> list[str]:
    """Return the ids of the servers that have no version."""
    versioned = await versions.server_ids()
    return [each for each in await lookup.ids_unchecked() if each not in versioned]


async def _read(lookup: ServerLookup, ids: Sequence[str]) -> list[ServerRecord]:
    found: list[ServerRecord] = []
    for some in slices(ids, SERVERS_AT_ONCE):
        found += await lookup.by_ids_unchecked(some)
    return sorted(found, key=lambda server: server.id)


def _was_read(server: ServerRecord) -> bool:
    return READ_HERE in server.registry and bool(names_in(server.config.get("tools")))


def _rejected(server: ServerRecord, rejected: Sequence[RejectedTool]) -> list[Left]:
    return [_left_server(server, f"its tool {tool.name} {tool.reason}") for tool in rejected]


def _written(checks: Sequence[RowCheck]) -> Written:
    return Written(
        tuple(check.id for check in checks if check.lacks),
        tuple(_left_row(check, check.left) for check in checks if check.left is not None),
    )


def _left_server(server: ServerRecord, reason: str) -> Left:
    return Left(f"{SERVERS}/{server.id}", server.server_name, reason)


def _left_row(check: RowCheck, reason: str) -> Left:
    return Left(f"{TOOLS}/{check.id}", check.name, reason)
