"""Servers of one era each that do as a test says, and messages of the stateless one."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import orjson

from tests.gateway.conftest import request
from tests.gateway.fakes import Request

MODERN = "2026-07-28"
RESERVED = "io.modelcontextprotocol/"
EVENTS: Any = {"content_type": "text/event-stream"}

On = Callable[[Request], Awaitable[None]]


def modern(
    method: str, params: Any = None, request_id: Any = 1, *, level: str | None = None, **can: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a request of the stateless era and its headers; keywords are capabilities."""
    meta: dict[str, Any] = {
        f"{RESERVED}protocolVersion": MODERN,
        f"{RESERVED}clientCapabilities": can,
        f"{RESERVED}clientInfo": {"name": "tester", "version": "1"},
    }
    if level is not None:
        meta[f"{RESERVED}logLevel"] = level
    params = params or {}
    message = request(method, {**params, "_meta": {**params.get("_meta", {}), **meta}}, request_id)
    headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
    name = params.get("name") or params.get("uri")
    return message, headers if name is None else {**headers, "mcp_name": name}


def event(message: Any, event_id: str | None = None) -> bytes:
    """Return one server-sent event."""
    named = f"id: {event_id}\n".encode() if event_id is not None else b""
    return named + b"data: " + orjson.dumps(message) + b"\n\n"


def notice(method: str, params: Any = None) -> dict[str, Any]:
    """Return a notification."""
    message = {"jsonrpc": "2.0", "method": f"notifications/{method}"}
    return message if params is None else message | {"params": params}


class ModernServer:
    """Does what *on* says with each request of the stateless era."""

    def __init__(self, on: On) -> None:
        self._on = on
        self.received: list[Request] = []
        self.gone = asyncio.Event()

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        self.received.append(received)
        await self._on(received)


class LegacyServer:
    """Keeps sessions, and does what *on* says with each request in one.

    Attributes:
        methods: Of all messages, in order; HTTP methods where there is no message.
        told: Notifications and answers that it was sent.
        sessions: Those it knows, with the `initialize` that began each.
        forgotten: What it answers to requests of a session that it does not know.
        knows_none: Forget every session as soon as it has begun.
    """

    def __init__(self, on: On) -> None:
        self._on = on
        self._numbers = count(1)
        self.methods: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.answered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ended: list[str] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.forgotten: tuple[int, bytes] = (404, b'{"jsonrpc":"2.0","id":null,"error":{}}')
        self.knows_none = False
        self.greets_when = asyncio.Event()
        self.greets_when.set()
        self.used: list[str | None] = []

    async def __call__(self, received: Request) -> None:
        """Behave as an upstream."""
        message: dict[str, Any] = received.message if received.body else {}
        method = message.get("method", received.method if not message else "answer")
        self.methods.append(method)
        session = received.headers.get("mcp-session-id")
        if method == "initialize":
            await self._greet(received, message)
        elif session not in self.sessions and method != "notifications/initialized":
            await received.answer(*self.forgotten)
        elif method == "DELETE":
            self.ended.append(session or "")
            await received.answer(200, b"")
        elif "id" in message and "method" in message:
            self.used.append(session)
            await self._on(received)
        elif received.method == "GET" and "last-event-id" in received.headers:
            await self._on(received)
        elif received.method == "GET":
            await received.answer(405, b"")
        else:
            self.told.append(message)
            await received.answer(202, b"")
            event = self.cancelled if method == "notifications/cancelled" else self.answered
            if method in {"answer", "notifications/cancelled"}:
                event.set()

    async def _greet(self, received: Request, message: dict[str, Any]) -> None:
        await self.greets_when.wait()
        session = f"s{next(self._numbers)}"
        if not self.knows_none:
            self.sessions[session] = message["params"]
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x"}}
        await received.result(result, mcp_session_id=session)
