"""What is asked again and again must not have the database look at every document.

A compatible server uses no index for a query that has an operator beside its fields, whatever else
the query says. The embedded database was kept busy by what each process asks every second.
"""

from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from typing_extensions import override

from packages.database.client import Database
from packages.models.states import Trigger
from registry.access.repository import AclRepository
from registry.core.clock import SystemClock
from registry.servers.storage.repository import ServerRepository
from registry.sync.repository import JobRepository
from registry.sync.values import SyncRequest
from registry.tokens.families import FamilyRepository

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

OWNER = "6" * 24


class Queries(CommandListener):
    """Keeps the queries of all commands, by what they are about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    @override
    def started(self, event: CommandStartedEvent) -> None:
        command = event.command
        about = str(command.get(event.command_name))
        parts = command.get("updates") or command.get("deletes")
        found = [part["q"] for part in parts] if parts else [command.get("filter")]
        found += [command.get("query")]
        self.asked += [(about, dict(one)) for one in found if one]

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        pass


async def test_what_recurs_can_be_answered_by_an_index(database_uri: str) -> None:
    queries, clock = Queries(), SystemClock()
    database = Database(database_uri, timeout_ms=5000, listeners=[queries])
    try:
        await recur(database, clock)
    finally:
        await database.close()

    about = {name for name, _ in queries.asked}
    assert about >= {"sync_jobs", "aclentries", "mcpservers", "token_families"}
    assert [
        (name, query)
        for name, query in queries.asked
        if any(field.startswith("$") for field in query)
    ] == []


async def recur(database: Database, clock: SystemClock) -> None:
    """Do once what a registry does again and again."""
    now = clock.now()
    jobs = JobRepository(database, retention=timedelta(days=1), clock=clock)
    acl = AclRepository(database)

    job, _ = await jobs.open(OWNER, "sums", SyncRequest(Trigger.MANUAL), now)
    (claimed,) = await jobs.claim(1, "worker", 30)
    await jobs.claim(1, "worker", 30, asked_for=True)
    assert await jobs.renew(claimed, 30)
    await acl.grants_of([OWNER], now)
    server = {"_id": ObjectId(OWNER), "serverName": "sums", "status": "active"}
    await database.collection("mcpservers").insert_one(server)
    await ServerRepository(database).due_for_sync(now, 10)
    assert await ServerRepository(database).note_connected(OWNER, now, quiet_since=now)
    await FamilyRepository(database).find_by_token("some")
    assert claimed.id == job.id
