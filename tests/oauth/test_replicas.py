"""Users' tokens in processes of their own: three on one database, one of which may be killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.auth.jwt import TokenIssuer
from registry.auth.keys import load_signing_keys
from registry.core.clock import SystemClock
from tests.fakes.command import RunningRegistry, free_port
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.registry_process import registry_environment
from tests.gateway.eras import modern
from tests.kit.waiting import PROCESS_SECONDS, in_background, until, until_async

pytestmark = pytest.mark.wire

REPLICAS = 3
START_SECONDS = 90.0
"""Three at once on a busy machine; alone they take a few seconds."""


@dataclass
class Cluster:
    """Running registries, and a server that takes its users' own tokens."""

    registries: list[RunningRegistry]
    replicas: list[httpx.AsyncClient]
    outside: RunningOAuth
    server_id: str

    async def call(self, replica: int) -> dict[str, Any]:
        """Call a tool through a replica; return the result."""
        message, headers = modern("tools/call", {"name": "whoami", "arguments": {}})
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.replicas[replica].post(
            "/mcp/github",
            json=message,
            headers={"Accept": "application/json, text/event-stream", **sent},
        )
        found = answer.json()
        return dict(found.get("result") or found["error"])

    async def text(self, replica: int) -> str:
        """Call the tool that says whose token came; return what it says."""
        result = await self.call(replica)
        content = result.get("content") or [{}]
        return str(content[0].get("text"))

    async def authorize(self, replica: int = 0) -> None:
        """Authorise the registry as a person does in a browser."""
        page = await self.visit(replica)
        assert page.is_success, page.text

    async def visit(self, replica: int) -> httpx.Response:
        """Follow a link in a browser whose public URL leads to a replica; return the last page."""
        home, here = self.registries[0].url, self.registries[replica].url
        path = f"/api/v1/mcp/{self.server_id}/oauth/initiate"
        begun = (await self.replicas[replica].get(path)).raise_for_status()
        link = begun.json()["authorizationUrl"].replace(home, here)
        async with httpx.AsyncClient(timeout=PROCESS_SECONDS) as browser:
            (await browser.get(link)).raise_for_status()
            page = await browser.post(link)
            while page.next_request is not None:
                page = await browser.get(str(page.next_request.url).replace(home, here))
        return page


@pytest.fixture
async def cluster(
    tmp_path: Path,
    database: Database,
    database_uri: str,
    key_files: tuple[Path, Path],
    alice: UserContext,
) -> AsyncIterator[Cluster]:
    """Return replicas that know an OAuth server, at which nobody has authorised them yet."""
    port = free_port()
    environment = registry_environment(database_uri, key_files, f"http://127.0.0.1:{port}")
    issuer = TokenIssuer(
        load_signing_keys(*key_files),
        issuer="mcp-gateway-registry",
        audience="mcp-gateway",
        clock=SystemClock(),
    )
    await database.collection("users").insert_one(
        {"_id": ObjectId(alice.user_id), "username": "alice", "role": "USER"}
    )
    token = issuer.issue(
        user_id=alice.user_id,
        username=alice.username,
        role=alice.role,
        scopes=alice.held_scopes,
        lifetime=timedelta(minutes=10),
    )
    async with serving_oauth() as outside:
        with ExitStack() as processes:
            registries = [
                processes.enter_context(RunningRegistry(tmp_path, environment, port=one))
                for one in (port, *(None for _ in range(REPLICAS - 1)))
            ]
            for registry in registries:
                await asyncio.to_thread(registry.wait_until_ready, START_SECONDS)
            replicas = [
                httpx.AsyncClient(
                    base_url=registry.url,
                    timeout=PROCESS_SECONDS,
                    headers={"Authorization": f"Bearer {token}"},
                )
                for registry in registries
            ]
            body = {"serverName": "github", "url": outside.url, "requiresOAuth": True}
            made = await replicas[0].post("/api/v1/servers", json=body)
            assert made.status_code == 201, made.text
            yield Cluster(registries, replicas, outside, made.json()["id"])
            for replica in replicas:
                await replica.aclose()


async def authorized(cluster: Cluster) -> None:
    """Authorise the registry, and wait until calls through all replicas come through."""
    await cluster.authorize()

    async def all_know() -> bool:
        texts = await asyncio.gather(*(cluster.text(number) for number in range(REPLICAS)))
        return texts == ["ada"] * REPLICAS

    await until_async(all_know)


@pytest.mark.requirement("E-10")
async def test_calls_through_three_processes_with_one_expired_token_make_one_refresh(
    cluster: Cluster,
) -> None:
    await authorized(cluster)
    provider = cluster.outside.provider
    provider.expire()

    texts = await asyncio.gather(*(cluster.text(number % REPLICAS) for number in range(100)))

    assert texts == ["ada"] * 100
    assert (provider.counts["refresh"], provider.counts["reuse"]) == (1, 0)


async def test_a_process_that_is_killed_before_it_stores_tokens_leaves_who_must_authorise_again(
    cluster: Cluster,
) -> None:
    await authorized(cluster)
    provider, protected = cluster.outside.provider, cluster.outside.protected
    provider.expire()

    @asynccontextmanager
    async def killed(replica: int) -> AsyncIterator[None]:
        """Kill a process as soon as it asks for tokens; its request breaks off."""
        provider.switches.delay, before = PROCESS_SECONDS, provider.counts["token"]

        async def kill() -> None:
            await until(lambda: provider.counts["token"] > before, PROCESS_SECONDS)
            cluster.registries[replica].end(signal.SIGKILL)

        async with in_background(kill()):
            with pytest.raises(httpx.TransportError):
                yield
        provider.switches.delay = 0

    async with killed(1):
        await cluster.call(1)
    refused = await cluster.text(2)
    await cluster.authorize()
    after = [await cluster.text(number) for number in (0, 2)]
    revoked = await cluster.replicas[2].delete(f"/api/v1/mcp/{cluster.server_id}/oauth/token")
    async with killed(0):
        await cluster.authorize()
    refused_again = await cluster.text(2)
    await cluster.authorize(2)
    at_last = await cluster.text(2)
    protected.issuers = (cluster.registries[2].url,)
    own = await cluster.visit(2)

    assert revoked.is_success
    for answer in (refused, refused_again):
        assert "/api/v1/mcp/oauth/start?ticket=" in answer
    assert [*after, at_last] == ["ada", "ada", "ada"]
    # A server that names the registry as its authorization server gets no token of it.
    assert (own.status_code, "publishes no metadata" in own.text) == (502, True)
    gateway_token = cluster.replicas[0].headers["authorization"].removeprefix("Bearer ")
    assert protected.offered
    assert gateway_token not in protected.offered
