"""The real application over HTTP in this process, and people with tokens for it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from registry.auth.identity import UserContext
from registry.core.settings import Settings
from registry.main import Application, application
from registry.wiring import Components

BASE_URL = "http://127.0.0.1:7860"
SERVERS = "/api/v1/servers"
NO_CHANGES: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Rest:
    """A running registry and a client for it.

    Attributes:
        client: Sends no token by itself.
    """

    app: Application
    parts: Components
    client: httpx.AsyncClient

    def token(self, user: UserContext, lifetime: timedelta = timedelta(minutes=5)) -> str:
        """Return a token of our own for *user*."""
        return self.parts.issuer.issue(
            user_id=user.user_id,
            username=user.username,
            role=user.role,
            scopes=user.scopes,
            lifetime=lifetime,
        )

    async def call(
        self,
        user: UserContext,
        method: str,
        path: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Send a request about servers on behalf of *user*; *path* follows `/api/v1/servers`."""
        sent = {"Authorization": f"Bearer {self.token(user)}", **(headers or {})}
        return await self.client.request(method, SERVERS + path, headers=sent, **request)

    async def register(
        self, user: UserContext, name: str, url: str, **fields: object
    ) -> dict[str, Any]:
        """Register a server and return the answer's body."""
        answer = await self.call(
            user, "POST", json={"serverName": name, "url": url, **fields}
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Rest]:
    """Start the application and connect a client to it."""
    async with application(settings) as (app, parts):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=30) as client:
            yield Rest(app, parts, client)
