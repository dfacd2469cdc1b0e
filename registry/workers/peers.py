"""How one worker reaches the others: requests to be answered there, and messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from aiohttp.connector import UnixConnector
from multidict import CIMultiDict
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override
from yarl import URL

from registry.gateway.ports import PeerGone, Peers
from registry.gateway.transport.call_watch import CallWatch, LatencyWatcher
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
"""Guards against a mistake of ours, not against strangers."""


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
            raise ConnectionError("The message broke off, or does not end.")
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


log = structlog.get_logger()

CONNECT_SECONDS = 2.0
REPLY_SECONDS = 2.0
"""How long a worker may take to reply to a message; one that hangs must not hang the others."""

CONNECTIONS_SECONDS = 0.5
"""How long one may take to tell of its connections: somebody waits for a list meanwhile."""

MAX_HEADER_BYTES = 64 * 1024
BASE = "http://worker"
"""Any address will do: the connection leads to one socket only."""

GONE = (ClientError, OSError, TimeoutError)


class SingleWorker(Peers):
    """The only worker: there is nobody to reach.

    Args:
        own: Its id.
    """

    def __init__(self, own: str) -> None:
        self.own = own

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Refuse: whichever worker that was, it is gone.

        Raises:
            PeerGone: Always.
        """
        raise PeerGone

    @override
    async def tell(self, worker: str, message: bytes) -> bytes | None:
        """Return None: nobody hears it."""
        return None

    @override
    async def tell_all(self, message: bytes) -> list[bytes]:
        """Return no replies."""
        return []

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Do nothing: nobody tells anything."""


class WorkerPeers(Peers):
    """The other workers of the same registry, each on a unix socket in one private folder.

    Connections are made anew for each request: that costs a fraction of a millisecond, and none
    can be stale.

    Args:
        place: Where they meet.
    """

    def __init__(self, place: RuntimeDirectory) -> None:
        self.own = place.own
        self.place = place
        self._latency_watcher = LatencyWatcher()
        self._handler: Reply | None = None

    def entrance(self, app: ASGIApp, counts: Reply, connections: Reply) -> PeerServer:
        """Return what this worker serves to the others.

        Args:
            app: Answers what they forward.
            counts: Returns what this worker has counted.
            connections: Returns what this worker knows of connections.
        """
        replies = {MESSAGES: self._reply, COUNTS: counts, CONNECTIONS: connections}
        return PeerServer(app, replies)

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Have *worker* answer this request, and relay its answer as it comes.

        Raises:
            PeerGone: Nobody answers under that id, or the request was forwarded to us.
            ClientGone: There is nobody left to answer.
        """
        if is_from_peer(scope):
            raise PeerGone
        # A disconnect cancels, by closing the connection, what the other worker does for it.
        with CallWatch(self._latency_watcher, receive, None):
            headers = relayed_headers(scope)
            async with self._asked(
                worker, scope["method"], target(scope), headers, body
            ) as answer:
                await _relay(answer, worker, send)

    @override
    async def tell(self, worker: str, message: bytes) -> bytes | None:
        """Send a message to one worker and return its reply; None when it is gone."""
        return await self._told(worker, MESSAGES, message)

    @override
    async def tell_all(self, message: bytes) -> list[bytes]:
        """Send a message to all others; return the replies that came within two seconds."""
        replies = await self._told_all(MESSAGES, message)
        return [reply for reply in replies.values() if reply is not None]

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Have *handler* reply to the messages of other workers."""
        self._handler = handler

    async def counts(self) -> dict[str, bytes | None]:
        """Return what each of the others has counted; None for those that did not tell."""
        return await self._told_all(COUNTS, b"")

    async def connections(self, question: bytes) -> list[bytes]:
        """Ask all others of connections; return the replies that came within half a second."""
        replies = await self._told_all(CONNECTIONS, question, CONNECTIONS_SECONDS)
        return [reply for reply in replies.values() if reply is not None]

    async def _reply(self, message: bytes) -> bytes:
        return b"" if self._handler is None else await self._handler(message)

    async def _told_all(
        self, path: str, message: bytes, seconds: float = REPLY_SECONDS
    ) -> dict[str, bytes | None]:
        others = self.place.others()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._told(other, path, message, seconds)) for other in others
            ]
        return {other: task.result() for other, task in zip(others, tasks, strict=True)}

    async def _told(
        self, worker: str, path: str, message: bytes, seconds: float = REPLY_SECONDS
    ) -> bytes | None:
        try:
            async with (
                asyncio.timeout(seconds),
                self._asked(worker, "POST", path, CIMultiDict(), message) as answer,
            ):
                return await answer.read() if answer.ok else None
        except (PeerGone, *GONE):
            return None

    @asynccontextmanager
    async def _asked(
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
        # The id may be a client's invention, and becomes part of a path.
        if worker == self.own or not is_worker_id(worker):
            raise PeerGone
        async with ClientSession(
            connector=UnixConnector(str(self.place.socket_of(worker))),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        ) as session:
            # It would send a GET or DELETE again when the other end dies.
            session._retry_connection = False  # noqa: SLF001 - there is no public way; tested
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
        # Left incomplete, the answer makes the server cut the connection: half must not look
        # whole.
        log.warning("worker_relay_cut", peer=worker)
        return
    await send({"type": "http.response.body", "body": b""})
