"""Fakes of what the data plane asks of others, and an upstream that does as it is told."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from registry.access.policy import ServerFacts, ServerScope
from registry.audit.values import AuditEvent
from registry.auth.errors import UnauthorizedError
from registry.auth.identity import Role, UserContext
from registry.auth.jwt import VerifiedToken
from registry.core.origin import UrlOrigin
from registry.gateway.values import Credentials, Route, build_route, tool_entry
from registry.gateway.view.catalogue import Catalogue
from registry.http.client.exchange import header_lines
from registry.oauth.values import AccessToken
from registry.servers.values import Era, Transport
from registry.upstream.headers import upstream_headers
from registry.usage.values import CallFacts, CallMeasurements, Facts, Measurements
from registry.workers.peers import SingleWorker
from tests.fakes.oauth.access_tokens import FakeAccessTokens

AUTHOR = "d" * 24
EVERYONE = ServerFacts(AUTHOR, ServerScope.SHARED_APP)
PRIVATE = ServerFacts(AUTHOR, ServerScope.PRIVATE_USER)
TOOLS = {
    "echo": '{"name":"echo","description":"Say it back.","inputSchema":{"type":"object"}}',
    "add": '{"name":"add","inputSchema":{"type":"object"}}',
}


def make_route(url: str = "http://127.0.0.1:9/mcp", **changes: Any) -> Route:
    """Return a route to *url* that everyone may use."""
    slug = changes.pop("slug", "demo")
    facts: dict[str, Any] = {
        "server_id": slug.ljust(24, "0"),
        "server_name": slug,
        "slug": slug,
        "facts": EVERYONE,
        "url": url,
        "transport": Transport.STREAMABLE_HTTP,
        "eras": frozenset(Era),
        "protocol_version": "2025-11-25",
        "headers": {"Authorization": "Bearer upstream-secret"},
        "credential_problem": None,
        "per_user": False,
        "idle_timeout_seconds": 5.0,
        "tools": [tool_entry(name, text) for name, text in TOOLS.items()],
    }
    return build_route(**{**facts, **changes})


class RecordedRefusals:
    """Remembers what was refused, to whom."""

    def __init__(self) -> None:
        self.events: list[tuple[str, AuditEvent]] = []

    def note_later(self, actor: UserContext, event: AuditEvent, origin: UrlOrigin) -> None:
        """Remember one refusal."""
        assert origin.source_address is not None
        self.events.append((actor.username, event))


class RecordedCalls:
    """Remembers the calls that were noted, each with all that was said of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def note(self, facts: Facts, measurements: Measurements) -> None:
        """Remember one call."""
        about, times = CallFacts._make(facts), CallMeasurements._make(measurements)
        self.calls.append(SimpleNamespace(**about._asdict(), **times._asdict()))


class Changes:
    """Announces changes."""

    def __init__(self) -> None:
        self._version = 0
        self._next = asyncio.Event()

    def set(self) -> None:
        """Announce one."""
        self._version += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, seen: int) -> int:
        """Wait for another version than *seen*, and return it."""
        while self._version == seen:
            await self._next.wait()
        return self._version


class FakeRoutes:
    """A table of routes that tests fill."""

    def __init__(self, *routes: Route) -> None:
        self.routes = {route.slug: route for route in routes}
        self.catalogue = Catalogue(self.routes)
        self.fresh = True
        self.change = Changes()
        self.own_headers: dict[tuple[str, str], Mapping[str, str]] = {}
        self.problem: Exception | None = None
        self.suspected: list[str] = []
        self.tokens = FakeAccessTokens()

    def route(self, slug: str, tenant_id: str | None = None) -> Route | None:
        """Return the route of `/mcp/<slug>` for callers of a tenant, or None."""
        found = self.routes.get(slug)
        return found if found is not None and found.facts.tenant_id == tenant_id else None

    async def changed(self, seen: int) -> int:
        """Wait for a change that a test announces."""
        return await self.change.after(seen)

    def replace(self, *routes: Route) -> None:
        """Serve other routes from now on, and announce it."""
        self.routes = {route.slug: route for route in routes}
        self.catalogue = Catalogue(self.routes, self.catalogue)
        self.change.set()

    def probe_eras(self, route: Route) -> None:
        """Remember it."""
        self.suspected.append(route.slug)

    def is_fresh(self) -> bool:
        """Whether the table can be used."""
        return self.fresh

    async def user_headers(self, user: UserContext, route: Route) -> Credentials:
        """Return what the test stored for the user, or raise what it wants raised."""
        if self.problem is not None:
            raise self.problem
        token = None
        own = {}
        if route.oauth is not None:
            token = await self.tokens.get(user, route.oauth)
            own["Authorization"] = f"Bearer {token.value}"
        headers = upstream_headers(
            {**self.own_headers.get((user.user_id, route.slug), {}), **own},
            route.headers.get("Via"),
        )
        return Credentials(header_lines(headers), token)

    async def renewed_headers(
        self, user: UserContext, route: Route, rejected: AccessToken
    ) -> Credentials:
        """Do the same after a token was rejected."""
        assert route.oauth is not None
        await self.tokens.renewed(user, route.oauth, rejected)
        return await self.user_headers(user, route)


class FakeAuthenticate:
    """Knows callers by their user names: `Bearer alice`."""

    def __init__(self, *users: UserContext) -> None:
        self._users = {f"Bearer {user.username}": user for user in users}
        self._forgotten: set[str] = set()
        self.problem: Exception | None = None

    def cached(self, authorization: str) -> UserContext | None:
        """Return the caller."""
        if self.problem or authorization in self._forgotten:
            return None
        return self._users.get(authorization)

    def change(self, user: UserContext) -> None:
        """Let the token stand for another *user* of that name, once it is looked up again."""
        self._users[f"Bearer {user.username}"] = user
        self._forgotten.add(f"Bearer {user.username}")

    def forget(self, username: str) -> None:
        """Accept the token of *username* no more."""
        del self._users[f"Bearer {username}"]

    async def current(self, token: VerifiedToken) -> UserContext:
        """Return the caller of a token by their id, unless theirs is not accepted any more."""
        found = next((one for one in self._users.values() if one.user_id == token.user_id), None)
        if found is None and token.is_service_account:
            role = token.role or Role.USER
            return UserContext(token.user_id, token.username, role, token.scopes or frozenset())
        if found is None:
            raise UnauthorizedError("The bearer token's user does not exist.")
        return replace(found, scopes=found.scopes & (token.scopes or found.scopes))

    def holds(self, authorization: str) -> bool:
        """Whether the token is good."""
        return self.cached(authorization) is not None

    async def authenticate(self, authorization: str | None) -> UserContext:
        """Refuse everyone who is not remembered."""
        if self.problem is not None:
            raise self.problem
        if authorization is None:
            raise UnauthorizedError("A bearer token is required.", token_was_sent=False)
        if authorization in self._forgotten:
            self._forgotten.discard(authorization)
            return self._users[authorization]
        raise UnauthorizedError("The bearer token is not accepted.")


@dataclass
class Request:
    """One request as an upstream saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    receive: Receive = field(repr=False)
    send: Send = field(repr=False)

    @property
    def message(self) -> Any:
        """The JSON-RPC message."""
        return orjson.loads(self.body)

    async def start(self, status: int = 200, **headers: str) -> None:
        """Send the head of an answer."""
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.replace("_", "-").encode(), value.encode())
                    for name, value in headers.items()
                ],
            }
        )

    async def chunk(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send a whole answer."""
        await self.start(
            status, **{"content_type": "application/json"} | headers, content_length=str(len(body))
        )
        await self.chunk(body, more=False)

    async def result(self, result: Any, **headers: str) -> None:
        """Answer the JSON-RPC request."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": self.message["id"], "result": result})
        await self.answer(200, body, **headers)

    async def wait_for_disconnect(self) -> None:
        """Wait until the gateway hangs up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


Behaviour = Callable[[Request], Awaitable[None]]


async def echo(request: Request) -> None:
    """Answer what was sent: headers and message."""
    if request.body:
        await request.result({"headers": request.headers, "message": request.message})
    else:
        await request.answer(200, orjson.dumps({"headers": request.headers}))


class ScriptedUpstream:
    """An ASGI application that behaves as the test says."""

    def __init__(self, behaviour: Behaviour = echo) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        request = Request(scope["method"], scope["path"], headers, body, receive, send)
        self.requests.append(request)
        self.arrived.set()
        await self.behaviour(request)

    async def hang(self, request: Request) -> None:
        """Never answer; note when the gateway hangs up."""
        await request.wait_for_disconnect()
        self.gone.set()


class LinkedPeers(SingleWorker):
    """Workers of one process that reach each other."""

    def __init__(self, own: str) -> None:
        super().__init__(own)
        self.others: list[LinkedPeers] = []
        self._handler: Callable[[bytes], Awaitable[bytes]] | None = None

    @override
    async def broadcast(self, message: bytes) -> list[bytes]:
        """Hand *message* to the others."""
        return [await other._handler(message) for other in self.others if other._handler]

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Have *handler* reply."""
        self._handler = handler


def linked(*names: str) -> list[LinkedPeers]:
    """Return workers that know each other."""
    workers = [LinkedPeers(name) for name in names]
    for worker in workers:
        worker.others = [other for other in workers if other is not worker]
    return workers
