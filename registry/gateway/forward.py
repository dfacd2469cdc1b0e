"""Send one request upstream and its answer back, bytes unchanged, chunks as they come.

Nothing is ever sent twice: a tool may have effects.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from multidict import CIMultiDict
from starlette.types import Send

from registry.core.errors import RegistryError
from registry.gateway.errors import (
    CredentialsRejected,
    NotServing,
    Refusal,
    UpstreamAnswered,
    UpstreamFailed,
    UpstreamTimedOut,
)
from registry.gateway.headers import (
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    SESSION_HEADER,
    returned_headers,
)
from registry.gateway.translate import refusal_for
from registry.gateway.values import Route

WHOLE_BODY_BYTES = 256 * 1024
"""Answers up to this size are read before the first byte is sent, so that an upstream that breaks
off gives a clear error; larger ones and those of unknown length are streamed."""

JSON = "application/json"
EVENT_STREAM = "text/event-stream"

ACCEPTED = 202
NO_CONTENT = 204
EMPTY = frozenset({ACCEPTED, NO_CONTENT})
"""Answers to notifications and responses; they have no body whose form could be wrong."""

STATUS_ERROR = 400
STATUS_REDIRECT = 300
STATUS_SERVER_ERROR = 500
CREDENTIAL_STATUSES = frozenset({401, 403, 407})


@dataclass(slots=True)
class Answering:
    """How far the answer got.

    Attributes:
        has_started: Whether the status line was sent, so that no error can be sent any more.
        is_event_stream: Whether the body may end after any event.
    """

    has_started: bool = False
    is_event_stream: bool = False


SealSession = Callable[[str], str]
"""From the upstream's session id to the client's."""


class Forwarder:
    """Exchanges single requests with upstreams over one pooled session.

    Args:
        session: Must follow no environment proxies and keep no cookies: callers share it.
        connect_timeout_seconds: Longest wait for a connection to be made.
        total_timeout_seconds: Longest time for an answer that is no standing stream.
    """

    def __init__(
        self,
        session: ClientSession,
        *,
        connect_timeout_seconds: float,
        total_timeout_seconds: float,
    ) -> None:
        self._session = session
        self._connect_timeout_seconds = connect_timeout_seconds
        self._total_timeout_seconds = total_timeout_seconds
        self._call_timeouts: dict[float, ClientTimeout] = {}
        self._stream_timeout = ClientTimeout(
            total=None, connect=connect_timeout_seconds, sock_connect=connect_timeout_seconds
        )

    @asynccontextmanager
    async def open(
        self,
        http_method: str,
        route: Route,
        headers: CIMultiDict[str],
        body: bytes | bytearray | None,
        *,
        is_standing: bool,
    ) -> AsyncIterator[ClientResponse]:
        """Send a request; the response's body is unread, and the connection closed if left so.

        Args:
            http_method: As sent upstream.
            route: Where to.
            headers: All headers that go upstream.
            body: Sent as it is.
            is_standing: The answer is a stream that stays open, silent for as long as it likes.

        Raises:
            UpstreamTimedOut: No answer in time.
            UpstreamFailed: No connection, or it broke.
        """
        timeout = self._stream_timeout if is_standing else self._call_timeout(route)
        try:
            response = await self._session.request(
                http_method,
                route.target,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            )
            try:
                yield response
            finally:
                # Cancels what the upstream still sends; does nothing once the body was read.
                response.close()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, RegistryError) as exc:
            raise failure(route, exc) from exc

    async def exchange(
        self,
        http_method: str,
        route: Route,
        headers: CIMultiDict[str],
        body: bytes | bytearray | None,
        send: Send,
        answering: Answering,
        seal: SealSession | None,
        *,
        is_standing: bool = False,
    ) -> None:
        """Send a request and relay its answer to the client.

        Args:
            http_method: As sent upstream.
            route: Where to.
            headers: All headers that go upstream.
            body: Sent as it is.
            send: The client's ASGI channel.
            answering: Is kept up to date with how far the answer got.
            seal: Makes the client's session id of the upstream's; None drops it.
            is_standing: The answer is a stream that stays open, silent for as long as it likes.

        Raises:
            Refusal: Nothing was sent yet, and this should be; or the stream broke off.
        """
        async with self.open(
            http_method, route, headers, body, is_standing=is_standing
        ) as response:
            await self._relay(response, route, send, answering, seal)

    async def _relay(
        self,
        response: ClientResponse,
        route: Route,
        send: Send,
        answering: Answering,
        seal: SealSession | None,
    ) -> None:
        status = response.status
        if status >= STATUS_REDIRECT:
            _refuse_misleading(status, route)
        answered = response.headers
        content_type = answered.get(CONTENT_TYPE, "")
        is_stream = content_type.startswith(EVENT_STREAM)
        length = _length(response)
        if not (is_stream or content_type.startswith(JSON) or length == 0 or status in EMPTY):
            _refuse_foreign(status, content_type, route)
        out = returned_headers(answered, is_stream=is_stream)
        if seal is not None and (session_id := answered.get(SESSION_HEADER)):
            out.append((b"mcp-session-id", seal(session_id).encode()))
        start = {"type": "http.response.start", "status": status, "headers": out}
        if not is_stream and length is not None and length <= WHOLE_BODY_BYTES:
            whole = await response.read()
            if status != NO_CONTENT:
                out.append((b"content-length", str(len(whole)).encode()))
            answering.has_started = True
            await send(start)
            await send({"type": "http.response.body", "body": whole})
            return
        answering.is_event_stream = is_stream
        if length is not None and not is_stream:
            out.append((b"content-length", str(length).encode()))
        answering.has_started = True
        await send(start)
        # Without a body of its own this message makes the server send the headers at once.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _call_timeout(self, route: Route) -> ClientTimeout:
        idle_seconds = route.idle_timeout_seconds
        timeout = self._call_timeouts.get(idle_seconds)
        if timeout is None:
            timeout = self._call_timeouts[idle_seconds] = ClientTimeout(
                total=self._total_timeout_seconds,
                # Also bounds the wait for a free connection when all of them are in use.
                connect=max(self._connect_timeout_seconds, idle_seconds),
                sock_connect=self._connect_timeout_seconds,
                sock_read=idle_seconds,
            )
        return timeout


def failure(route: Route, error: Exception) -> Refusal:
    """Return what the client is told of a failed exchange."""
    match error:
        case TimeoutError():
            return UpstreamTimedOut(route.server_name)
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorDNSError():
            return UpstreamFailed(f"The server {route.server_name} cannot be reached.")
        case RegistryError():
            return refusal_for(error)
        case ValueError():
            return UpstreamFailed(f"The request to {route.server_name} cannot be sent.")
        case _:
            return UpstreamFailed(f"The server {route.server_name} broke the connection.")


def _length(response: ClientResponse) -> int | None:
    """Return how long the decoded body is, where that is known."""
    if CONTENT_ENCODING in response.headers:
        return None
    length = response.headers.get(CONTENT_LENGTH)
    if length is not None:
        return int(length)
    return 0 if response.content.at_eof() or response.status == NO_CONTENT else None


def _refuse_misleading(status: int, route: Route) -> None:
    if status in CREDENTIAL_STATUSES:
        # Passed on, it would make the client throw its own, valid, token away.
        raise CredentialsRejected(route.server_name, status)
    if status < STATUS_ERROR:
        raise UpstreamFailed(
            f"The server {route.server_name} answered with a redirect (HTTP {status}), which is "
            "not followed; register the address it points to."
        )


def _refuse_foreign(status: int, content_type: str, route: Route) -> None:
    if status < STATUS_REDIRECT:
        shown = content_type.partition(";")[0].strip()[:64] or "no content type"
        raise UpstreamFailed(f"The server {route.server_name} answered {shown} instead of JSON.")
    passed_on = 502 if status >= STATUS_SERVER_ERROR and status != NotServing.status else status
    raise UpstreamAnswered(route.server_name, passed_on, status)
