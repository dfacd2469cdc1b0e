"""The real application over HTTP in this process, and people with tokens for it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from pymongo.asynchronous.database import AsyncDatabase

from registry.auth.identity import UserContext
from registry.core.settings import Settings
from registry.gateway.view.pending import WATCHED
from registry.main import Application, application
from registry.wiring.components import Components
from tests.fakes.databases import NEW_DATABASES
from tests.gateway.eras import modern

JWT_SECRET = "a secret that jarvis-api shares"
BASE_URL = "http://127.0.0.1:7860"
SERVERS = "/api/v1/servers"
JOB_SECONDS = 20.0
FINISHED = frozenset({"succeeded", "dead", "cancelled"})
FOLLOWED = frozenset(watched.collection for watched in WATCHED)
"""Collections of which the application holds something in memory."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A running registry and a client for it.

    Attributes:
        client: Sends no token by itself.
    """

    app: Application
    parts: Components
    client: httpx.AsyncClient
    _tokens: dict[UserContext, str] = field(default_factory=dict)

    def token(self, user: UserContext) -> str:
        """Return a token of our own for *user*, always the same."""
        if user not in self._tokens:
            self._tokens[user] = self.parts.issuer.issue(
                user_id=user.user_id,
                username=user.username,
                role=user.role,
                scopes=user.held_scopes,
                lifetime=timedelta(minutes=5),
                is_service_account=True,
            )
        return self._tokens[user]

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

    async def ask(
        self, user: UserContext, method: str, path: str, **request: Any
    ) -> httpx.Response:
        """Send a request on behalf of *user*; *path* follows `/api/v1`."""
        sent = {"Authorization": f"Bearer {self.token(user)}", **request.pop("headers", {})}
        return await self.client.request(method, f"/api/v1{path}", headers=sent, **request)

    async def call_tool(self, user: UserContext, slug: str, tool: str, **arguments: Any) -> str:
        """Call a tool through the gateway in the stateless era; return the answer's text."""
        message, headers = modern("tools/call", {"name": tool, "arguments": arguments})
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Authorization"] = f"Bearer {self.token(user)}"
        answer = await self.client.post(f"/mcp/{slug}", json=message, headers=sent)
        return answer.text

    async def job(
        self, user: UserContext, job_id: str, *, until: frozenset[str] = FINISHED
    ) -> dict[str, Any]:
        """Wait until a job is in one of some states, and return it with its attempts."""
        async with asyncio.timeout(JOB_SECONDS):
            while True:
                job: dict[str, Any] = (await self.ask(user, "GET", f"/sync/jobs/{job_id}")).json()
                if job["state"] in until:
                    return job
                await self.parts.clock.sleep(0.02)

    async def jobs(
        self, user: UserContext, server: Mapping[str, Any], *, at_least: int = 0
    ) -> list[dict[str, Any]]:
        """Wait until so many jobs of a server are finished, and none is open; newest first."""
        query = {"owner_id": server["id"]}
        async with asyncio.timeout(JOB_SECONDS):
            while True:
                jobs: list[dict[str, Any]] = (
                    await self.ask(user, "GET", "/sync/jobs", params=query)
                ).json()["jobs"]
                if len(jobs) >= at_least and all(job["state"] in FINISHED for job in jobs):
                    return jobs
                await self.parts.clock.sleep(0.02)

    async def register(
        self, user: UserContext, name: str, url: str, **fields: object
    ) -> dict[str, Any]:
        """Register a server and return the answer's body."""
        answer = await self.call(user, "POST", json={"serverName": name, "url": url, **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def follow(self) -> None:
        """Let lists show what was written past the services, as they do a moment later."""
        await self.parts.snapshot.load()

    async def forget_everything(self) -> None:
        """Empty the database, as if the application had just started on a new one."""
        database = self.parts.database.db
        names = await _collections_with_documents(database)
        for name in names:
            await database[name].delete_many({})
        self.parts.authenticator.forget_users()
        if not FOLLOWED.isdisjoint(names) or self.parts.snapshot.routes():
            await self.follow()


async def _collections_with_documents(database: AsyncDatabase[Any]) -> list[str]:
    """Ask once for all collections: most are empty, and there are tests by the thousand."""

    def name_of_one(collection: str) -> list[dict[str, Any]]:
        return [{"$limit": 1}, {"$project": {"_id": {"$literal": collection}}}]

    first, *others = await database.list_collection_names()
    unions = [{"$unionWith": {"coll": other, "pipeline": name_of_one(other)}} for other in others]
    async with await database[first].aggregate([*name_of_one(first), *unions]) as found:
        return [one["_id"] async for one in found]


def rest_settings(
    mongo_uri: str, key_files: tuple[Path, Path], home: Path, **changed: object
) -> Settings:
    """Return settings for a registry with a new database, which may reach loopback."""
    base, question, options = mongo_uri.partition("?")
    name = f"test_{uuid.uuid4().hex}"
    NEW_DATABASES.append(name)
    values: dict[str, Any] = {
        "mongo_uri": SecretStr(f"{base.rstrip('/')}/{name}{question}{options}"),
        "creds_key": SecretStr("0f" * 32),
        "creds_iv": SecretStr("1e" * 16),
        "jwt_private_key_file": key_files[0],
        "jwt_public_key_file": key_files[1],
        "jwt_secret": SecretStr(JWT_SECRET),
        "registry_home": home,
        "upstream_allowed_networks": ("127.0.0.0/8", "::1/128"),
        "public_url": BASE_URL,
        "upstream_connect_timeout_seconds": 2,
        "discovery_timeout_seconds": 5,
        "search_model": "none",
    }
    return Settings(**{**values, **changed})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Rest]:
    """Start the application and connect a client to it."""
    async with application(settings) as (app, parts):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=30) as client:
            yield Rest(app, parts, client)
