"""Session of an HTTP+SSE client (2024-11-05): turns its messages into loopback requests.

Each message becomes a streamable HTTP request to the same path, in the session that its
`initialize` began, so all decisions and all kinds of servers work as for any request. The
responses go to the client's one stream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from starlette.types import ASGIApp, Scope

from registry.core.background_tasks import BackgroundTasks
from registry.core.json import members
from registry.gateway.client.answers import CANCELLED
from registry.gateway.edge.error_responses import error_body
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import NotServing, UpstreamFailed
from registry.gateway.protocol.envelope import Envelope, RequestId
from registry.gateway.protocol.messages import event_text
from registry.gateway.sse.loopback import LoopbackRequest
from registry.gateway.sse.send_queue import SendQueue
from registry.gateway.transport.forwarder import SUCCESS

log = structlog.get_logger()

ACCEPT_BOTH = b"application/json, text/event-stream"
DROPPED_HEADERS = frozenset(
    {b"accept", b"content-length", b"last-event-id", b"mcp-protocol-version", b"mcp-session-id"}
)
WITHOUT_VERSION_HEADER = frozenset({"2024-11-05", "2025-03-26"})
"""Protocol versions that are older than the header `MCP-Protocol-Version`."""

MAX_IN_PROGRESS = 100
"""Maximum number of concurrent requests of one client."""

MAX_FAILED_TRIES = 10
"""How often in a row a stream is resumed without receiving anything."""

RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
CLOSE_SECONDS = 5.0
"""How long requests in progress may take to stop after their client disconnected."""

NOT_FOUND = 404
FOR_A_MOMENT = frozenset({429, 502, 503, 504})

EndSession = Callable[[str], Awaitable[None]]
"""Ends a session by the id that the client would know; does not raise."""


class SseSession:
    """The session of one HTTP+SSE client.

    Args:
        serve: The gateway.
        scope: The head of the request that opened the client's stream.
        send_queue: The client's stream.
        end_session: Called at the end, if a session was begun.
        max_response_bytes: Limit of a response that is collected in memory.
    """

    def __init__(
        self,
        serve: ASGIApp,
        scope: Scope,
        send_queue: SendQueue,
        background_tasks: BackgroundTasks,
        end_session: EndSession,
        *,
        max_response_bytes: int,
    ) -> None:
        self._serve = serve
        self._stream_scope = scope
        self._send_queue = send_queue
        self._background_tasks = background_tasks
        self._end_session = end_session
        self._max_response_bytes = max_response_bytes
        self._gone = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self._under_way: set[RequestId | None] = set()
        self._cancelled: set[RequestId | None] = set()
        self._listening: asyncio.Task[None] | None = None
        self._renewing = asyncio.Lock()
        self._hello: tuple[bytes, RequestId | None] | None = None
        self._session: bytes | None = None
        self._version: bytes | None = None

    async def take(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        """Accept a message; its response is sent on the stream.

        Raises:
            NotServing: Too many are in progress.
        """
        raw = bytes(envelope.raw)
        # The loopback request is counted under the JSON-RPC method, so this one must not be.
        exchange.method = "message"
        if envelope.is_request:
            if len(self._asked) >= MAX_IN_PROGRESS:
                raise NotServing("Too many requests are in progress; try again later.")
            self._begin(self._ask(exchange.scope, raw, envelope, exchange.request_id))
            return
        if envelope.method == CANCELLED:
            # Before the server gets it: its response may be an end of the stream without a
            # message.
            request_id = envelope.params.get("requestId")
            if isinstance(request_id, str | int) and request_id in self._under_way:
                self._cancelled.add(request_id)
        # In order: a server may refuse requests before it has received
        # `notifications/initialized`.
        inner = await self._exchange(exchange.scope, "POST", raw)
        if inner.status not in SUCCESS:
            await exchange.answer(inner.status, bytes(inner.body))
        elif envelope.method == "notifications/initialized":
            self._listen()

    async def idle(self) -> None:
        """Wait until no request is in progress."""
        if self._asked:
            await asyncio.wait(self._asked)

    async def close(self) -> None:
        """End the requests in progress, and the session."""
        self._gone.set()
        tasks = {*self._asked, self._listening} - {None}
        if tasks:
            await asyncio.wait({task for task in tasks if task}, timeout=CLOSE_SECONDS)
        if self._session is not None:
            await self._end_session(self._session.decode())

    def _begin(self, asking: Coroutine[Any, Any, None]) -> None:
        task = self._background_tasks.start(asking)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(
        self, scope: Scope, raw: bytes, envelope: Envelope, request_id: RequestId | None
    ) -> None:
        self._under_way.add(request_id)
        try:
            await self._answered(scope, raw, envelope, request_id)
        finally:
            self._under_way.discard(request_id)
            self._cancelled.discard(request_id)

    async def _answered(
        self, scope: Scope, raw: bytes, envelope: Envelope, request_id: RequestId | None
    ) -> None:
        if envelope.method == "initialize":
            await self._initialize(scope, raw, request_id)
            return
        session = self._session
        inner = await self._exchange(scope, "POST", raw, request_id)
        if (
            inner.status == NOT_FOUND
            and session is not None
            and await self._renewed(session, scope)
        ):
            # A server that does not know the session has executed nothing in it.
            inner = await self._exchange(scope, "POST", raw, request_id)
        await self._respond(inner, scope, request_id)

    async def _respond(
        self, inner: LoopbackRequest, scope: Scope, request_id: RequestId | None
    ) -> None:
        """Send the response to the client, in any case; resume its stream where necessary."""
        vain = 0
        while inner.answer is None and inner.last_event_id and vain < MAX_FAILED_TRIES:
            # The server ended the stream, and the rest is resumed later (2025-11-25).
            vain = 0 if inner.has_messages else vain + 1
            await self._pause(inner)
            if self._gone.is_set():
                return
            last = inner.last_event_id
            inner = await self._exchange(scope, "GET", b"", request_id, last)
            inner.last_event_id = inner.last_event_id or last
        if inner.is_stream and inner.answer is not None:
            return
        if inner.answer is None and request_id in self._cancelled:
            return
        if inner.answer is None:
            lost = UpstreamFailed("The response was lost; the request may have had effects.")
            await self._tell(error_body(lost, request_id))
        else:
            await self._tell(bytes(inner.body))

    async def _initialize(self, scope: Scope, raw: bytes, request_id: RequestId | None) -> None:
        former, self._session, self._version = self._session, None, None
        inner = await self._exchange(scope, "POST", raw, request_id)
        self._hello = (raw, request_id)
        self._note(inner)
        await self._respond(inner, scope, request_id)
        if former is not None:
            await self._end_session(former.decode())

    async def _renewed(self, stale: bytes, scope: Scope) -> bool:
        """Begin another session in place of an unknown one."""
        async with self._renewing:
            if self._session is not stale:
                return True
            if self._hello is None:
                return False
            self._session = self._version = None
            raw, request_id = self._hello
            inner = await self._exchange(scope, "POST", raw, request_id, quietly=True)
            self._note(inner)
            if inner.status not in SUCCESS or "error" in (inner.answer or {}):
                return False
            await self._exchange(
                scope, "POST", b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
            )
            self._listen()
            return True

    def _note(self, inner: LoopbackRequest) -> None:
        if inner.status in SUCCESS:
            self._session = inner.headers.get(b"mcp-session-id")
            version = members((inner.answer or {}).get("result")).get("protocolVersion")
            if isinstance(version, str) and version not in WITHOUT_VERSION_HEADER:
                self._version = version.encode()

    def _listen(self) -> None:
        if self._listening is None or self._listening.done():
            self._listening = self._background_tasks.start(self._hear())

    async def _hear(self) -> None:
        """Receive messages outside of requests, for as long as the server has a stream."""
        last: str | None = None
        vain = 0
        while not self._gone.is_set() and vain < MAX_FAILED_TRIES:
            inner = await self._exchange(self._stream_scope, "GET", b"", None, last)
            if not inner.is_stream and inner.status not in FOR_A_MOMENT:
                return
            vain = 0 if inner.has_messages else vain + 1
            last = inner.last_event_id or last
            await self._pause(inner)

    async def _pause(self, inner: LoopbackRequest) -> None:
        seconds = RETRY_SECONDS if inner.retry_ms is None else inner.retry_ms / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, MAX_RETRY_SECONDS)):
                await self._gone.wait()

    async def _exchange(
        self,
        scope: Scope,
        method: str,
        raw: bytes,
        request_id: RequestId | None = None,
        last_event_id: str | None = None,
        *,
        quietly: bool = False,
    ) -> LoopbackRequest:
        headers = [pair for pair in scope["headers"] if pair[0] not in DROPPED_HEADERS]
        headers.append((b"accept", ACCEPT_BOTH))
        if self._session is not None:
            headers.append((b"mcp-session-id", self._session))
        if self._version is not None:
            headers.append((b"mcp-protocol-version", self._version))
        if last_event_id is not None:
            headers.append((b"last-event-id", last_event_id.encode()))
        inner_scope = {**scope, "method": method, "query_string": b"", "headers": headers}
        tell = _forget if quietly else self._tell
        inner = LoopbackRequest(
            inner_scope,
            raw,
            self._gone,
            tell,
            request_id,
            max_bytes=self._max_response_bytes,
        )
        await inner.run(self._serve)
        return inner

    async def _tell(self, message: bytes) -> None:
        await self._send_queue.put(event_text(message))


async def _forget(message: bytes) -> None:
    """Drop a message."""
