"""A server that changed its protocol era is asked, and what it speaks is stored."""

from typing import Any

import pytest
from aiohttp import web

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.credentials import CredentialVault
from registry.servers.errors import DiscoveryFailedError, UserKeyMissingError
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.reconciliation.store import ServerRepositories, ServerStore
from registry.servers.schemas import ServerCreate
from registry.sync.discovery import DiscoveryService
from registry.sync.eras import EraProber
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from tests.fakes.connections import quiet_tracker
from tests.fakes.upstreams import TOOL, Handler, mcp, serve, tools, wants
from tests.kit.servers import read_and_store, server_service

pytestmark = pytest.mark.wire


class Changing:
    """An upstream that becomes another one."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the present one."""
        self.requests += 1
        return await self.handler(request)


LEGACY, MODERN = mcp(tools(TOOL)), mcp(tools(TOOL), modern=True)


class Parts:
    """What registers and what probes, on one database."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        repositories: ServerRepositories,
        cipher: Cipher,
    ) -> None:
        clock, metrics = SystemClock(), Metrics()
        discovery = DiscoveryService(
            UrlGuard(("127.0.0.0/8",)),
            Instance.of([bytes(32)]),
            settings=settings,
            clock=clock,
            metrics=metrics,
        )
        self.database = database
        self.repositories = repositories
        self.prober = EraProber(
            repositories.servers,
            ServerStore(database, repositories, clock, failures_until_error=3),
            ServerReader(
                CredentialVault(cipher),
                discovery,
                repositories.plugin_auths,
                repositories.servers,
                clock,
            ),
            discovery,
            quiet_tracker(),
        )
        upstreams = read_and_store(database, repositories, cipher, discovery)
        self.servers = server_service(repositories, cipher, upstreams)

    async def register(self, url: str, user: UserContext, **fields: Any) -> str:
        """Register an upstream and return the server's id."""
        body = {"serverName": "weather", "url": f"{url}/mcp", **fields}
        request = ServerCreate.model_validate(body)
        return (await self.servers.register(request, user, strict=True)).id

    async def stored(self, server_id: str) -> tuple[object, object]:
        """Return the stored eras and version."""
        server = await self.repositories.servers.get_unchecked(server_id)
        assert server is not None
        return server.registry["eras"], server.registry["protocol_version"]

    async def records(self) -> list[tuple[str, str, Any]]:
        """Return what the audit trail says of refreshes."""
        found = await self.database.collection("audit_logs").find({"action": "refresh"}).to_list()
        return [(row["username"], row["outcome"], row["changes"]) for row in found]


@pytest.fixture
def parts(
    settings: Settings, database: Database, repositories: ServerRepositories, cipher: Cipher
) -> Parts:
    return Parts(settings, database, repositories, cipher)


async def test_another_era_is_stored_and_recorded_once(parts: Parts, alice: UserContext) -> None:
    upstream = Changing(wants("Authorization", "Bearer k", LEGACY))
    async with serve(upstream.answer) as url:
        server_id = await parts.register(url, alice, apiKey={"key": "k"})
        before = await parts.stored(server_id)
        upstream.handler = wants("Authorization", "Bearer k", MODERN)

        await parts.prober.probe(server_id)
        await parts.prober.probe(server_id)

        assert before == (["legacy"], "2025-11-25")
        assert await parts.stored(server_id) == (["modern"], "2026-07-28")
        assert await parts.records() == [
            (
                "operator",
                "success",
                {"before": {"eras": ["legacy"]}, "after": {"eras": ["modern"]}},
            )
        ]


async def test_an_unchanged_server_is_not_written(parts: Parts, alice: UserContext) -> None:
    async with serve(LEGACY) as url:
        server_id = await parts.register(url, alice)
        before = await parts.database.collection("mcpservers").find_one({})

        await parts.prober.probe(server_id)

        assert await parts.database.collection("mcpservers").find_one({}) == before


async def test_a_server_that_is_away_keeps_what_is_stored(
    parts: Parts, alice: UserContext
) -> None:
    async with serve(LEGACY) as url:
        server_id = await parts.register(url, alice)
    before = await parts.stored(server_id)

    with pytest.raises(DiscoveryFailedError):
        await parts.prober.probe(server_id)

    assert await parts.stored(server_id) == before


async def test_a_server_whose_users_bring_keys_is_not_asked_without_one(
    parts: Parts, alice: UserContext
) -> None:
    upstream = Changing(LEGACY)
    async with serve(upstream.answer) as url:
        key = {"key": "k", "source": "user"}
        server_id = await parts.register(url, alice, apiKey=key)
        upstream.requests = 0

        with pytest.raises(UserKeyMissingError):
            await parts.prober.probe(server_id)

    assert upstream.requests == 0


async def test_a_server_that_is_off_is_not_asked(parts: Parts, alice: UserContext) -> None:
    upstream = Changing(LEGACY)
    async with serve(upstream.answer) as url:
        server_id = await parts.register(url, alice)
        await parts.servers.toggle(server_id, alice, enabled=False)
        upstream.requests = 0

        await parts.prober.probe(server_id)

    assert upstream.requests == 0
