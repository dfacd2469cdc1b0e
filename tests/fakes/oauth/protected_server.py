"""An MCP server, written with the official SDK, that wants access tokens of a provider."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson
from mcp.server.mcpserver import MCPServer
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.fakes.oauth.provider import Provider, Token

caller: ContextVar[Token] = ContextVar("caller")


@dataclass
class Protected:
    """Lets requests with a usable token through to a server.

    Attributes:
        app: The server.
        provider: Whose tokens count.
        resource: The server's URL, which tokens must be for.
        metadata_path: Where its metadata is; empty to publish none.
        points: Whether challenges name the metadata.
        issuers: The authorization servers that the metadata names; the provider's by default.
        scopes: Named in the challenge; empty to name none.
        seen: The tokens that came and count, in order.
        offered: The values of `Authorization` that came.
    """

    app: ASGIApp
    provider: Provider
    resource: str
    metadata_path: str = "/.well-known/oauth-protected-resource/mcp"
    points: bool = True
    issuers: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("read",)
    needs: Callable[[dict[str, Any]], str | None] = field(default=lambda _: None)
    seen: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.metadata_path and scope["path"] == self.metadata_path:
            await self._metadata()(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        kind, _, value = headers.get("authorization", "").partition(" ")
        self.offered.add(value)
        token = self.provider.find(value) if kind == "Bearer" else None
        if token is None or (token.resource is not None and token.resource != self.resource):
            error = ' error="invalid_token",' if value else ""
            await self._challenge(401, error)(scope, receive, send)
            return
        self.seen.append(value)
        body = await _body(receive) if scope["method"] == "POST" else b""
        needed = self.needs(orjson.loads(body)) if body else None
        if needed is not None and needed not in token.scope.split():
            said = f' error="insufficient_scope", scope="{token.scope} {needed}",'
            await self._challenge(403, said, names_scopes=False)(scope, receive, send)
            return
        caller.set(token)
        await self.app(scope, _replayed(body, receive), send)

    def _metadata(self) -> Response:
        return JSONResponse(
            {
                "resource": self.resource,
                "resource_name": "Protected",
                "authorization_servers": list(self.issuers or (self.provider.issuer,)),
                "scopes_supported": ["read", "write"],
                "bearer_methods_supported": ["header"],
            }
        )

    def _challenge(self, status: int, said: str, *, names_scopes: bool = True) -> Response:
        parts = [said] if said else []
        if self.points:
            origin = self.resource.rsplit("/", 1)[0]
            parts.append(f' resource_metadata="{origin}{self.metadata_path}",')
        if names_scopes and self.scopes:
            parts.append(f' scope="{" ".join(self.scopes)}",')
        challenge = f"Bearer{''.join(parts)}".removesuffix(",")
        return Response(status_code=status, headers={"WWW-Authenticate": challenge})


def whoami_server() -> ASGIApp:
    """Return an MCP server whose tool says whose token it was called with."""
    server = MCPServer("protected")

    @server.tool()
    def whoami() -> str:
        """Say whose token this is."""
        return caller.get().user

    @server.tool()
    def scopes() -> str:
        """Say what the token may do."""
        return caller.get().scope

    @server.tool()
    def change(value: str) -> str:
        """Change something, which needs the scope write."""
        return f"{caller.get().user} wrote {value}"

    return server.streamable_http_app()


def needs_write(message: dict[str, Any]) -> str | None:
    """Return the scope that a message needs."""
    is_change = (message.get("params") or {}).get("name") == "change"
    return "write" if message.get("method") == "tools/call" and is_change else None


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
