"""On a MongoDB that is no replica set: refused, or, if a setting allows it, read only."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from bson import ObjectId
from pydantic import SecretStr

from packages.database.client import Database, TopologyError
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.main import application
from registry.wiring.components import Components
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon
from tests.fakes.rest import BASE_URL, Rest

pytestmark = [pytest.mark.wire, pytest.mark.usefixtures("collected")]

IN_FORCE_SECONDS = 1.0


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what the driver leaves open, before the next test."""
    yield
    gc.collect()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with start_daemon(tmp_path / "own", "--standalone") as daemon:
        yield daemon


@pytest.fixture
def standalone(settings: Settings, daemon: RunningDaemon) -> Settings:
    changes = {"mongo_uri": SecretStr(f"{daemon.uri}own"), "mongo_standalone_allowed": True}
    return settings.model_copy(update=changes)


async def deny_all(daemon: RunningDaemon) -> Callable[[], Awaitable[None]]:
    """Deny all tools to everyone, and return what allows them again."""
    database = Database(f"{daemon.uri}own", timeout_ms=2000)
    policies = database.collection("access_policies")
    now = datetime.now(UTC)  # noqa: TID251 - as others write it
    await policies.insert_one(
        {
            "name": "nothing",
            "effect": "deny",
            "is_enabled": True,
            "source_type": "mcp",
            "everyone": True,
            "revision": 1,
            "created_at": now,
            "updated_at": now,
        }
    )

    async def remove() -> None:
        await policies.delete_many({})
        await database.close()

    return remove


async def seconds_until(
    parts: Components, tools: list[str] | None, user: UserContext | None = None
) -> float:
    """Return how long it takes until the gateway has the tools for a caller, or no route."""
    clock = SystemClock()
    began_at = clock.monotonic()
    async with asyncio.timeout(30):
        while True:
            route = parts.snapshot.route("raw")
            if route is not None and route.policies is not None and user is not None:
                route = route.policies.seen_by(user)
            if (None if route is None else list(route.tools)) == tools:
                return clock.monotonic() - began_at
            await clock.sleep(0.01)


def server(author: str) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "serverName": "raw",
        "author": ObjectId(author),
        "scope": "shared_app",
        "config": {"type": "streamable-http", "url": "http://127.0.0.1:9/mcp"},
        "registry": {"auto_expose": "all"},
        "updatedAt": datetime(2026, 1, 1, tzinfo=UTC),
    }


def tool(owner: ObjectId, name: str) -> dict[str, Any]:
    return {
        "source_type": "mcp",
        "owner_id": owner,
        "name": name,
        "definition": f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}',
        "input_schema": "{}",
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0",
        "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
    }


async def test_it_is_refused_without_the_setting(standalone: Settings) -> None:
    plain = standalone.model_copy(update={"mongo_standalone_allowed": False})

    with pytest.raises(TopologyError):
        async with application(plain):
            pass


async def test_what_others_write_is_served_within_a_second_and_nothing_can_be_changed(
    standalone: Settings, daemon: RunningDaemon, root: UserContext
) -> None:
    database = Database(f"{daemon.uri}own", timeout_ms=2000)
    servers, tools = database.collection("mcpservers"), database.collection("mcp_tools")
    async with application(standalone) as (app, parts):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            rest = Rest(app, parts, client)
            raw = server(root.user_id)
            await servers.insert_one(raw)
            await tools.insert_many([tool(raw["_id"], "a"), tool(raw["_id"], "b")])
            seconds = [await seconds_until(parts, ["a", "b"])]
            await tools.delete_one({"name": "a"})
            seconds.append(await seconds_until(parts, ["b"]))
            allow_again = await deny_all(daemon)
            seconds.append(await seconds_until(parts, [], root))
            await allow_again()
            seconds.append(await seconds_until(parts, ["b"], root))
            off = {"$set": {"status": "inactive", "updatedAt": datetime.now(UTC)}}  # noqa: TID251 - as mongoose does
            await servers.update_one({"_id": raw["_id"]}, off)
            seconds.append(await seconds_until(parts, None))

            listed = await rest.call(root, "GET")
            refused = await rest.call(
                root, "POST", json={"serverName": "x", "url": "http://127.0.0.1:9/mcp"}
            )
            ready = await client.get("/health/ready")
    await database.close()

    assert median(seconds) < IN_FORCE_SECONDS
    assert [item["serverName"] for item in listed.json()["servers"]] == ["raw"]
    assert refused.status_code == 503
    assert "replica set" in refused.json()["message"]
    assert ready.json()["snapshot"]["mode"] == "polling"
