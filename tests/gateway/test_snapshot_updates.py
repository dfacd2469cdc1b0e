"""The snapshot follows changes, as playbooks: a scripted feed, and rows that a test changes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

import pytest
from bson import ObjectId

from packages.database.changes import ChangeEvent, FeedItem, HistoryLost, Position
from packages.database.encryption import Cipher
from packages.database.errors import DatabaseUnavailable
from registry.core.background_tasks import end
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.gateway.view.loading import SnapshotSources
from registry.gateway.view.snapshot import Snapshot
from registry.servers.credentials import CredentialVault
from registry.servers.storage.inventory import Inventory
from registry.servers.values import ServerRecord
from tests.fakes.clock import FakeClock
from tests.fakes.oauth.access_tokens import FakeAccessTokens
from tests.gateway.conftest import make_settings

SERVER = "5" * 24


class ScriptedFeed:
    """Implements `ChangeFeed`: yields what a test puts into it."""

    mode = "change_stream"

    def __init__(self) -> None:
        self.items: asyncio.Queue[ChangeEvent | Exception] = asyncio.Queue()
        self.opened_after: list[Position | None] = []
        self._number = 0

    async def now(self) -> Position | None:
        """Return the position before the next change."""
        return self._number

    async def changes(self, after: Position | None) -> AsyncGenerator[FeedItem, None]:
        """Yield what is put in."""
        self.opened_after.append(after)
        yield FeedItem(None, self._number)
        while True:
            item = await self.items.get()
            if isinstance(item, Exception):
                raise item
            self._number += 1
            yield FeedItem(item, self._number)


class Stored:
    """What the repositories of the snapshot read; each read as slow as a test likes."""

    def __init__(self) -> None:
        self.url: str | None = "http://127.0.0.1:9/mcp"
        self.config: dict[str, Any] = {}
        self.reads = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def warn_of_odd_ids(self) -> None:
        """Find none."""

    async def ids_unchecked(self) -> list[str]:
        """Return the id of the server."""
        return [SERVER]

    async def by_ids_unchecked(self, _: Sequence[str]) -> list[ServerRecord]:
        """Return the server as it is when the read begins."""
        url = self.url
        self.reads += 1
        self.began.set()
        await self.may_end.wait()
        row = {
            "_id": ObjectId(SERVER),
            "serverName": "weather",
            "config": {"type": "streamable-http", "url": url, **self.config},
        }
        return [] if url is None else [ServerRecord.model_validate(row)]

    async def rows(self, _: Sequence[str]) -> AsyncIterator[Any]:
        """Yield the tools, and prompts and resources: there are none."""
        none: tuple[Any, ...] = ()
        for row in none:
            yield row

    async def grants_of(self, _: Sequence[str], now: datetime) -> Mapping[str, Any]:  # noqa: ARG002
        """Return no grants."""
        return {}

    async def tool_functions(self, _: str) -> JsonObject:
        """Return no tools."""
        return {}

    async def every(self) -> Mapping[str, Any]:
        """Return no policies."""
        return {}


class Followed:
    """A snapshot, what it reads and what it follows."""

    def __init__(self, cipher: Cipher) -> None:
        self.stored, self.feed = Stored(), ScriptedFeed()
        self.dropped: list[str] = []
        self.tokens = FakeAccessTokens()
        clock, stored = FakeClock(), cast("Any", self.stored)

        async def revocations_changed() -> None:
            self.dropped.append("revocations")

        self.snapshot = Snapshot(
            self.feed,
            SnapshotSources(
                inventory=Inventory(clock, max_staleness_seconds=60),
                servers=stored,
                tools=stored,
                features=stored,
                acl=stored,
                plugin_auths=stored,
                policies=stored,
                tokens=self.tokens,
            ),
            CredentialVault(cipher),
            clock=clock,
            metrics=Metrics(),
            settings=make_settings(),
            users_changed=lambda: self.dropped.append("users"),
            revocations_changed=revocations_changed,
        )

    async def follow(self, *items: ChangeEvent | Exception) -> None:
        """Follow what the feed says, until the view has another version."""
        async with self.following():
            version = await self.snapshot.changed(-1)
            for item in items:
                self.feed.items.put_nowait(item)
            async with asyncio.timeout(30):
                await self.snapshot.changed(version)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the feed."""
        following = asyncio.ensure_future(self.snapshot.follow())
        yield
        await end(following)

    async def moved_to(self, url: str) -> None:
        """Wait until calls to the server go to *url*."""
        version = -1
        async with asyncio.timeout(30):
            while self.url != url:
                version = await self.snapshot.changed(version)

    @property
    def url(self) -> str | None:
        """Return where calls to the server go."""
        route = self.snapshot.route("weather")
        return None if route is None else route.url


@pytest.fixture
async def followed(cipher: Cipher) -> Followed:
    """Return a snapshot that has been loaded."""
    followed = Followed(cipher)
    await followed.snapshot.load()
    return followed


CHANGED = ChangeEvent("mcpservers", SERVER)
MOVED = "http://127.0.0.1:9/moved"


async def test_a_change_is_applied_once_the_feed_tells_of_it(followed: Followed) -> None:
    before, followed.stored.url = followed.url, MOVED

    await followed.follow(CHANGED)

    assert (before, followed.url) == ("http://127.0.0.1:9/mcp", MOVED)


async def test_a_deleted_server_has_no_route(followed: Followed) -> None:
    followed.stored.url = None

    await followed.follow(CHANGED)

    assert followed.url is None


async def test_a_change_during_a_read_is_not_lost_with_what_was_read(followed: Followed) -> None:
    followed.stored.began.clear()
    followed.stored.may_end.clear()

    async with followed.following():
        followed.feed.items.put_nowait(CHANGED)
        await followed.stored.began.wait()
        followed.stored.url = MOVED
        followed.feed.items.put_nowait(CHANGED)
        followed.stored.may_end.set()
        await followed.moved_to(MOVED)

    assert followed.stored.reads == 3


async def test_a_lost_history_is_made_good_by_reading_everything(followed: Followed) -> None:
    followed.stored.url = MOVED
    followed.feed.items.put_nowait(HistoryLost())

    async with followed.following():
        await followed.moved_to(MOVED)

    assert followed.feed.opened_after == [0, None]


async def test_a_lost_connection_is_resumed_where_it_was(followed: Followed) -> None:
    followed.stored.url = MOVED

    await followed.follow(DatabaseUnavailable(), CHANGED)

    assert followed.url == MOVED
    assert followed.feed.opened_after == [0, 0]


@pytest.mark.parametrize(
    ("collection", "dropped"),
    [("users", "users"), ("groups", "users"), ("revoked_tokens", "revocations")],
)
async def test_a_change_of_callers_drops_what_is_known_of_them_and_reads_no_server(
    followed: Followed, collection: str, dropped: str
) -> None:
    followed.dropped.clear()
    reads = followed.stored.reads

    await followed.follow(ChangeEvent(collection, "a" * 24))

    assert (followed.dropped, followed.stored.reads) == ([dropped], reads)


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (ChangeEvent("tokens", "", "alice"), (frozenset({"alice"}), frozenset())),
        (ChangeEvent("tokens", "row", "alice"), (frozenset({"alice"}), frozenset())),
        (ChangeEvent("tokens", "row"), (frozenset(), frozenset({"row"}))),
    ],
    ids=["written", "written here", "deleted"],
)
async def test_a_changed_token_is_read_again_for_its_user_alone(
    followed: Followed, event: ChangeEvent, changes: tuple[frozenset[str], frozenset[str]]
) -> None:
    reads, cleared = followed.stored.reads, followed.tokens.cleared

    await followed.follow(event, ChangeEvent("users", "x"))

    assert followed.tokens.changes == [changes]
    assert (followed.stored.reads - reads, followed.tokens.cleared - cleared) == (0, 0)


async def test_any_token_may_have_changed_where_the_feed_cannot_say_which(
    followed: Followed,
) -> None:
    before = followed.tokens.cleared

    await followed.follow(ChangeEvent("tokens", ""), ChangeEvent("users", "x"))

    assert followed.tokens.cleared == before + 1


@pytest.mark.parametrize(
    ("config", "url", "forgotten"),
    [
        ({"title": "Weather"}, "http://127.0.0.1:9/mcp", []),
        ({}, MOVED, [SERVER]),
        ({"oauth": {"token_url": "https://as.example.com/token"}}, None, [SERVER]),
        ({"oauthMetadata": {"resource": MOVED}}, "http://127.0.0.1:9/mcp", [SERVER]),
        ({"requiresOAuth": False}, "http://127.0.0.1:9/mcp", [SERVER]),
    ],
    ids=["title", "url", "removed", "resource", "none needed"],
)
async def test_tokens_are_forgotten_with_the_place_that_they_are_for(
    followed: Followed, config: dict[str, Any], url: str | None, forgotten: list[str]
) -> None:
    followed.stored.config = {"requiresOAuth": True}
    await followed.follow(CHANGED)
    followed.stored.config |= config
    followed.stored.url = url

    await followed.follow(CHANGED)

    assert followed.tokens.forgotten == forgotten
