"""Notification streams (GET) of the gateway's sessions with servers.

A server can send messages there at any time. Many do so during calls, too: the official TypeScript
server sends there whatever a tool asks for or reports without naming its call. Each message goes
to the owner of the session: to their newest call in progress in it, else to the stream that their
client holds, in whichever worker that is.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import members
from registry.gateway.aggregate.bridge import ClientBridge
from registry.gateway.client.answers import (
    FAILURES,
    NOT_FOUND,
)
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import UpstreamSession
from registry.gateway.errors import NotServing, Refusal, UpstreamAnswered
from registry.gateway.notifications.feed import (
    LISTS_CHANGED,
    METHOD_NOT_FOUND,
    UPDATED,
)
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.notifications.streams import NotificationStreams
from registry.gateway.protocol import era_translation
from registry.gateway.protocol.messages import Message, read_events, read_message
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.http.client.exchange import UpstreamAnswer
from registry.upstream.client import DEFAULT_RETRY_SECONDS, MAX_RETRY_SECONDS
from registry.upstream.messages import error_text, result_text

log = structlog.get_logger()

OPEN_SECONDS = 0.5
"""How long the beginning of a session waits for its stream: some servers send no head before the
first message."""

NO_ID = ""
"""Matches no request id: these streams carry no responses."""

ASKED_OUTSIDE = "The client cannot be asked outside of a call."


@dataclass(slots=True)
class _Position:
    """Where and when a stream is resumed."""

    last_event_id: str | None = None
    pause_seconds: float = DEFAULT_RETRY_SECONDS


class SessionMessages:
    """Reads the notification streams of the sessions of this worker.

    Args:
        streams: Limits the long-lived streams to one server.
        announced_lists: Notified when a server announces that one of its lists changed.
    """

    def __init__(
        self,
        connector: Connector,
        bridge: ClientBridge,
        notification_streams: NotificationStreams,
        background_tasks: BackgroundTasks,
        clock: Clock,
        *,
        streams: StreamLimits,
        announced_lists: AnnouncedLists,
    ) -> None:
        self._connector = connector
        self._bridge = bridge
        self._notification_streams = notification_streams
        self._background_tasks = background_tasks
        self._clock = clock
        self._streams = streams
        self._announced_lists = announced_lists

    async def read(self, session: UpstreamSession) -> None:
        """Start reading the stream of *session*; return when it is open, or has failed to open."""
        is_open = asyncio.Event()
        session.has_stream = True
        reading = session.reading = self._background_tasks.start(self._read(session, is_open))
        reading.add_done_callback(lambda _: is_open.set())
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_SECONDS):
                await is_open.wait()

    async def _read(self, session: UpstreamSession, is_open: asyncio.Event) -> None:
        try:
            with self._streams.hold(session.route.server_id):
                await self._follow(session, is_open)
        except NotServing:
            log.warning("upstream_session_stream_limit_reached", server=session.route.slug)
        except Exception:
            # Whatever a server sends, its session must continue to serve calls.
            log.exception("upstream_session_stream_failed", server=session.route.slug)
        finally:
            session.has_stream = False

    async def _follow(self, session: UpstreamSession, is_open: asyncio.Event) -> None:
        """Read the stream, and resume it whenever it ends, as long as the server has one."""
        position = _Position()
        while True:
            try:
                answer = await self._connector.fetch_stream(session, position.last_event_id)
                is_open.set()
                try:
                    await self._read_events(session, answer, position)
                finally:
                    answer.close()
            except (Refusal, *FAILURES) as exc:
                if not is_open.is_set():
                    # No stream: it is optional for servers.
                    return
                if isinstance(exc, UpstreamAnswered) and exc.answered == NOT_FOUND:
                    await self._connector.sessions.forget(session)
                    return
                log.debug(
                    "upstream_session_stream_interrupted",
                    server=session.route.slug,
                    reason=type(exc).__name__,
                )
            await self._clock.sleep(position.pause_seconds)
            # Some servers always end the stream immediately.
            position.pause_seconds = min(position.pause_seconds * 2, MAX_RETRY_SECONDS)

    async def _read_events(
        self, session: UpstreamSession, answer: UpstreamAnswer, position: "_Position"
    ) -> None:
        async for event in read_events(answer.body, answer.max_bytes):
            if event.id is not None:
                position.last_event_id = event.id
            position.pause_seconds = DEFAULT_RETRY_SECONDS
            if event.retry_ms is not None:
                position.pause_seconds = min(event.retry_ms / 1000, MAX_RETRY_SECONDS)
            if event.name == "message" and event.data:
                message = read_message(event.data, NO_ID)
                if message is not None:
                    await self._receive(session, message)

    async def _receive(self, session: UpstreamSession, message: Message) -> None:
        method = message.body.get("method")
        if "id" in message.body:
            with suppress(Refusal):
                await self._asked(session, message)
        elif method in LISTS_CHANGED:
            self._announced_lists.add(session.route)
        elif not await self._connector.sessions.deliver(session, message) and method != UPDATED:
            await self._send_to_client(session, message.raw)

    async def _asked(self, session: UpstreamSession, message: Message) -> None:
        body = message.body
        method, params = str(body.get("method")), members(body.get("params"))
        if method == "ping":
            await self._connector.post_in(session, result_text(body["id"], {}))
            return
        is_delivered = era_translation.is_within(
            method, params, session.key.client_capabilities
        ) and (
            await self._connector.sessions.deliver(session, message)
            or session.keep(message)
            or await self._send_to_client(session, self._bridge.question_outside(session, message))
        )
        if not is_delivered:
            refusal = error_text(body["id"], METHOD_NOT_FOUND, ASKED_OUTSIDE)
            await self._connector.post_in(session, refusal)

    async def _send_to_client(self, session: UpstreamSession, raw: bytes | None) -> bool:
        """Send a message on the stream that the client holds; return whether there is one."""
        nonce = session.key.owner.session
        return (
            nonce is not None
            and raw is not None
            and await self._notification_streams.say(nonce, raw)
        )
