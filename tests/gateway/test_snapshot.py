"""The gateway's view of the database: what it holds, and how it follows."""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
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

from packages.database.changes import ChangeEvent, ChangeStream, FeedItem
from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.access.policy import Permission, decide
from registry.auth.identity import UserContext
from registry.core.background_tasks import end
from registry.core.clock import SystemClock
from registry.core.memory import RELEASE_BYTES, FreedMemory
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.view.loading import ServerView, SnapshotSources
from registry.gateway.view.pending import WATCHED, ChangeBatch, PendingChanges
from registry.gateway.view.snapshot import GATHER_SECONDS, ROUND_SECONDS, Snapshot, _gathering
from registry.servers.credentials import CredentialVault
from registry.servers.errors import UserKeyMissingError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.values import ConnectionSpec, Discovered
from tests.fakes.clock import FakeClock
from tests.fakes.discovery import FakeDiscovery, found, tool
from tests.fakes.memory import GivenBack
from tests.fakes.oauth.access_tokens import FakeAccessTokens
from tests.kit.servers import read_and_store, server_service
from tests.kit.waiting import others_ran, until

pytestmark = pytest.mark.wire

URL = "http://127.0.0.1:9999/mcp"
PATIENCE_SECONDS = 30


@pytest.fixture
def other_replica(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    clock: SystemClock,
    offering: FakeDiscovery,
) -> ServerService:
    """Return a service whose changes reach the snapshot through the database alone."""
    upstreams = read_and_store(database, repositories, cipher, offering, clock=clock)
    return server_service(repositories, cipher, upstreams, clock=clock)


@pytest.fixture
def offering() -> FakeDiscovery:
    """Return what the service of the other replica reads of servers."""
    return FakeDiscovery()


@pytest.fixture
async def given_back() -> GivenBack:
    return GivenBack()


@pytest.fixture
def memory(given_back: GivenBack) -> FreedMemory:
    """Return what the snapshot tells of what it holds no more."""
    return FreedMemory(FakeClock(), given_back)


@pytest.fixture
def forgotten() -> list[str]:
    return []


@pytest.fixture
def metrics() -> Metrics:
    """Return the metrics of the snapshot."""
    return Metrics()


@pytest.fixture
def snapshot(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    settings: Settings,
    clock: SystemClock,
    forgotten: list[str],
    metrics: Metrics,
    memory: FreedMemory,
) -> Snapshot:
    async def revocations_changed() -> None:
        forgotten.append("revocations")

    return Snapshot(
        ChangeStream(database, WATCHED),
        SnapshotSources(
            inventory=repositories.inventory,
            servers=repositories.servers,
            tools=repositories.tools,
            features=repositories.features,
            acl=repositories.acl,
            plugin_auths=repositories.plugin_auths,
            policies=repositories.policies,
            tokens=FakeAccessTokens(),
        ),
        CredentialVault(cipher),
        clock=clock,
        metrics=metrics,
        settings=settings,
        users_changed=lambda: forgotten.append("users"),
        revocations_changed=revocations_changed,
        freed=memory.note,
    )


def full_loads(metrics: Metrics) -> float | None:
    name = "mcp_gateway_snapshot_reloads_total"
    return metrics.registry.get_sample_value(name, {"kind": "full"})


@asynccontextmanager
async def following(snapshot: Snapshot) -> AsyncIterator[None]:
    """Let the snapshot follow the database, from a state that agrees with it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(snapshot.follow())
        await until(snapshot.is_fresh)
        yield
        await end(task)


def create(name: str = "weather", **fields: object) -> ServerCreate:
    return ServerCreate.model_validate({"serverName": name, "url": URL, **fields})


@pytest.mark.requirement("R-001")
async def test_a_server_registered_on_another_replica_gets_a_route(
    snapshot: Snapshot, other_replica: ServerService, alice: UserContext
) -> None:
    async with following(snapshot):
        api_key = {"key": "sk-1"}
        server = await other_replica.register(create(apiKey=api_key), alice, strict=False)
        await until(lambda: snapshot.route("weather"))

    route = snapshot.route("weather")
    assert route is not None
    assert (route.server_id, route.url, list(route.tools)) == (server.id, URL, ["echo"])
    assert route.headers["Authorization"] == "Bearer sk-1"
    assert "sk-1" not in repr(route)


@pytest.mark.requirement("R-067")
@pytest.mark.requirement("R-134")
async def test_a_server_that_is_turned_off_or_deleted_elsewhere_loses_its_route(
    snapshot: Snapshot, other_replica: ServerService, alice: UserContext
) -> None:
    off = await other_replica.register(create("off"), alice, strict=False)
    gone = await other_replica.register(create("gone"), alice, strict=False)

    async with following(snapshot):
        assert snapshot.route("off")
        await other_replica.toggle(off.id, alice, enabled=False)
        await other_replica.delete(gone.id, alice)
        await until(lambda: not snapshot.route("off") and not snapshot.route("gone"))
        await other_replica.toggle(off.id, alice, enabled=True)
        await until(lambda: snapshot.route("off"))


async def test_a_moved_server_is_found_under_its_new_path_alone(
    snapshot: Snapshot, other_replica: ServerService, alice: UserContext
) -> None:
    server = await other_replica.register(create(), alice, strict=False)

    async with following(snapshot):
        await other_replica.update(server.id, ServerUpdate(path="/mcp/sun"), alice)
        await until(lambda: snapshot.route("sun"))

    assert snapshot.route("weather") is None


async def test_an_acl_entry_of_the_other_application_counts_and_ends(
    snapshot: Snapshot,
    other_replica: ServerService,
    database: Database,
    bob: UserContext,
    root: UserContext,
    metrics: Metrics,
) -> None:
    server = await other_replica.register(create(scope="shared_user"), root, strict=False)
    entry = {
        "principalType": "user",
        "principalId": ObjectId(bob.user_id),
        "resourceType": "mcpServer",
        "resourceId": ObjectId(server.id),
        "permBits": 1,
    }

    def bob_is_let_in() -> bool:
        route = snapshot.route("weather")
        return route is not None and decide(bob, Permission.VIEW, route.facts).allowed

    async with following(snapshot):
        assert not bob_is_let_in()
        await database.collection("aclentries").insert_one(entry)
        await until(bob_is_let_in)
        route = snapshot.route("weather")
        assert route is not None
        assert route.facts.grants.users[bob.user_id] == Permission.VIEW
        loads = full_loads(metrics)
        await database.collection("aclentries").delete_one({"_id": entry["_id"]})
        await until(lambda: not bob_is_let_in())
        # Only the one server was read again.
        assert full_loads(metrics) == loads


async def test_an_acl_entry_that_runs_out_counts_no_longer(
    snapshot: Snapshot,
    other_replica: ServerService,
    database: Database,
    clock: SystemClock,
    bob: UserContext,
    root: UserContext,
) -> None:
    server = await other_replica.register(create(scope="shared_user"), root, strict=False)
    await database.collection("aclentries").insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(bob.user_id),
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server.id),
            "permBits": 1,
            "expiredAt": clock.now() + timedelta(seconds=1.5),
        }
    )

    def bob_is_let_in() -> bool:
        route = snapshot.route("weather")
        return route is not None and decide(bob, Permission.VIEW, route.facts).allowed

    async with following(snapshot):
        assert bob_is_let_in()
        await until(lambda: not bob_is_let_in())


async def test_a_changed_user_makes_what_is_known_of_users_be_dropped(
    snapshot: Snapshot, database: Database, forgotten: list[str]
) -> None:
    async with following(snapshot):
        await database.collection("users").insert_one({"email": "x@example.com"})
        await until(lambda: forgotten)


async def test_each_caller_gets_their_own_key_and_a_new_one_at_once(
    snapshot: Snapshot,
    other_replica: ServerService,
    repositories: ServerRepositories,
    database: Database,
    clock: SystemClock,
    alice: UserContext,
    bob: UserContext,
) -> None:
    api_key = {"key": "of-alice", "source": "user"}
    await other_replica.register(create(apiKey=api_key), alice, strict=False)

    async with following(snapshot):
        route = snapshot.route("weather")
        assert route is not None
        assert route.per_user
        before = (await snapshot.user_headers(alice, route)).headers
        with pytest.raises(UserKeyMissingError):
            await snapshot.user_headers(bob, route)
        await database.transaction(
            lambda tx: repositories.plugin_auths.store(
                alice.user_id, "weather", "newer", clock.now(), tx
            )
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await snapshot.user_headers(alice, route)).headers == before:
                await clock.sleep(0.01)

        assert before["Authorization"] == "Bearer of-alice"
        after = (await snapshot.user_headers(alice, route)).headers
        assert after["Authorization"] == "Bearer newer"


@pytest.mark.requirement("E-13")
async def test_a_credential_of_another_key_is_a_problem_of_that_server_alone(
    snapshot: Snapshot, other_replica: ServerService, database: Database, alice: UserContext
) -> None:
    server = await other_replica.register(create(apiKey={"key": "k"}), alice, strict=False)
    await other_replica.register(create("good"), alice, strict=False)
    strange = Cipher("ab" * 32, "cd" * 16).encrypt_shared("k")
    await database.collection("mcpservers").update_one(
        {"_id": ObjectId(server.id)}, {"$set": {"config.apiKey.key": strange}}
    )

    await snapshot.load()

    bad, good = snapshot.route("weather"), snapshot.route("good")
    assert bad is not None
    assert good is not None
    assert bad.credential_problem is not None
    assert f"mcpservers/{server.id}/config.apiKey.key" in bad.credential_problem
    assert "Authorization" not in bad.headers
    assert good.credential_problem is None


async def test_unusable_documents_of_other_programs_cost_no_other_server_its_route(
    snapshot: Snapshot, other_replica: ServerService, database: Database, alice: UserContext
) -> None:
    await other_replica.register(create(), alice, strict=False)
    await database.collection("mcpservers").insert_many(
        [
            {"serverName": "a", "config": {"type": "stdio", "command": "x", "args": []}},
            {"serverName": "b", "config": {"type": "streamable-http", "url": 7}, "path": "/mcp/b"},
            {"serverName": "c", "config": "nonsense", "path": "/elsewhere"},
            {"serverName": "d", "config": {"type": "sse", "url": "http://[bad"}, "path": "/mcp/d"},
        ]
    )

    await snapshot.load()

    assert snapshot.route("weather")
    assert [slug for slug in "abcd" if snapshot.route(slug)] == []


@pytest.mark.requirement("E-22")
async def test_a_schema_with_ref_and_id_neither_stops_the_view_nor_costs_its_own_server(
    snapshot: Snapshot, other_replica: ServerService, database: Database, alice: UserContext
) -> None:
    servers = database.collection("mcpservers")
    reference = {"properties": {"a": {"$ref": "#/$defs/a", "$id": "a"}}}
    odd = {"parameters": {"type": "object", "default": float("inf")}}
    document = {
        "serverName": "linked",
        "author": ObjectId(alice.user_id),
        "config": {
            "type": "streamable-http",
            "url": URL,
            "capabilities": "[" * 5_000 + "]" * 5_000,
            "toolFunctions": {
                "find_mcp_linked": {"type": "function", "function": {"parameters": reference}},
                "endless_mcp_linked": {"type": "function", "function": odd},
                "_mcp_linked": {"type": "function", "function": {}},
            },
        },
    }
    async with following(snapshot):
        await servers.insert_one(document)
        await until(lambda: snapshot.route("linked"))
        await other_replica.register(create(), alice, strict=False)
        await until(lambda: snapshot.route("weather"))

    await snapshot.load()

    route = snapshot.route("linked")
    assert route is not None
    assert snapshot.route("weather")
    assert list(route.tools) == ["find"]
    assert json.loads(route.tools["find"].wire)["inputSchema"] == {"type": "object", **reference}


@pytest.mark.requirement("R-047")
async def test_tools_that_only_the_other_application_described_are_served(
    snapshot: Snapshot, database: Database, alice: UserContext
) -> None:
    await database.collection("mcpservers").insert_one(
        {
            "serverName": "legacy",
            "author": ObjectId(alice.user_id),
            "config": {
                "type": "streamable-http",
                "url": URL,
                "toolFunctions": {
                    "find_mcp_legacy": {
                        "type": "function",
                        "function": {"name": "find_mcp_legacy", "parameters": {"type": "object"}},
                    }
                },
            },
        }
    )

    await snapshot.load()

    route = snapshot.route("legacy")
    assert route is not None
    assert list(route.tools) == ["find"]


async def test_changes_without_a_pause_keep_the_view_fresh(
    snapshot: Snapshot, forgotten: list[str]
) -> None:
    async def busy() -> AsyncIterator[FeedItem]:
        for _ in range(5):
            await SystemClock().sleep(GATHER_SECONDS / 2)
            yield FeedItem(ChangeEvent("users", "0" * 24), None)

    before = SystemClock().monotonic()
    await snapshot._follow_changes(busy())

    assert len(forgotten) > 3
    age = snapshot.status().age_seconds
    assert age is not None
    assert age < SystemClock().monotonic() - before - 2 * GATHER_SECONDS


async def test_a_server_that_takes_long_to_read_is_not_read_all_the_time(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    taken: list[float] = []
    read = snapshot._reader.read

    async def slow(*args: Any) -> dict[str, ServerView]:
        began_at = clock.monotonic()
        await clock.sleep(0.1)
        views = await read(*args)
        taken.append(clock.monotonic() - began_at)
        return views

    async def changes() -> AsyncIterator[FeedItem]:
        while clock.monotonic() < began_at + 1.0:
            await others_ran()
            yield FeedItem(ChangeEvent("mcp_tools", "1" * 24, "0" * 24), None)

    monkeypatch.setattr(snapshot._reader, "read", slow)
    began_at = clock.monotonic()
    await snapshot._follow_changes(changes())

    assert len(taken) > 1
    assert sum(taken) < 0.7 * (clock.monotonic() - began_at)


class _Questions(CommandListener):
    """Counts what a feed asks."""

    def __init__(self) -> None:
        self.count = 0

    @override
    def started(self, event: CommandStartedEvent) -> None:
        self.count += event.command_name == "getMore"

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Do nothing."""

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        """Do nothing."""


async def test_many_commits_cost_the_database_few_questions(
    snapshot: Snapshot, other_replica: ServerService, alice: UserContext, database_uri: str
) -> None:
    questions = _Questions()
    listened_to = Database(database_uri, timeout_ms=5000, listeners=[questions])
    snapshot._feed = ChangeStream(listened_to, WATCHED)
    server = await other_replica.register(create(), alice, strict=False)
    commits = 40
    async with following(snapshot):
        await until(lambda: snapshot.route("weather"))
        began_at, before = SystemClock().monotonic(), questions.count
        for number in range(commits):
            await other_replica.update(server.id, ServerUpdate(path=f"/mcp/w-{number}"), alice)
        rounds = (SystemClock().monotonic() - began_at) / ROUND_SECONDS
        asked = questions.count - before
        await until(lambda: snapshot.route(f"w-{commits - 1}"))
    await listened_to.close()

    assert asked <= 2 + 2 * rounds


async def test_changed_users_are_dropped_together_with_what_makes_everything_be_read(
    snapshot: Snapshot, forgotten: list[str]
) -> None:
    taken = ChangeBatch(is_too_much=True, users=True, revocations=True)

    await snapshot._apply(taken, PendingChanges())

    assert forgotten == ["revocations", "users"]


@pytest.mark.parametrize(
    ("took", "idle", "seconds"),
    [
        (0.0, 0.0, GATHER_SECONDS),
        (0.05, 0.0, 0.15),
        (0.2, 0.0, 0.3),
        (0.7, 0.0, 0.7),
        (30.0, 0.0, 1.0),
        (30.0, 0.4, 0.6),
        (30.0, 2.0, GATHER_SECONDS),
    ],
)
def test_the_longer_changes_take_to_apply_the_more_are_applied_together(
    took: float, idle: float, seconds: float
) -> None:
    assert _gathering(took, idle) == pytest.approx(seconds)


def in_tenant(tenant: object, **fields: object) -> dict[str, Any]:
    """Return a server as the other application stores it: without a path."""
    return {
        "_id": ObjectId(),
        "serverName": "weather",
        "config": {"url": f"http://127.0.0.1:9/{tenant}", "type": "streamable-http"},
        "author": ObjectId("a" * 24),
        "scope": "shared_app",
        **({} if tenant is None else {"tenantId": tenant}),
        **fields,
    }


async def test_one_name_in_several_tenants_leads_each_to_their_own(
    snapshot: Snapshot, database: Database, alice: UserContext
) -> None:
    tenants = ["acme", "other", None]
    async with following(snapshot):
        await database.collection("mcpservers").insert_many([in_tenant(one) for one in tenants])
        await until(lambda: all(snapshot.route("weather", one) for one in tenants))

        routes = [snapshot.route("weather", one) for one in (*tenants, "third")]

    assert [route and route.url.rpartition("/")[2] for route in routes] == [
        "acme",
        "other",
        "None",
        None,
    ]
    combined = snapshot.catalogue
    for tenant in tenants:
        user = replace(alice, tenant_id=tenant)
        members = combined.view(user, admin_uses_private=True).members
        assert [member.route for member in members] == [snapshot.route("weather", tenant)]


async def test_a_server_that_changes_its_tenant_is_left_to_the_other_one(
    snapshot: Snapshot, database: Database
) -> None:
    servers = database.collection("mcpservers")
    async with following(snapshot):
        await servers.insert_one(in_tenant("acme"))
        await until(lambda: snapshot.route("weather", "acme"))
        await servers.update_one({}, {"$set": {"tenantId": "other"}})
        await until(lambda: snapshot.route("weather", "other"))

        assert snapshot.route("weather", "acme") is None


def described(size: int) -> Callable[[ConnectionSpec], Discovered]:
    """Return what answers with eight tools that take so many bytes together."""
    tools = [tool(f"tool{number}", "x" * (size // 8)) for number in range(8)]
    return lambda _: found(*tools)


async def test_what_a_large_server_took_is_given_back_when_it_is_gone(
    snapshot: Snapshot,
    other_replica: ServerService,
    offering: FakeDiscovery,
    memory: FreedMemory,
    given_back: GivenBack,
    alice: UserContext,
) -> None:
    offering.answer = described(RELEASE_BYTES)
    server = await other_replica.register(create(), alice, strict=False)
    await snapshot.load()
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_SECONDS):
        task = group.create_task(memory.follow())
        await given_back.came()
        await other_replica.delete(server.id, alice)
        await snapshot.server_changed(server.id)
        await given_back.came()
        await end(task)

    assert given_back.times == 2


async def test_of_a_server_that_took_little_nothing_is_given_back(
    snapshot: Snapshot,
    other_replica: ServerService,
    memory: FreedMemory,
    given_back: GivenBack,
    alice: UserContext,
) -> None:
    await other_replica.register(create(), alice, strict=False)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(memory.follow())
        await snapshot.load()
        await others_ran()
        await end(task)

    assert given_back.times == 0


async def test_what_does_not_fit_into_the_bytes_of_a_server_costs_only_itself(
    snapshot: Snapshot,
    other_replica: ServerService,
    offering: FakeDiscovery,
    settings: Settings,
    alice: UserContext,
) -> None:
    offering.answer = described(settings.server_max_definition_bytes + 1)
    await other_replica.register(create(), alice, strict=False)
    offering.answer = lambda _: found(tool("echo"))
    await other_replica.register(create("other"), alice, strict=False)

    await snapshot.load()

    route, other = snapshot.route("weather"), snapshot.route("other")
    assert route is not None
    assert other is not None
    assert [*route.tools] == [f"tool{number}" for number in range(7)]
    assert [*other.tools] == ["echo"]


@pytest.mark.usefixtures("no_collector")
async def test_what_is_held_of_a_server_goes_without_the_collector(
    snapshot: Snapshot, other_replica: ServerService, alice: UserContext
) -> None:
    server = await other_replica.register(create(), alice, strict=False)
    await snapshot.load()
    snapshot.catalogue.view(alice, admin_uses_private=True).page("tools", None)
    held = weakref.ref(snapshot.catalogue.by_server[server.id])

    await other_replica.delete(server.id, alice)
    await snapshot.server_changed(server.id)

    # Nor could it help: what is there when the process begins to serve is kept from it.
    assert held() is None
