"""The provider and the server that it protects, on sockets of this process or as a process."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp

from tests.fakes.oauth.authorization_server import authorization_server
from tests.fakes.oauth.protected_server import Protected, needs_write, whoami_server
from tests.fakes.oauth.provider import Provider
from tests.gateway.serving import serve


@dataclass(frozen=True, slots=True)
class RunningOAuth:
    """A provider and a server.

    Attributes:
        url: Of the MCP server.
    """

    provider: Provider
    protected: Protected
    url: str

    @property
    def issuer(self) -> str:
        """Return the provider's URL."""
        return self.provider.issuer


@asynccontextmanager
async def serving_oauth(
    *,
    path: str = "",
    app: ASGIApp | None = None,
    ports: tuple[int, int] | None = None,
) -> AsyncIterator[RunningOAuth]:
    """Serve both on two origins.

    Args:
        path: Path of the issuer.
        app: The MCP server; the SDK's `whoami` server by default.
        ports: Of the provider and the server; free ones by default.
    """
    provider_port, server_port = ports or (free_port(), free_port())
    provider = Provider(f"http://127.0.0.1:{provider_port}{path}")
    url = f"http://127.0.0.1:{server_port}/mcp"
    protected = Protected(app or whoami_server(), provider, url, needs=needs_write)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(authorization_server(provider), port=provider_port))
        await stack.enter_async_context(serve(protected, port=server_port, lifespan=True))
        yield RunningOAuth(provider, protected, url)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def _run() -> None:
    ports = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else None
    async with serving_oauth(ports=ports) as running:
        print(f"provider {running.issuer}", flush=True)
        print(f"server {running.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run())
