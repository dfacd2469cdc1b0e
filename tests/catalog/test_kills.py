"""Imports and changes of links are killed at each of their writes, and end as if they were not."""

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.auth.identity import SYNCHRONISER
from registry.catalog.fetching import RegistryFetcher
from registry.catalog.importing import ImportRunner, packed
from registry.catalog.jobs import CatalogJobs
from registry.catalog.repository import CatalogRepository
from registry.catalog.worker import LinkFollower
from registry.core.clock import SystemClock
from registry.servers.storage.repository import ServerRepository
from registry.upstream.guard import UrlGuard

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVERS = 104
"""More than one transaction takes."""

KNOWN, CHANGED = 5, 3
"""How many of the last of them are there already, and have a newer version."""

EXPIRED = 0.0
"""Seconds of a lease that the next attempt need not wait for."""

COLLECTIONS = ("mcpservers_registry", "tools_registry", "catalog_versions")


class DeathError(Exception):
    """The process ends here."""


class Dying:
    """Passes everything on; the nth write of all that share *left* is the process's last."""

    def __init__(
        self, inner: Any, writes: Collection[str], left: list[int], *, is_written: bool
    ) -> None:
        self._inner, self._writes = inner, writes
        self._left, self._is_written = left, is_written

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._writes:
            return method

        async def write(*arguments: Any, **more: Any) -> Any:
            self._left[0] -= 1
            # A write may have others within it: a transaction has.
            is_last = self._left[0] == 0
            if is_last and not self._is_written:
                raise DeathError
            result = await method(*arguments, **more)
            if is_last:
                raise DeathError
            return result

        return write


class Installation:
    """What imports and links need, on one database."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, SystemClock()
        self.catalog = CatalogRepository(database)
        self.servers = ServerRepository(database)
        self.jobs = CatalogJobs(database, retention=timedelta(days=1), clock=self.clock)

    def runner(self, left: list[int], *, is_written: bool) -> ImportRunner:
        """Return an importer whose process ends at the nth write."""

        def dying(inner: Any, *writes: str) -> Any:
            return Dying(inner, writes, left, is_written=is_written)

        fetcher = RegistryFetcher(UrlGuard(()), connect_timeout_seconds=1, total_timeout_seconds=1)
        inside = ("insert_all", "update", "put_former_versions", "require_source", "note_imported")
        return ImportRunner(
            dying(self.database, "transaction"),
            dying(self.catalog, *inside),
            dying(self.jobs, "ensure_links", "note_page"),
            fetcher,
            clock=self.clock,
            lease_seconds=EXPIRED,
        )

    async def attempt(self, job_id: str, left: int, *, is_written: bool) -> dict[str, int]:
        """Claim an import and run it."""
        await self.jobs.claim_one(job_id, "worker", EXPIRED)
        job = await self.jobs.details(job_id)
        assert job is not None
        return await self.runner([left], is_written=is_written).run(job)

    async def stored(self) -> list[Any]:
        """Return what is stored of the catalog, without ids and times."""
        names: dict[ObjectId, str] = {}
        found: list[Any] = []
        for collection in COLLECTIONS:
            for row in await self.database.collection(collection).find({}).to_list():
                names.setdefault(row["_id"], row.get("name", ""))
                owner = names.get(cast("ObjectId", row.get("server_id")))
                facts = {one: row.get(one) for one in ("name", "version", "digest", "is_latest")}
                found.append((collection, owner, sorted(facts.items(), key=str)))
        return sorted(found, key=str)


def document(version: str, *, changed: Collection[int]) -> bytes:
    """Return a list of servers with tools, some of which have another version."""
    tools = [{"name": "echo", "description": "Says it again."}]
    publisher = {"io.modelcontextprotocol.registry/publisher-provided": {"tools": tools}}
    servers = [
        {
            "server": {
                "name": f"io.example/s{number}",
                "version": version if number in changed else "1.0.0",
                "description": f"{version} of {number}" if number in changed else "",
                "remotes": [{"type": "streamable-http", "url": f"https://s{number}.example/mcp"}],
                "_meta": publisher,
            }
        }
        for number in range(SERVERS)
    ]
    return json.dumps({"servers": servers}).encode()


async def opened(here: Installation, content: bytes) -> str:
    source = await here.catalog.require_source("test", None, NOW)
    job, _ = await here.jobs.open_import(source.id, "test", {}, packed(content), SYNCHRONISER)
    return job.id


@pytest.mark.requirement("R-207")
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 12, 13, 14])
async def test_an_import_that_is_killed_at_any_write_is_completed_by_the_next_attempt(
    database: Database, number: int, *, is_written: bool
) -> None:
    here = Installation(database)
    await here.runner([0], is_written=False).import_document(
        "test", document("1.0.0", changed=()), start=SERVERS - KNOWN
    )
    job_id = await opened(here, document("2.0.0", changed=range(SERVERS - CHANGED, SERVERS)))

    with pytest.raises(DeathError):
        await here.attempt(job_id, number, is_written=is_written)
    counts = await here.attempt(job_id, 0, is_written=False)

    rows = await database.collection("mcpservers_registry").find({}).to_list()
    assert sum(counts.values()) >= SERVERS
    assert sorted(row["name"] for row in rows) == sorted(
        f"io.example/s{one}" for one in range(SERVERS)
    )
    assert {row["name"]: row["version"] for row in rows} == {
        f"io.example/s{one}": "2.0.0" if one >= SERVERS - CHANGED else "1.0.0"
        for one in range(SERVERS)
    }
    assert await database.collection("tools_registry").count_documents({}) == SERVERS
    assert await database.collection("catalog_versions").count_documents({}) == SERVERS + CHANGED
    latest = await database.collection("catalog_versions").count_documents({"is_latest": True})
    assert latest == SERVERS


async def test_a_second_import_of_what_was_killed_writes_nothing(database: Database) -> None:
    here = Installation(database)
    content = document("1.0.0", changed=())
    job_id = await opened(here, content)
    with pytest.raises(DeathError):
        await here.attempt(job_id, 3, is_written=True)
    await here.attempt(job_id, 0, is_written=False)
    before = await here.stored()

    result = await here.runner([0], is_written=False).import_document("test", content)

    assert dict(result.counts) == {"unchanged": SERVERS}
    assert await here.stored() == before


async def linked(here: Installation, count: int) -> str:
    """Store an entry with that many servers that are linked to it; return its id."""
    await here.runner([0], is_written=False).import_document(
        "test", document("1.0.0", changed=()), start=SERVERS - 1
    )
    (row,) = await here.catalog.rows()
    await here.database.collection("mcpservers").insert_many(
        [
            {
                "serverName": f"w{number}",
                "author": ObjectId("a" * 24),
                "config": {"url": "https://x.example/mcp", "type": "streamable-http"},
                "registry": {
                    "registry_server_id": ObjectId(row.id),
                    "registry_server_name": "former",
                },
                "createdAt": NOW,
                "updatedAt": NOW,
            }
            for number in range(count)
        ]
    )
    return row.id


@pytest.mark.requirement("E-17")
@pytest.mark.requirement("E-18")
@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_links_that_follow_are_right_after_a_kill_at_any_write(
    database: Database, number: int, *, is_written: bool, is_removed: bool
) -> None:
    here = Installation(database)
    entry_id = await linked(here, 210)
    row = await here.catalog.get(entry_id)
    assert row is not None
    await here.jobs.ensure_links_later(entry_id, row.name, SYNCHRONISER)
    if is_removed:

        async def remove(tx: Any) -> bool:
            return await here.catalog.delete(entry_id, row.revision, tx)

        await database.transaction(remove)
    left = [number]

    def follower(left: list[int]) -> LinkFollower:
        def dying(inner: Any, *writes: str) -> Any:
            return Dying(inner, writes, left, is_written=is_written)

        return LinkFollower(
            here.catalog,
            dying(here.servers, "unlink", "follow_entry"),
            dying(here.jobs, "renew"),
            clock=here.clock,
            lease_seconds=EXPIRED,
        )

    (job,) = await here.jobs.claim(1, "worker", EXPIRED)
    with pytest.raises(DeathError):
        await follower(left).run(job)
    (again,) = await here.jobs.claim(1, "other", EXPIRED)
    await follower([0]).run(again)

    names = {
        members.get("registry_server_name")
        for members in [
            one["registry"] for one in await database.collection("mcpservers").find({}).to_list()
        ]
    }
    assert names == ({None} if is_removed else {row.name})
    dangling = {"registry.registry_server_id": ObjectId(entry_id)}
    count = await database.collection("mcpservers").count_documents(dangling)
    assert count == (0 if is_removed else 210)


async def test_the_versions_of_one_server_are_written_a_hundred_at_once(
    database: Database,
) -> None:
    here, left = Installation(database), [0]
    remotes = [{"type": "streamable-http", "url": "https://one.example/mcp"}]
    servers = [
        {"name": "io.example/one", "version": f"1.{number}.0", "remotes": remotes}
        for number in range(250)
    ]
    content = json.dumps({"servers": servers}).encode()

    tried = await here.runner([0], is_written=False).import_document("test", content, dry_run=True)
    first = await here.runner(left, is_written=False).import_document("test", content)
    before = await here.stored()
    second = await here.runner([0], is_written=False).import_document("test", content)

    # Three transactions of three to four writes, and the source's two; not one a version.
    assert left == [-15]
    assert dict(first.counts) == {"added": 1, "versions": 99, "updated": 150}
    assert sum(tried.counts.values()) == 250
    assert dict(second.counts) == {"unchanged": 250}
    assert await here.stored() == before
    (row,) = await here.catalog.rows()
    assert row.version == "1.249.0"
    versions = await here.catalog.versions(row.id)
    assert [one.version for one in versions if one.is_latest] == ["1.249.0"]
