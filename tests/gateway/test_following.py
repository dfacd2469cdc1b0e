"""How the gateway's view follows: what it reads again, and where it goes on after a loss."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure
from typing_extensions import override

from packages.database.changes import ChangeEvent, ChangeStream, FeedItem
from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.database.schema import prepare
from packages.models.states import FeatureKind
from registry.audit.chain import PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.core.background_tasks import end
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.view.loading import SnapshotSources
from registry.gateway.view.pending import MAX_DELETED, WATCHED, PendingChanges
from registry.gateway.view.snapshot import Snapshot
from registry.prompts_and_resources.values import Feature, FeatureSnapshot
from registry.servers.credentials import CredentialVault
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from registry.servers.storage.repository import ServerRepository
from registry.wiring.storage import EXTRA_INDEXES, build_repositories
from tests.fakes.discovery import FakeDiscovery, found, tool
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon
from tests.fakes.oauth.access_tokens import FakeAccessTokens
from tests.kit.servers import read_and_store, server_service
from tests.kit.waiting import until

pytestmark = pytest.mark.wire

PATIENCE_SECONDS = 15.0


@dataclass
class Replicas:
    """A service on one replica, and the view of another."""

    database: Database
    servers: ServerService
    discovery: FakeDiscovery
    snapshot: Snapshot
    metrics: Metrics

    def reloads(self, kind: str) -> float:
        """Return how often everything, or a server, was read."""
        name = "mcp_gateway_snapshot_reloads_total"
        return self.metrics.registry.get_sample_value(name, {"kind": kind}) or 0

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Let the view follow the database."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.snapshot.follow())
            await until(lambda: self.snapshot.status().age_seconds is not None)
            yield
            await end(task)

    def tools(self, slug: str) -> list[str]:
        """Return the names of the tools of a route."""
        route = self.snapshot.route(slug)
        return [] if route is None else list(route.tools)


def replicas(database: Database, settings: Settings, cipher: Cipher) -> Replicas:
    clock, metrics, discovery = SystemClock(), Metrics(), FakeDiscovery()
    keys = AuditKeys(cipher.derive_keys(PURPOSE))
    audit = AuditTrail(AuditRepository(database, keys), clock=clock, metrics=Metrics())
    repositories = build_repositories(settings, database, cipher, audit, clock)

    async def nothing() -> None:
        pass

    return Replicas(
        database,
        server_service(
            repositories, cipher, read_and_store(database, repositories, cipher, discovery)
        ),
        discovery,
        Snapshot(
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
            users_changed=lambda: None,
            revocations_changed=nothing,
        ),
        metrics,
    )


@pytest.fixture
def two(database: Database, settings: Settings, cipher: Cipher) -> Replicas:
    return replicas(database, settings, cipher)


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what the driver leaves open of attempts to connect, before the next test."""
    yield
    gc.collect()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "own", "--sync-on-commit") as daemon:
        yield daemon


@pytest.fixture
async def mortal(
    daemon: RunningDaemon, settings: Settings, cipher: Cipher
) -> AsyncIterator[Replicas]:
    """Return replicas whose database can be stopped."""
    database = Database(f"{daemon.uri}own", timeout_ms=300)
    await prepare(database, EXTRA_INDEXES)
    short = settings.model_copy(update={"gateway_max_staleness_seconds": 2.0})
    yield replicas(database, short, cipher)
    await database.close()


def create(name: str = "weather", **fields: Any) -> ServerCreate:
    url = "http://127.0.0.1:9999/mcp"
    return ServerCreate.model_validate({"serverName": name, "url": url, **fields})


def raw_tool(owner: str, name: str) -> dict[str, Any]:
    return {
        "source_type": "mcp",
        "owner_id": ObjectId(owner),
        "name": name,
        "definition": f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}',
        "input_schema": "{}",
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0",
    }


async def test_what_was_loaded_before_is_followed_from_there_without_reading_it_again(
    two: Replicas, alice: UserContext
) -> None:
    await two.snapshot.load()
    await two.servers.register(create(), alice, strict=True)

    async with two.following():
        await until(lambda: two.snapshot.route("weather"))

    assert two.reloads("full") == 1


async def test_what_calls_write_of_a_server_makes_nobody_read_it_again(
    two: Replicas, alice: UserContext
) -> None:
    server = await two.servers.register(create(), alice, strict=True)
    await two.snapshot.load()
    repository, now = ServerRepository(two.database), SystemClock().now()

    async with two.following():
        await repository.note_failed(
            server.id, now, "It is away.", failures=1, is_after_success=False
        )
        await repository.note_connected(server.id, now, quiet_since=now)
        await two.servers.register(create("other"), alice, strict=True)
        await until(lambda: two.snapshot.route("other"))

    assert (two.reloads("full"), two.reloads("server")) == (1, 1)


async def test_a_deleted_row_makes_its_server_alone_be_read_again(
    two: Replicas, alice: UserContext
) -> None:
    two.discovery.answer = lambda _: found(tool("a"), tool("b"))
    server = await two.servers.register(create(), alice, strict=True)
    await two.servers.register(create("other"), alice, strict=True)

    async with two.following():
        other, reloads = two.snapshot.route("other"), two.reloads("server")
        query = {"owner_id": ObjectId(server.id), "name": "a"}
        await two.database.collection("mcp_tools").delete_one(query)
        await until(lambda: two.tools("weather") == ["b"])

    assert two.snapshot.route("other") is other
    assert two.reloads("server") == reloads + 1
    assert two.reloads("full") == 1


async def test_a_row_that_was_not_served_changes_nothing_by_going(
    two: Replicas, alice: UserContext
) -> None:
    server = await two.servers.register(create(), alice, strict=True)
    draft = {**raw_tool(server.id, "draft"), "exposure_state": "draft"}
    rows = two.database.collection("mcp_tools")
    await rows.insert_one(draft)

    async with two.following():
        route = two.snapshot.route("weather")
        await rows.delete_one({"_id": draft["_id"]})
        await rows.insert_one(raw_tool(server.id, "later"))
        await until(lambda: two.tools("weather") == ["echo", "later"])
        assert route is not None
        # What did not change is the same object still.
        now = two.snapshot.route("weather")
        assert now is not None
        assert now.tools["echo"] is route.tools["echo"]

    assert two.reloads("full") == 1


async def test_thousands_of_tools_written_at_once_are_read_a_few_times(
    two: Replicas, alice: UserContext
) -> None:
    server = await two.servers.register(create(), alice, strict=True)
    rows = [raw_tool(server.id, f"t{number:05}") for number in range(3_000)]

    async with two.following():
        before = two.reloads("server")
        tools = two.database.collection("mcp_tools")
        await two.database.transaction(lambda tx: tools.insert_many(rows, session=tx))
        await until(lambda: len(two.tools("weather")) == len(rows) + 1, 60)
        # What is told after it was read already makes it be read again.
        position = two.snapshot._position
        await until(lambda: two.snapshot._position != position)

    assert two.reloads("full") == 1
    assert two.reloads("server") - before <= 4


def test_more_deleted_rows_than_are_remembered_make_everything_be_read() -> None:

    pending = PendingChanges()
    for number in range(MAX_DELETED + 1):
        pending.add(FeedItem(ChangeEvent("mcp_tools", f"{number:024x}"), number), 1.0)

    taken = pending.take()
    assert taken.is_too_much
    assert len(taken.deleted) == MAX_DELETED
    assert taken.position == MAX_DELETED
    assert pending.take().is_quiet


async def test_a_route_holds_what_the_server_lists_and_says_of_itself(
    two: Replicas, alice: UserContext
) -> None:
    prompt = Feature(FeatureKind.PROMPT, "hello", '{"name":"hello","é":1}')
    template = Feature(FeatureKind.TEMPLATE, "x:{a}", '{"uriTemplate":"x:{a}","name":"x"}')

    def lists(*prompts: Feature) -> Any:
        told = {
            FeatureKind.PROMPT: prompts,
            FeatureKind.RESOURCE: (),
            FeatureKind.TEMPLATE: (template,),
        }
        return replace(
            found(tool("echo")),
            features=FeatureSnapshot(told),
            instructions="Be kind.",
            title="Greeter",
        )

    two.discovery.answer = lambda _: lists(prompt)
    async with two.following():
        server = await two.servers.register(create(), alice, strict=True)
        await until(lambda: two.snapshot.route("weather"))
        route = two.snapshot.route("weather")
        assert route is not None
        assert (route.title, route.instructions) == ("Greeter", "Be kind.")
        assert dict(route.capabilities) == {"tools": {"listChanged": True}}
        assert [entry.wire.decode() for entry in route.prompts.values()] == [prompt.definition]
        assert list(route.resources) == []
        assert [entry.key for entry in route.templates.values()] == ["x:{a}"]

        two.discovery.answer = lambda _: lists()
        await two.servers.refresh(server.id, alice)

        def has_no_prompts() -> bool:
            route = two.snapshot.route("weather")
            return route is not None and not route.prompts

        await until(has_no_prompts)

    assert two.reloads("full") == 1


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.requirement("E-08")
async def test_without_the_database_the_view_is_served_a_while_then_not_and_then_caught_up(
    mortal: Replicas, daemon: RunningDaemon, alice: UserContext
) -> None:
    server = await mortal.servers.register(create(), alice, strict=True)
    async with mortal.following():
        assert mortal.snapshot.is_fresh()
        daemon.stop()

        assert mortal.snapshot.route("weather")
        await until(lambda: not mortal.snapshot.is_fresh())
        daemon.restart()
        # Nobody has followed it yet: what was missed is told by the stream, where it stopped.
        await mortal.database.collection("mcp_tools").insert_one(raw_tool(server.id, "new"))
        await until(mortal.snapshot.is_fresh)
        await until(lambda: mortal.tools("weather") == ["echo", "new"])

    assert mortal.reloads("full") == 1


class KillableStream(ChangeStream):
    """Remembers the streams it opened."""

    streams: list[Any]

    @asynccontextmanager
    @override
    async def _opened(self, after: Any) -> AsyncGenerator[Any, None]:
        async with super()._opened(after) as stream:
            self.streams.append(stream)
            yield stream


async def test_a_stream_whose_cursor_was_killed_goes_on(two: Replicas, alice: UserContext) -> None:
    feed = KillableStream(two.database, WATCHED)
    feed.streams = []
    two.snapshot._feed = feed

    async with two.following():
        cursor = feed.streams[0]._cursor.cursor_id
        killed = await two.database.db.command("killCursors", "$cmd.aggregate", cursors=[cursor])
        await two.servers.register(create(), alice, strict=True)
        await until(lambda: two.snapshot.route("weather"))

    assert killed["cursorsKilled"] == [cursor]
    assert two.reloads("full") == 1


class TooLargeOnce(ChangeStream):
    """Fails at its first change as at an event of more than 16 MB."""

    failures = 0

    @asynccontextmanager
    @override
    async def _opened(self, after: Any) -> AsyncGenerator[Any, None]:
        async with super()._opened(after) as opened:
            stream: Any = opened
            try_next = stream.try_next

            async def failing() -> Any:
                event = await try_next()
                if event is not None and not self.failures:
                    self.failures += 1
                    raise OperationFailure("BSONObj size is invalid", 10334)
                return event

            stream.try_next = failing
            yield stream


async def test_after_an_event_that_is_too_large_all_is_read_once_and_followed_on(
    two: Replicas, alice: UserContext
) -> None:
    feed = TooLargeOnce(two.database, WATCHED)
    two.snapshot._feed = feed

    async with two.following():
        await two.servers.register(create(), alice, strict=True)
        await until(lambda: two.snapshot.route("weather"))
        await two.servers.register(create("tides"), alice, strict=True)
        await until(lambda: two.snapshot.route("tides"))

    assert feed.failures == 1
    assert two.reloads("full") == 2


async def test_a_position_that_the_database_refuses_makes_everything_be_read(
    two: Replicas, alice: UserContext
) -> None:
    await two.snapshot.load()
    await two.servers.register(create(), alice, strict=True)
    two.snapshot._position = {"_data": "82DEADBEEF"}

    async with two.following():
        await until(lambda: two.snapshot.route("weather"))
        await until(lambda: two.reloads("full") == 2)


@pytest.mark.requirement("R-015")
@pytest.mark.requirement("R-014")
async def test_dropping_the_whole_view_changes_no_route(two: Replicas, alice: UserContext) -> None:
    await two.servers.register(create(), alice, strict=True)
    await two.snapshot.load()
    before = two.snapshot.route("weather")

    two.snapshot._views.clear()
    two.snapshot._position = None
    await two.snapshot.load()

    after = two.snapshot.route("weather")
    assert after is not before
    assert after == before
