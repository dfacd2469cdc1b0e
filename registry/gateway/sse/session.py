"""Session of an HTTP+SSE client (2024-11-05): dispatches its messages, each as a request.

Each message is answered like one of streamable HTTP at the same path, in the session that the
client's `initialize` began, so all decisions and all kinds of servers work as for any request.
The responses go to the client's one stream.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.json import members
from registry.gateway.client.answers import CANCELLED
from registry.gateway.dispatch import Dispatcher
from registry.gateway.edge.error_responses import error_body
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import NotServing, UpstreamFailed
from registry.gateway.protocol.envelope import (
    Envelope,
    RequestId,
    load_object,
    read_envelope,
    usable_id,
)
from registry.gateway.protocol.headers import TOOLSET_HEADER
from registry.gateway.protocol.messages import event_text
from registry.gateway.sse.response import RelayedResponse, SendMessage
from registry.gateway.sse.send_queue import SendQueue
from registry.gateway.transport.forwarder import SUCCESS
from registry.gateway.values import Route
from registry.upstream.client import ACCEPT_BOTH

DROPPED_HEADERS = frozenset(
    {"accept", "content-length", "last-event-id", "mcp-protocol-version", "mcp-session-id"}
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

INITIALIZED_TEXT = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
INITIALIZED = read_envelope(INITIALIZED_TEXT, load_object(INITIALIZED_TEXT))


class SseSession:
    """The session of one HTTP+SSE client.

    Args:
        dispatcher: Answers the messages.
        opened_by: The request that opened the client's stream.
        user: The client's user.
        route: The one server behind the path; None for all.
        send_queue: The client's stream.
        max_response_bytes: Limit of a response that is collected in memory.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        opened_by: GatewayRequest,
        user: UserContext,
        route: Route | None,
        send_queue: SendQueue,
        background_tasks: BackgroundTasks,
        *,
        max_response_bytes: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._opened_by = opened_by
        self._user = user
        self._route = route
        self._send_queue = send_queue
        self._background_tasks = background_tasks
        self._max_response_bytes = max_response_bytes
        self._gone = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self._in_progress: set[RequestId | None] = set()
        self._cancelled: set[RequestId | None] = set()
        self._listening: asyncio.Task[None] | None = None
        self._renewing = asyncio.Lock()
        self._initialized_with: Envelope | None = None
        self._session: str | None = None
        self._version: str | None = None

    async def take(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        """Accept a message; its response is sent on the stream.

        Raises:
            NotServing: Too many are in progress.
        """
        # The relayed request is counted under the JSON-RPC method, so this one must not be.
        exchange.method = "message"
        if envelope.is_request:
            if len(self._asked) >= MAX_IN_PROGRESS:
                raise NotServing("Too many requests are in progress; try again later.")
            self._begin(self._ask(exchange, envelope))
            return
        if envelope.method == CANCELLED:
            # Before the server gets it: its response may be an end of the stream without a
            # message.
            request_id = envelope.params.get("requestId")
            if isinstance(request_id, str | int) and request_id in self._in_progress:
                self._cancelled.add(request_id)
        # In order: a server may refuse requests before it has received
        # `notifications/initialized`.
        await self._settled()
        response = await self._post(exchange, envelope)
        if response.status not in SUCCESS:
            await exchange.answer(response.status, bytes(response.body))
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
            await self._dispatcher.end_session(self._user, self._route, self._session)

    def _begin(self, asking: Coroutine[Any, Any, None]) -> None:
        task = self._background_tasks.start(asking)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        request_id = exchange.request_id
        self._in_progress.add(request_id)
        try:
            await self._answered(exchange, envelope)
        finally:
            self._in_progress.discard(request_id)
            self._cancelled.discard(request_id)

    async def _answered(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        if envelope.method == "initialize":
            await self._initialize(exchange, envelope)
            return
        await self._settled()
        session = self._session
        response = await self._post(exchange, envelope)
        if (
            response.status == NOT_FOUND
            and session is not None
            and await self._renewed(session, exchange)
        ):
            # A server that does not know the session has executed nothing in it.
            response = await self._post(exchange, envelope)
        await self._respond(response, exchange)

    async def _respond(self, response: RelayedResponse, exchange: GatewayRequest) -> None:
        """Send the response to the client, in any case; resume its stream where necessary."""
        request_id = exchange.request_id
        failed_tries = 0
        while (
            response.answer is None and response.last_event_id and failed_tries < MAX_FAILED_TRIES
        ):
            # The server ended the stream, and the rest is resumed later (2025-11-25).
            failed_tries = 0 if response.has_messages else failed_tries + 1
            await self._pause(response)
            if self._gone.is_set():
                return
            last = response.last_event_id
            response = await self._get(exchange, request_id, last)
            response.last_event_id = response.last_event_id or last
        if response.is_stream and response.answer is not None:
            return
        if response.answer is None and request_id in self._cancelled:
            return
        if response.answer is None:
            lost = UpstreamFailed("The response was lost; the request may have had effects.")
            await self._send(error_body(lost, request_id))
        else:
            await self._send(bytes(response.body))

    async def _initialize(self, exchange: GatewayRequest, envelope: Envelope) -> None:
        former, self._session, self._version = self._session, None, None
        response = await self._post(exchange, envelope)
        self._initialized_with = envelope
        self._note(response)
        await self._respond(response, exchange)
        if former is not None:
            await self._dispatcher.end_session(self._user, self._route, former)

    async def _renewed(self, stale: str, exchange: GatewayRequest) -> bool:
        """Begin another session in place of an unknown one."""
        async with self._renewing:
            if self._session is not stale:
                return True
            if self._initialized_with is None:
                return False
            version, self._session, self._version = self._version, None, None
            response = await self._post(exchange, self._initialized_with, send=_discard)
            self._note(response)
            if response.status not in SUCCESS or "error" in (response.answer or {}):
                # The next message tries again.
                self._session, self._version = stale, version
                return False
            await self._post(exchange, INITIALIZED)
            self._listen()
            return True

    async def _settled(self) -> None:
        """Wait while another session is begun: until then there is none to send anything in."""
        if self._renewing.locked():
            async with self._renewing:
                pass

    def _note(self, response: RelayedResponse) -> None:
        if response.status in SUCCESS:
            session = response.headers.get(b"mcp-session-id")
            self._session = None if session is None else session.decode()
            version = members((response.answer or {}).get("result")).get("protocolVersion")
            if isinstance(version, str) and version not in WITHOUT_VERSION_HEADER:
                self._version = version

    def _listen(self) -> None:
        if self._listening is None or self._listening.done():
            self._listening = self._background_tasks.start(self._read_stream())

    async def _read_stream(self) -> None:
        """Receive messages outside of requests, for as long as the server has a stream."""
        last: str | None = None
        failed_tries = 0
        while not self._gone.is_set() and failed_tries < MAX_FAILED_TRIES:
            response = await self._get(self._opened_by, None, last)
            if not response.is_stream and response.status not in FOR_A_MOMENT:
                return
            failed_tries = 0 if response.has_messages else failed_tries + 1
            last = response.last_event_id or last
            await self._pause(response)

    async def _pause(self, response: RelayedResponse) -> None:
        seconds = RETRY_SECONDS if response.retry_ms is None else response.retry_ms / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, MAX_RETRY_SECONDS)):
                await self._gone.wait()

    async def _post(
        self, exchange: GatewayRequest, envelope: Envelope, *, send: SendMessage | None = None
    ) -> RelayedResponse:
        """Have a message answered in the session.

        Args:
            exchange: The client's request.
            envelope: The message.
            send: Receives the messages of an event stream in place of the client.
        """
        request_id = usable_id(envelope.body) if envelope.is_request else None
        response = self._response(send or self._send, request_id)
        relayed = self._relayed("POST", exchange, response)
        relayed.request_bytes = len(envelope.raw)
        await self._dispatcher.run(relayed, self._dispatcher.message(relayed, envelope))
        return response

    async def _get(
        self, exchange: GatewayRequest, request_id: RequestId | None, last_event_id: str | None
    ) -> RelayedResponse:
        """Open the session's stream, or resume one, and read it to its end."""
        response = self._response(self._send, request_id)
        relayed = self._relayed("GET", exchange, response)
        if last_event_id is not None:
            relayed.headers["last-event-id"] = last_event_id
        await self._dispatcher.run(relayed, self._dispatcher.stream(relayed))
        return response

    def _response(self, send: SendMessage, request_id: RequestId | None) -> RelayedResponse:
        return RelayedResponse(self._gone, send, request_id, max_bytes=self._max_response_bytes)

    def _relayed(
        self, http_method: str, exchange: GatewayRequest, response: RelayedResponse
    ) -> GatewayRequest:
        headers = {
            name: value for name, value in exchange.headers.items() if name not in DROPPED_HEADERS
        }
        headers["accept"] = ACCEPT_BOTH
        toolset = self._opened_by.headers.get(TOOLSET_HEADER)
        if toolset is not None:
            # The whole session is limited to it.
            headers[TOOLSET_HEADER] = toolset
        if self._session is not None:
            headers["mcp-session-id"] = self._session
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        return exchange.relayed(http_method, headers, response.receive, response.send)

    async def _send(self, message: bytes) -> None:
        await self._send_queue.put(event_text(message))


async def _discard(message: bytes) -> None:
    """Drop a message."""
