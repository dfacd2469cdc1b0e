"""Revocation on two replicas that share a database, at the gateway, and from the command line."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from jose import jwt
from mcp.server.mcpserver import MCPServer

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from tests.fakes.rest import Rest, rest_settings, running
from tests.gateway.serving import serve

pytestmark = pytest.mark.wire

IN_FORCE_SECONDS = 3.0
"""A second, and what another process may take from it."""
PATIENCE_SECONDS = 10.0
ACCEPT = "application/json, text/event-stream"


@dataclass(frozen=True, slots=True)
class Replicas:
    """Two applications on one database."""

    here: Rest
    there: Rest


@pytest.fixture
async def replicas(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[Replicas]:
    settings = rest_settings(mongo_uri, key_files, tmp_path)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(running(settings))
        there = await stack.enter_async_context(running(settings))
        yield Replicas(here, there)


@pytest.fixture
def user() -> UserContext:
    return UserContext(uuid.uuid4().hex[:24], "vera", Role.USER, USER_SCOPES)


async def generate(rest: Rest, user: UserContext) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/tokens/generate", json={"expires_in_hours": 1})
    return dict(answer.json()["tokens"])


async def status(rest: Rest, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return (await rest.client.get("/api/v1/servers", headers=headers)).status_code


async def refused_after(rest: Rest, token: str) -> float:
    """Wait until *token* is refused and return how many seconds that took."""
    clock = SystemClock()
    began_at = clock.monotonic()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await status(rest, token) != 401:
            await clock.sleep(0.01)
    return clock.monotonic() - began_at


@pytest.mark.requirement("R-249")
@pytest.mark.requirement("R-267")
@pytest.mark.parametrize("what", ["family", "bare token", "user"])
async def test_a_revocation_is_in_force_everywhere_within_a_second(
    replicas: Replicas, user: UserContext, root: UserContext, what: str
) -> None:
    here, there = replicas.here, replicas.there
    family = (await generate(here, user))["access_token"]
    token = family if what == "family" else here.token(user)
    jti = jwt.get_unverified_claims(token)["jti"]
    body = {"user_id": user.user_id} if what == "user" else {"jti": jti}
    more = {"unrecorded": True} if what == "bare token" else {}
    assert [await status(rest, token) for rest in (here, there)] == [200, 200]

    answer = await here.ask(root, "POST", "/tokens/revoke", json={**body, **more})
    at_once = await status(here, token)
    seconds = await refused_after(there, token)

    assert answer.status_code == 200
    assert at_once == 401
    assert seconds < IN_FORCE_SECONDS
    assert await status(there, there.token(root)) == 200


@pytest.mark.requirement("R-267")
async def test_a_replica_that_starts_later_knows_what_was_revoked(
    replicas: Replicas, user: UserContext
) -> None:
    token = (await generate(replicas.here, user))["access_token"]
    jti = jwt.get_unverified_claims(token)["jti"]
    await replicas.here.ask(user, "POST", "/tokens/revoke", json={"jti": jti})

    async with running(replicas.here.parts.settings) as later:
        assert await status(later, token) == 401


async def test_a_refresh_token_is_exchanged_once_over_all_replicas(
    replicas: Replicas, user: UserContext
) -> None:
    refresh_token = (await generate(replicas.here, user))["refresh_token"]

    answers = await asyncio.gather(
        *(
            rest.client.post(
                "/api/v1/tokens/refresh-session", json={"refresh_token": refresh_token}
            )
            for rest in (replicas.here, replicas.there) * 5
        )
    )

    good = [answer for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    token = good[0].json()["tokens"]["access_token"]
    for rest in (replicas.here, replicas.there):
        await refused_after(rest, token)


async def test_a_remembered_caller_costs_no_database_read(
    replicas: Replicas, user: UserContext
) -> None:
    rest = replicas.here
    token = f"Bearer {(await generate(rest, user))['access_token']}"
    await rest.parts.authenticator.authenticate(token)
    before = sent(rest)

    for _ in range(100):
        assert rest.parts.authenticator.cached(token) is not None

    assert sent(rest) == before


def sent(rest: Rest) -> float:
    """Return how many reads the database was asked for."""
    metric = rest.parts.metrics.registry.get_sample_value
    name = "mongodb_command_duration_seconds_count"
    return sum(
        metric(name, {"command": command, "outcome": "success"}) or 0
        for command in ("find", "aggregate")
    )


@dataclass(slots=True)
class Slow:
    """A tool that ends when it is told to."""

    url: str
    entered: asyncio.Event
    may_end: asyncio.Event


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    server = MCPServer("slow")
    entered, may_end = asyncio.Event(), asyncio.Event()

    @server.tool()
    async def wait() -> str:
        """Wait."""
        entered.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await may_end.wait()
        return "done"

    async with serve(server.streamable_http_app(), lifespan=True) as url:
        yield Slow(f"{url}/mcp", entered, may_end)


async def call(rest: Rest, token: str) -> httpx.Response:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "wait",
            "arguments": {},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": ACCEPT,
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "wait",
    }
    return await rest.client.post("/mcp/slow", json=body, headers=headers)


@pytest.mark.requirement("E-05")
async def test_a_call_in_flight_ends_and_the_next_one_is_refused(
    replicas: Replicas, user: UserContext, slow: Slow
) -> None:
    rest = replicas.here
    owner = UserContext(user.user_id, "vera", Role.ADMIN, ALL_SCOPES)
    await rest.register(owner, "slow", slow.url)
    token = (await generate(rest, owner))["access_token"]
    jti = jwt.get_unverified_claims(token)["jti"]

    async with asyncio.TaskGroup() as group:
        calling = group.create_task(call(rest, token))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await slow.entered.wait()
        await rest.ask(owner, "POST", "/tokens/revoke", json={"jti": jti})
        refused = await call(rest, token)
        slow.may_end.set()

    assert calling.result().status_code == 200
    assert "done" in calling.result().text
    assert refused.status_code == 401
    records = rest.parts.database.collection("audit_logs")
    assert await records.count_documents({"action": "revoke", "entity_type": "session"}) == 1
