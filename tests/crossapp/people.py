"""People whom the other application knows and signs tokens for, as they use ours."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
from bson import ObjectId

from registry.core.clock import SystemClock
from tests.crossapp.other_application import Doc, OtherApplication
from tests.fakes.rest import SERVERS, Rest

TOKENS = "/api/v1/tokens"
PERMISSIONS = "/api/v1/permissions/mcpServer"
FOLLOW_SECONDS = 30
POLL_SECONDS = 0.02
LIFETIME_MS = 300_000


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an access token of the other application."""

    user_id: ObjectId
    token: str
    rest: Rest

    @property
    def authorization(self) -> dict[str, str]:
        """Return the Authorization header."""
        return {"Authorization": f"Bearer {self.token}"}

    async def ask(
        self, method: str, path: str = "", *, status: int = 200, **request: Any
    ) -> dict[str, Any]:
        """Send a request about servers, expect *status*, and return the body."""
        return await self.send(method, SERVERS + path, status=status, **request)

    async def send(
        self, method: str, path: str, *, status: int = 200, **request: Any
    ) -> dict[str, Any]:
        """Send a request, expect *status*, and return the body."""
        answer = await self.rest.client.request(
            method, path, headers=self.authorization, **request
        )
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def sees(self) -> list[str]:
        """Return the names of the servers in this person's list."""
        page = await self.ask("GET")
        return sorted(server["serverName"] for server in page["servers"])

    async def call_tool(self, slug: str, text: str = "hello") -> httpx.Response:
        """Call `echo` through the gateway."""
        return await self.rest.client.post(
            f"/mcp/{slug}",
            headers={**self.authorization, "Accept": "application/json, text/event-stream"},
            json={
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "echo", "arguments": {"text": text}},
            },
        )

    async def may_call(self, slug: str) -> bool:
        """Whether the gateway lets this person through."""
        answer = await self.call_tool(slug)
        assert answer.status_code in {200, 404}, answer.text
        return answer.status_code == 200

    async def until_served(self, slug: str, *, served: bool = True) -> None:
        """Wait until the gateway has heard of a change of the database."""
        await until(lambda: self.may_call(slug), outcome=served)


async def until(question: Callable[[], Awaitable[bool]], *, outcome: bool = True) -> None:
    """Wait for an answer."""
    async with asyncio.timeout(FOLLOW_SECONDS):
        while await question() is not outcome:
            await SystemClock().sleep(POLL_SECONDS)


async def person(rest: Rest, other: OtherApplication, name: str, **fields: object) -> Person:
    """Let the other application create a user and sign a token."""
    user: Doc = await other.call(
        "methods.createUser",
        {"username": name, "name": name, "email": f"{name}@example.org", **fields},
        {"enabled": False},
        True,
        True,
    )
    # As strings, which is what the package signs: extended JSON would make it an object here.
    signed = {**user, "_id": str(user["_id"])}
    token = await other.call("methods.generateToken", signed, LIFETIME_MS)
    return Person(user["_id"], token, rest)


async def share(
    other: OtherApplication,
    server: Doc,
    principal_type: str,
    principal_id: object,
    access_role: str,
    *more: object,
) -> None:
    """Grant what an access role stands for, as the other application's sharing dialogue does."""
    role = await other.call("methods.findRoleByIdentifier", access_role)
    await other.call(
        "methods.grantPermission",
        principal_type,
        principal_id,
        "mcpServer",
        server["_id"],
        role["permBits"],
        server["author"],
        None,
        role["_id"],
        *more,
    )


async def create_server(
    other: OtherApplication, author: Person, url: str, title: str = "My Weather", **config: object
) -> Doc:
    """Let the other application store a server and make its author the owner."""
    name = title.lower().replace(" ", "-")
    key = f"echo_mcp_{name}"
    functions = {
        key: {
            "type": "function",
            "function": {
                "name": key,
                "description": "Says it again.",
                "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
            },
        }
    }
    server: Doc = await other.call(
        "methods.createMCPServer",
        {
            "config": {
                "title": title,
                "type": "streamable-http",
                "url": url,
                "tools": "echo",
                "toolFunctions": functions,
                **config,
            },
            "author": author.user_id,
        },
    )
    await share(other, server, "user", author.user_id, "mcpServer_owner")
    return server
