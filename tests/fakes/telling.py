"""A server of the handshake's era that tells of resources, over either of its two transports."""

import asyncio
from itertools import count
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

HEAD = {"type": "http.response.start", "status": 200}
EVENT_STREAM = [(b"content-type", b"text/event-stream")]


class TellingServer:
    """Takes subscriptions, and says on open streams what a test wants it to.

    Attributes:
        subscribed: URIs by session.
        heard: Every message that came outside of the handshake, in order.
        moved: Set at each message and each stream that opens or ends.
        is_away: Whether everything is answered with 503.
        refused: URIs that cannot be subscribed to.
    """

    def __init__(self, *, is_sse: bool = False) -> None:
        self._is_sse = is_sse
        self._numbers = count(1)
        self._streams: dict[str, asyncio.Queue[bytes | None]] = {}
        self.subscribed: dict[str, set[str]] = {}
        self.heard: list[dict[str, Any]] = []
        self.moved = asyncio.Event()
        self.is_away = False
        self.refused: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode() or scope["query_string"].decode()
        if self.is_away:
            await _answer(send, 503, b"{}")
        elif scope["method"] == "GET" and not (self._is_sse or session in self.subscribed):
            await _answer(send, 404, b"{}")
        elif scope["method"] == "GET":
            await self._stream(session, receive, send)
        elif scope["method"] == "DELETE":
            self._forget(session)
            await _answer(send, 200, b"{}")
        else:
            await self._post(orjson.loads(body), session, send)

    async def _post(self, message: dict[str, Any], session: str, send: Send) -> None:
        method = message.get("method")
        if method == "initialize":
            session = session or f"session-{next(self._numbers)}"
            self.subscribed[session] = set()
        elif session not in self.subscribed:
            await _answer(send, 404, b'{"error":"no such session"}')
            return
        elif method != "notifications/initialized":
            self.heard.append(message)
        answer = self._answer_to(message, session)
        headers = [(b"mcp-session-id", session.encode())] if method == "initialize" else []
        if answer is None or self._is_sse:
            await _answer(send, 202, b"")
        else:
            await _answer(send, 200, answer, headers)
        if answer is not None and self._is_sse:
            self._streams[session].put_nowait(answer)
        self._note()

    def _answer_to(self, message: dict[str, Any], session: str) -> bytes | None:
        uri = message.get("params", {}).get("uri")
        result: dict[str, Any] = {}
        match message.get("method"):
            case "initialize":
                result = {
                    "protocolVersion": "2024-11-05" if self._is_sse else "2025-11-25",
                    "capabilities": {"resources": {"subscribe": True}},
                    "serverInfo": {"name": "telling", "version": "1"},
                }
            case "resources/subscribe" if uri in self.refused:
                error = {"code": -32602, "message": "No."}
                return orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error})
            case "resources/subscribe":
                self.subscribed[session].add(uri)
            case "resources/unsubscribe":
                self.subscribed[session].discard(uri)
            case _:
                pass
        if "id" not in message or "method" not in message:
            return None
        return orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _stream(self, session: str, receive: Receive, send: Send) -> None:
        if self._is_sse:
            session = f"session-{next(self._numbers)}"
            self.subscribed[session] = set()
        queue = self._streams[session] = asyncio.Queue()
        await send({**HEAD, "headers": EVENT_STREAM})
        first = b"event: endpoint\ndata: /messages?%s\n\n" % session.encode()
        opening = first if self._is_sse else b": hello\n\n"
        await send({"type": "http.response.body", "body": opening, "more_body": True})
        self._note()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(_write(queue, send))
            reading = group.create_task(_wait_for_disconnect(receive, queue))
            await writing
            reading.cancel()
        if self._streams.get(session) is queue:
            del self._streams[session]
            if self._is_sse:
                self._forget(session)
        self._note()

    def _forget(self, session: str) -> None:
        self.subscribed.pop(session, None)
        self._note()

    def _note(self) -> None:
        self.moved.set()

    @property
    def open_streams(self) -> int:
        """Return how many streams are open."""
        return len(self._streams)

    @property
    def wanted(self) -> set[str]:
        """Return all URIs that any session is subscribed to."""
        return set().union(*self.subscribed.values())

    def tell(self, method: str, params: Any = None, request_id: Any = None) -> None:
        """Send a notification, or a request, on every open stream."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if request_id is not None:
            message["id"] = request_id
        for queue in self._streams.values():
            queue.put_nowait(orjson.dumps(message))

    def update(self, uri: str) -> None:
        """Tell that a resource changed."""
        self.tell("notifications/resources/updated", {"uri": uri})

    def break_off(self, *, forgetting: bool = True) -> None:
        """End all streams, and perhaps all sessions."""
        if forgetting:
            self.subscribed.clear()
        for queue in self._streams.values():
            queue.put_nowait(None)


async def _write(queue: "asyncio.Queue[bytes | None]", send: Send) -> None:
    while (text := await queue.get()) is not None:
        event = b"event: message\ndata: " + text + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _wait_for_disconnect(receive: Receive, queue: "asyncio.Queue[bytes | None]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(None)


async def _answer(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    length = [(b"content-length", str(len(body)).encode())]
    kind = [(b"content-type", b"application/json")]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*kind, *length, *(headers or [])],
        }
    )
    await send({"type": "http.response.body", "body": body})
