"""The registry registered in itself, and two registries in each other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.conftest import ALICE
from tests.fakes.rest import Rest, rest_settings, running
from tests.fakes.upstreams import TOOL, mcp, serve, tools
from tests.gateway.serving import serve as serve_asgi

LEADS_BACK = "leads back to this registry"


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry and its address."""

    rest: Rest
    url: str

    async def add(self, other: "Registry", path: str, name: str) -> dict[str, Any]:
        """Register a path of *other* here, with a token for it."""
        api_key = {
            "source": "admin",
            "authorization_type": "bearer",
            "key": other.rest.token(ALICE),
        }
        return await self.rest.register(ALICE, name, other.url + path, apiKey=api_key)

    async def tools(self) -> list[str]:
        """Return what a client finds on the combined path."""
        answer = await self.rest.client.post(
            f"{self.url}/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            headers={
                "Authorization": f"Bearer {self.rest.token(ALICE)}",
                "Accept": "application/json, text/event-stream",
            },
        )
        return sorted(tool["name"] for tool in answer.json()["result"]["tools"])

    async def refresh(self, server: dict[str, Any]) -> dict[str, Any]:
        """Read a server anew."""
        answer = await self.rest.call(ALICE, "POST", f"/{server['id']}/refresh")
        return dict(answer.json())


@asynccontextmanager
async def registries(
    mongo_uri: str, key_files: tuple[Path, Path], home: Path, count: int
) -> AsyncIterator[list[Registry]]:
    """Run registries of deployments of their own, each with a database of its own."""
    async with AsyncExitStack() as stack:
        started = []
        for number in range(count):
            settings = rest_settings(
                mongo_uri,
                key_files,
                home,
                creds_key=SecretStr(f"{number:02x}" * 32),
                sync_max_attempts=1,
            )
            rest = await stack.enter_async_context(running(settings))
            started.append(Registry(rest, await stack.enter_async_context(serve_asgi(rest.app))))
        yield started


@pytest.mark.parametrize("path", ["/mcp", "/mcp/tools"])
async def test_a_registry_is_not_registered_in_itself(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, path: str
) -> None:
    async with (
        serve(mcp(tools(TOOL))) as upstream,
        registries(mongo_uri, key_files, tmp_path, 1) as [one],
    ):
        await one.rest.register(ALICE, "tools", upstream)
        server = await one.add(one, path, "itself")
        tried = await one.rest.call(
            ALICE, "POST", "/connection", json={"url": one.url + path, "type": "streamable-http"}
        )
        refreshed = await one.refresh(server)
        job = await one.rest.ask(ALICE, "POST", f"/sync/owners/{server['id']}")
        done = await one.rest.job(ALICE, job.json()["job"]["id"])
        listed = await one.tools()

    assert (server["status"], server["numTools"]) == ("error", 0)
    assert LEADS_BACK in server["errorMessage"]
    assert LEADS_BACK in tried.text
    assert LEADS_BACK in str(refreshed)
    assert LEADS_BACK in str(done)
    assert listed == ["tools__echo"]


async def test_two_registries_in_each_other_do_not_grow(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with (
        serve(mcp(tools(TOOL))) as upstream,
        registries(mongo_uri, key_files, tmp_path, 2) as [one, two],
    ):
        await one.rest.register(ALICE, "tools", upstream)
        there = await two.add(one, "/mcp", "one")
        back = await one.add(two, "/mcp", "two")
        refreshed = []
        for _ in range(3):
            await two.refresh(there)
            refreshed.append(await one.refresh(back))

        listed = await one.tools(), await two.tools()

    assert LEADS_BACK in str(refreshed)
    assert listed == (["tools__echo"], ["one__tools__echo"])
