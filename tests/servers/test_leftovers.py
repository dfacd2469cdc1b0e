"""What is left of servers that the other application deleted, and who removes it."""

import asyncio

import pytest
from bson import ObjectId

from packages.database.changes import ChangeStream
from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.view.loading import SnapshotSources
from registry.gateway.view.pending import WATCHED
from registry.gateway.view.snapshot import Snapshot
from registry.operations.doctor import examine
from registry.servers.credentials import CredentialVault
from registry.servers.reconciliation.orphaned_data import FEW, OrphanedServerData
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from tests.fakes.oauth.access_tokens import FakeAccessTokens
from tests.kit.waiting import in_background

pytestmark = pytest.mark.wire

OURS = ("mcp_tools", "server_versions", "sync_states")


@pytest.fixture
def leftovers(
    database: Database, repositories: ServerRepositories, clock: SystemClock
) -> OrphanedServerData:
    return OrphanedServerData(database, repositories, clock=clock, settle_seconds=0)


async def registered(servers: ServerService, name: str, user: UserContext) -> str:
    url = f"http://127.0.0.1:9999/{name}"
    request = ServerCreate.model_validate({"serverName": name, "url": url})
    return (await servers.register(request, user, strict=False)).id


async def deleted_there(database: Database, server_id: str) -> None:
    """Delete a server as the other application does."""
    await database.collection("mcpservers").delete_one({"_id": ObjectId(server_id)})
    await database.collection("aclentries").delete_many({"resourceId": ObjectId(server_id)})


async def rows_of(database: Database, server_id: str) -> int:
    key = ObjectId(server_id)
    about = {"$or": [{"_id": key}, {"owner_id": key}, {"server_id": key}]}
    return sum([await database.collection(name).count_documents(about) for name in OURS])


async def until_nothing_is_left(database: Database, server_id: str) -> None:
    async with asyncio.timeout(30):
        while await rows_of(database, server_id):
            await SystemClock().sleep(0.02)


async def test_what_is_left_of_a_server_that_was_deleted_before_the_start_goes(
    servers: ServerService, database: Database, leftovers: OrphanedServerData, alice: UserContext
) -> None:
    gone, kept = [await registered(servers, name, alice) for name in ("gone", "kept")]
    await deleted_there(database, gone)
    assert await leftovers.find() == await leftovers.find(every=True) == [gone]

    async with in_background(leftovers.follow()):
        await until_nothing_is_left(database, gone)

    assert await rows_of(database, kept) == len(OURS)
    assert await leftovers.find(every=True) == []


async def test_what_is_left_of_a_server_goes_when_its_deletion_is_heard_of(
    servers: ServerService,
    database: Database,
    repositories: ServerRepositories,
    leftovers: OrphanedServerData,
    cipher: Cipher,
    settings: Settings,
    clock: SystemClock,
    alice: UserContext,
) -> None:
    async def revocations_changed() -> None:
        """Hear of nothing."""

    gone, kept = [await registered(servers, name, alice) for name in ("gone", "kept")]
    await servers.toggle(kept, alice, enabled=False)
    sources = SnapshotSources(
        repositories.inventory,
        repositories.servers,
        repositories.tools,
        repositories.features,
        repositories.acl,
        repositories.plugin_auths,
        repositories.policies,
        FakeAccessTokens(),
    )
    snapshot = Snapshot(
        ChangeStream(database, WATCHED),
        sources,
        CredentialVault(cipher),
        clock=clock,
        metrics=Metrics(),
        settings=settings,
        users_changed=lambda: None,
        revocations_changed=revocations_changed,
        servers_missing=leftovers.note,
    )
    await snapshot.load()

    async with in_background(snapshot.follow(), leftovers.follow()):
        await deleted_there(database, gone)
        await until_nothing_is_left(database, gone)

    assert await rows_of(database, kept) == len(OURS)


async def test_a_server_that_is_there_and_an_id_of_no_server_lose_nothing(
    servers: ServerService, database: Database, leftovers: OrphanedServerData, alice: UserContext
) -> None:
    kept = await registered(servers, "kept", alice)
    leftovers.note(["a text"])

    assert not await leftovers.remove(kept)
    assert not await leftovers.remove(str(ObjectId()))
    assert await rows_of(database, kept) == len(OURS)


async def test_a_start_on_a_database_that_lost_its_servers_removes_nothing(
    database: Database, leftovers: OrphanedServerData
) -> None:
    states = database.collection("sync_states")
    await states.insert_many([{"_id": ObjectId(), "source_type": "mcp"} for _ in range(FEW + 1)])
    last = (await states.find_one({}, sort=[("_id", -1)]) or {})["_id"]

    async with in_background(leftovers.follow()):
        leftovers.note([str(last)])
        await until_nothing_is_left(database, str(last))

    assert await states.count_documents({}) == FEW


async def test_the_doctor_names_what_is_left_and_removes_it_when_asked_to(
    servers: ServerService, database: Database, settings: Settings, alice: UserContext
) -> None:
    gone = await registered(servers, "gone", alice)
    await deleted_there(database, gone)

    told = [
        next(one for one in await examine(settings, repair=repair) if one.check == "orphaned data")
        for repair in (False, True, False)
    ]

    assert [one.good for one in told] == [False, True, True]
    assert told[0].message.endswith(f"`registry doctor --repair`: {gone}")
    assert told[1].message == "of 1 servers removed"
    assert await rows_of(database, gone) == 0
