"""A registry as a process of its own, behind a proxy that adds a user's token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.fakes.bearer_proxy import BearerProxy, bearer_proxy
from tests.fakes.command import RunningRegistry, run_registry
from tests.fakes.renaming import Renaming

USER_ID = "a" * 24
REGISTER_SECONDS = 30


@dataclass(frozen=True, slots=True)
class FrontedRegistry:
    """A registry and a proxy before it.

    Attributes:
        url: Of the proxy. What comes that way is a user's.
    """

    url: str
    _proxy: BearerProxy

    async def register(self, slug: str, upstream: str) -> None:
        """Register a server."""
        async with httpx.AsyncClient(base_url=self.url, timeout=REGISTER_SECONDS) as client:
            body = {"serverName": slug, "url": upstream}
            answer = await client.post("/api/v1/servers", json=body)
            assert answer.status_code == 201, answer.text

    def give_names_back_of(self, slug: str) -> None:
        """Let a server's tools and prompts have their own names on `/mcp` from now on."""
        self._proxy.renaming = Renaming(slug)


def registry_environment(
    database_uri: str, key_files: tuple[Path, Path], public_url: str
) -> dict[str, str]:
    """Return the settings of a registry that may reach upstreams on loopback."""
    private, public = key_files
    return {
        "MONGO_URI": database_uri,
        "CREDS_KEY": "0f" * 32,
        "CREDS_IV": "1e" * 16,
        "JWT_PRIVATE_KEY_FILE": str(private),
        "JWT_PUBLIC_KEY_FILE": str(public),
        "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8",
        "PUBLIC_URL": public_url,
    }


@asynccontextmanager
async def registry_in_front_of(
    slug: str, upstream: str, database_uri: str, key_files: tuple[Path, Path], folder: Path
) -> AsyncIterator[FrontedRegistry]:
    """Start a registry, register *upstream* over REST, and yield it.

    On `/mcp` its proxy gives the tools and prompts of this server their own names back.
    """
    async with bearer_proxy(Renaming(slug)) as (proxy, url):
        environment = registry_environment(database_uri, key_files, url)
        arguments = ("token", "create", "--user-id", USER_ID, "--username", "alice")
        made = await asyncio.to_thread(run_registry, folder, environment, *arguments)
        assert made.returncode == 0, made.stderr
        with RunningRegistry(folder, environment) as registry:
            await asyncio.to_thread(registry.wait_until_ready)
            proxy.upstream, proxy.token = registry.url, made.stdout.strip()
            fronted = FrontedRegistry(url, proxy)
            await fronted.register(slug, upstream)
            yield fronted
