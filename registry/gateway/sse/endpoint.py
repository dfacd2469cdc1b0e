"""Endpoint for clients of the HTTP+SSE transport (2024-11-05).

Such a client opens one event stream, receives on it the address to post to, and gets every
response on the stream. That address is the same path with a sealed name of worker and stream,
bound to the caller: whichever worker a message reaches can find the one with the stream.
"""

import asyncio
import secrets
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote

import orjson
import structlog

from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.client.answers import FAILURES, failed
from registry.gateway.client.connector import Connector
from registry.gateway.dispatch import Dispatcher
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.requests import JSON, GatewayRequest
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.edge.stream_guard import StreamGuard
from registry.gateway.errors import NotServing, Refusal, SessionUnknown
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.passthrough import PassThrough
from registry.gateway.ports import PeerGone, Peers
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import Headers
from registry.gateway.sse.relay import SseRelay
from registry.gateway.sse.send_queue import SendQueue
from registry.gateway.sse.session import SseSession
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.call_watch import CallWatch, ClientGone
from registry.gateway.transport.early_stream import STREAM_HEADERS
from registry.gateway.values import Route, asks_clients
from registry.gateway.view.offering import COMBINED
from registry.servers.values import Transport

log = structlog.get_logger()

STREAM = "stream"
"""Query parameter of the address that clients post to."""

STREAM_MARK = b"stream="
STREAMS = "streams "
"""Prefix of the scope id for the seal of that parameter; the server's id follows."""

MAX_STREAMS = 5_000
MAX_STREAMS_PER_CALLER = 500
"""Maximum number of open streams in one worker: of all callers, and of one."""

TICK_SECONDS = 15.0
"""Interval of comments on silent streams, so that proxies keep the connection open."""

MAX_STUCK_SECONDS = 60.0
"""How long a client may leave data unread."""

EVENT_STREAM = "text/event-stream"


def is_sse_client(headers: Headers) -> bool:
    """Whether a GET is the first request of an HTTP+SSE client.

    Clients of streamable HTTP open a stream within a session, send the protocol version, or
    accept JSON as well.
    """
    accept = headers.get("accept", "")
    return (
        EVENT_STREAM in accept
        and JSON not in accept
        and "mcp-session-id" not in headers
        and "mcp-protocol-version" not in headers
        and "last-event-id" not in headers
    )


def stream_name(query: bytes) -> str | None:
    """Return the sealed name of the stream that a message belongs to."""
    if STREAM_MARK not in query:
        return None
    names = parse_qs(query.decode("latin-1")).get(STREAM)
    return names[0] if names else None


@dataclass(slots=True)
class _Stream:
    """One open stream."""

    user: UserContext
    send_queue: SendQueue
    watch: CallWatch | None = None
    session: SseSession | SseRelay | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)


class SseEndpoint:
    """The streams of HTTP+SSE clients in this worker.

    Args:
        dispatcher: Answers the messages.
        passthrough: Checks messages to servers that use this transport too.
        streams: Counts the long-lived streams to each server.
        stream_guard: Ends the clients' streams.
        announced_lists: Notified when a server announces that one of its lists changed.
        base_path: The path prefix that clients see before the gateway's paths.
        max_response_bytes: Limit of a response that is collected in memory.
        max_seconds: Maximum lifetime of a stream, which is that of its sealed name.
    """

    def __init__(  # noqa: PLR0913 - a collaborator each
        self,
        dispatcher: Dispatcher,
        passthrough: PassThrough,
        admission: Admission,
        connector: Connector,
        seal: SessionSeal,
        streams: StreamLimits,
        stream_guard: StreamGuard,
        announced_lists: AnnouncedLists,
        peers: Peers,
        *,
        background_tasks: BackgroundTasks,
        latency_watcher: LatencyWatcher,
        base_path: str,
        max_response_bytes: int,
        max_seconds: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._passthrough = passthrough
        self._admission = admission
        self._connector = connector
        self._seal = seal
        self._stream_limits = streams
        self._stream_guard = stream_guard
        self._announced_lists = announced_lists
        self._peers = peers
        self._background_tasks = background_tasks
        self._latency_watcher = latency_watcher
        self._base_path = base_path
        self._max_response_bytes = max_response_bytes
        self._max_seconds = max_seconds
        self._streams: dict[str, _Stream] = {}
        self._of_one: Counter[str] = Counter()
        self._is_ticking = False

    def __len__(self) -> int:
        return len(self._streams)

    async def open(self, exchange: GatewayRequest, user: UserContext, route: Route | None) -> None:
        """Open a stream and serve it until it ends.

        Args:
            exchange: The client's GET.
            user: Who opens it.
            route: The one server behind the path; None for all.

        Raises:
            Refusal: The stream cannot be opened, or had to end.
            ClientGone: The client disconnected.
        """
        if len(self._streams) >= MAX_STREAMS:
            raise NotServing("Too many streams are open; try again later.")
        if self._of_one[user.principal] >= MAX_STREAMS_PER_CALLER:
            raise NotServing("Too many of your streams are open; close some first.")
        token = secrets.token_urlsafe(12)
        stream = self._streams[token] = _Stream(user, SendQueue())
        self._of_one[user.principal] += 1
        self._tick_later()
        try:
            await self._serve_stream(exchange, stream, token, route)
        finally:
            del self._streams[token]
            self._of_one[user.principal] -= 1
            if not self._of_one[user.principal]:
                del self._of_one[user.principal]
            stream.watch = None
            stream.send_queue.close()
            self._background_tasks.soon(stream.closing.aclose())

    async def take(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route | None,
        sealed: str,
    ) -> None:
        """Accept a message for a stream; its response goes to that stream.

        Raises:
            SessionUnknown: There is no such stream, or it is another caller's.
            Refusal: The message was refused.
        """
        opened = self._seal.open(
            sealed, principal=user.principal, server_id=STREAMS + _scope_id(exchange, route)
        )
        worker, token = orjson.loads(opened)
        if worker != self._peers.own:
            scope, client = exchange.scope, exchange.client
            try:
                await self._peers.forward(
                    worker, scope, envelope.raw, client.receive, client.pass_on
                )
            except PeerGone:
                raise SessionUnknown from None
            return
        stream = self._streams.get(token)
        match stream.session if stream is not None else None:
            case SseSession() as session:
                await session.take(exchange, envelope)
            case SseRelay() as relay if (
                # The server itself would not be limited to a toolset.
                route is not None and not self._admission.narrows(exchange, user)
            ):
                await relay.take(exchange, envelope, user, route)
            case _:
                raise SessionUnknown
        if not exchange.client.has_started:
            await exchange.answer_empty(202, [(b"content-length", b"0")])

    async def _serve_stream(
        self, exchange: GatewayRequest, stream: _Stream, token: str, route: Route | None
    ) -> None:
        refused = self._stream_guard.until_ended(exchange, route)

        async def until() -> Exception:
            reason = await refused()
            if isinstance(reason, NotServing) and stream.session is not None:
                # During shutdown, responses in progress still reach their clients.
                await stream.session.idle()
            return reason

        stream.watch = CallWatch(
            self._latency_watcher, exchange.client.receive, self._max_seconds, until
        )
        client = exchange.client
        try:
            with stream.watch:
                await self._begin(exchange, stream, route)
                await client.start(200, list(STREAM_HEADERS), is_event_stream=True)
                event: bytes | None = self._endpoint_event(exchange, stream.user, token, route)
                while event is not None:
                    await client.send(
                        {"type": "http.response.body", "body": event, "more_body": True}
                    )
                    event = await stream.send_queue.take()
        except TimeoutError:
            # The sealed name has expired; the client opens another stream.
            if not client.has_started:
                raise
        await client.send({"type": "http.response.body", "body": b""})

    async def _begin(self, exchange: GatewayRequest, stream: _Stream, route: Route | None) -> None:
        user = stream.user
        is_narrowed = self._admission.narrows(exchange, user)
        if is_narrowed:
            # Refused now rather than with the first message.
            self._admission.narrowed(exchange, user, route)
        if (
            route is None
            or is_narrowed
            or route.transport is not Transport.SSE
            or asks_clients(route)
            or not await self._admission.is_authorized(route, user)
        ):
            session = stream.session = SseSession(
                self._dispatcher,
                exchange,
                user,
                route,
                stream.send_queue,
                self._background_tasks,
                max_response_bytes=self._max_response_bytes,
            )
            stream.closing.push_async_callback(session.close)
            return
        stream.closing.enter_context(self._stream_limits.hold(route.server_id))
        credentials = (await self._admission.credentials(route, user)).headers
        try:
            async with asyncio.timeout(route.idle_timeout_seconds):
                channel = await self._connector.open_channel(route, credentials, {})
        except FAILURES as exc:
            raise failed(route, exc) from exc
        relay = stream.session = SseRelay(
            self._connector,
            channel,
            route,
            stream.send_queue,
            self._admission,
            self._passthrough,
            self._announced_lists,
        )
        stream.closing.push_async_callback(relay.close)
        relaying = self._background_tasks.start(self._relayed(relay, stream))
        stream.closing.callback(relaying.cancel)

    async def _relayed(self, relay: SseRelay, stream: _Stream) -> None:
        try:
            await relay.relay()
        except Refusal as refusal:
            if stream.watch is not None:
                stream.watch.end(refusal)

    def _endpoint_event(
        self, exchange: GatewayRequest, user: UserContext, token: str, route: Route | None
    ) -> bytes:
        name = self._seal.seal(
            orjson.dumps([self._peers.own, token]).decode(),
            principal=user.principal,
            server_id=STREAMS + _scope_id(exchange, route),
        )
        path = self._base_path + quote(exchange.scope["path"])
        return f"event: endpoint\ndata: {path}?{STREAM}={name}\n\n".encode()

    def _tick_later(self) -> None:
        # One timer for all streams, and none without any.
        if not self._is_ticking and self._streams:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._is_ticking = False
        latest = asyncio.get_running_loop().time() - MAX_STUCK_SECONDS
        for stream in self._streams.values():
            full_at = stream.send_queue.was_full_at
            if full_at is not None and full_at <= latest and stream.watch is not None:
                stream.watch.end(ClientGone())
            else:
                stream.send_queue.keep_alive()
        self._tick_later()


def _scope_id(exchange: GatewayRequest, route: Route | None) -> str:
    if exchange.toolset is not None:
        return f"{COMBINED}/{exchange.toolset}"
    return COMBINED if route is None else route.server_id
