"""Communication between workers over unix sockets: forwarded requests, and messages.

Above it is the gateway, which names a worker by its id. Below it is one socket for each worker, in
a private directory. It does not know what requests and messages are about.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import ClientError, ClientResponse
from multidict import CIMultiDict
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override
from yarl import URL

from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.ports import PeerGone, Peers
from registry.gateway.transport.call_watch import CallWatch
from registry.http.client.connector import unix_socket_session
from registry.workers.relay import (
    is_from_peer,
    relayed_headers,
    restored,
    returned_headers,
    target,
)
from registry.workers.runtime_directory import RuntimeDirectory, is_worker_id

MESSAGES = "/message"
COUNTS = "/counts"
CONNECTIONS = "/connections"

Reply = Callable[[bytes], Awaitable[bytes]]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Guards against programming errors: only workers can connect."""


class PeerServer:
    """The ASGI application of a worker's unix socket.

    Args:
        app: Answers what other workers forward.
        replies: Answers messages, by path.
    """

    def __init__(self, app: ASGIApp, replies: Mapping[str, Reply]) -> None:
        self._app = app
        self._replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            return
        forwarded = restored(scope)
        if forwarded is not None:
            await self._app(forwarded, receive, send)
            return
        reply = self._replies.get(scope["path"])
        if reply is None:
            await _answer(send, 404, b"")
            return
        try:
            await _answer(send, 200, await reply(await _body(receive)))
        except Exception:
            log.exception("worker_message_failed", path=scope["path"])
            await _answer(send, 500, b"")


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or len(body) > MAX_MESSAGE_BYTES:
            raise ConnectionError(
                f"The message is incomplete, or longer than {MAX_MESSAGE_BYTES} bytes."
            )
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


log = structlog.get_logger()

CONNECT_SECONDS = 2.0
REPLY_SECONDS = 2.0
"""How long a worker may take to reply to a message; one that hangs must not block the others."""

CONNECTIONS_SECONDS = 0.5
"""How long a worker may take to return its connections: a caller is waiting for the list."""

BASE = "http://worker"
"""A placeholder: the connection leads to one unix socket, whatever the host name."""

GONE = (ClientError, OSError, TimeoutError)


class SingleWorker(Peers):
    """Implements `Peers` for a process without other workers.

    Args:
        own: Its id.
    """

    def __init__(self, own: str) -> None:
        self.own = own

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Refuse: no other worker exists.

        Raises:
            PeerGone: Always.
        """
        raise PeerGone

    @override
    async def send(self, worker: str, message: bytes) -> bytes | None:
        """Return None: no other worker exists."""
        return None

    @override
    async def broadcast(self, message: bytes) -> list[bytes]:
        """Return no replies."""
        return []

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Do nothing: no message ever arrives."""


class WorkerPeers(Peers):
    """The other workers of the same registry, each on a unix socket in one private folder.

    Each request opens a new connection: that costs a fraction of a millisecond, and no connection
    can be stale.

    Args:
        directory: Holds the sockets of all workers.
    """

    def __init__(self, directory: RuntimeDirectory) -> None:
        self.own = directory.own
        self.directory = directory
        self._latency_watcher = LatencyWatcher()
        self._handler: Reply | None = None

    def server(self, app: ASGIApp, counts: Reply, connections: Reply) -> PeerServer:
        """Return the application that this worker serves to the others.

        Args:
            app: Answers requests that they forward.
            counts: Returns this worker's metrics.
            connections: Returns the connections that this worker knows.
        """
        replies = {MESSAGES: self._reply, COUNTS: counts, CONNECTIONS: connections}
        return PeerServer(app, replies)

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Forward this request to *worker*, and stream its answer back.

        Raises:
            PeerGone: No worker answers under that id, or the request was forwarded to us.
            ClientGone: The client has disconnected.
        """
        if is_from_peer(scope):
            raise PeerGone
        # When the client disconnects, closing this connection cancels the other worker's work.
        with CallWatch(self._latency_watcher, receive, None):
            headers = relayed_headers(scope)
            async with self._request(
                worker, scope["method"], target(scope), headers, body
            ) as answer:
                await _relay(answer, worker, send)

    @override
    async def send(self, worker: str, message: bytes) -> bytes | None:
        """Send a message to one worker and return its reply; None when it is gone."""
        return await self._ask(worker, MESSAGES, message)

    @override
    async def broadcast(self, message: bytes) -> list[bytes]:
        """Send a message to all others; return the replies that came within two seconds."""
        replies = await self._ask_all(MESSAGES, message)
        return [reply for reply in replies.values() if reply is not None]

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Have *handler* reply to the messages of other workers."""
        self._handler = handler

    async def counts(self) -> dict[str, bytes | None]:
        """Return the metrics of each other worker; None for one that did not answer."""
        return await self._ask_all(COUNTS, b"")

    async def connections(self, question: bytes) -> list[bytes]:
        """Ask all others for connections; return the replies that came within half a second."""
        replies = await self._ask_all(CONNECTIONS, question, CONNECTIONS_SECONDS)
        return [reply for reply in replies.values() if reply is not None]

    async def _reply(self, message: bytes) -> bytes:
        return b"" if self._handler is None else await self._handler(message)

    async def _ask_all(
        self, path: str, message: bytes, seconds: float = REPLY_SECONDS
    ) -> dict[str, bytes | None]:
        others = self.directory.others()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._ask(other, path, message, seconds)) for other in others
            ]
        return {other: task.result() for other, task in zip(others, tasks, strict=True)}

    async def _ask(
        self, worker: str, path: str, message: bytes, seconds: float = REPLY_SECONDS
    ) -> bytes | None:
        try:
            async with (
                asyncio.timeout(seconds),
                self._request(worker, "POST", path, CIMultiDict(), message) as answer,
            ):
                return await answer.read() if answer.ok else None
        except (PeerGone, *GONE):
            return None

    @asynccontextmanager
    async def _request(
        self,
        worker: str,
        method: str,
        path: str,
        headers: CIMultiDict[str],
        body: bytes | bytearray,
    ) -> AsyncIterator[ClientResponse]:
        """Yield the head of a worker's answer.

        Raises:
            PeerGone: There was none.
        """
        # The id comes from the client and becomes part of a path.
        if worker == self.own or not is_worker_id(worker):
            raise PeerGone
        async with unix_socket_session(
            self.directory.socket_of(worker), connect_timeout_seconds=CONNECT_SECONDS
        ) as session:
            url = URL(BASE + path, encoded=True)
            try:
                answer = await session.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False
                )
            except GONE as exc:
                raise PeerGone from exc
            async with answer:
                yield answer


async def _relay(answer: ClientResponse, worker: str, send: Send) -> None:
    headers = returned_headers(answer.raw_headers)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    try:
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except GONE:
        # The answer is left incomplete, so that the server cuts the connection: a partial answer
        # must not look complete.
        log.warning("worker_relay_interrupted", peer=worker)
        return
    await send({"type": "http.response.body", "body": b""})
