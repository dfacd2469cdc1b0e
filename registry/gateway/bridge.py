"""Serve servers of the old HTTP+SSE transport (2024-11-05) to clients of streamable HTTP.

Such a server ties everything to one open event stream. Holding one open for each client would
make the gateway stateful, so what needs no server is answered here, and each tool call opens a
stream of its own, says hello, calls, relays what comes and closes it.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from aiohttp import ClientError, ClientTimeout
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

import registry
from registry.gateway.envelope import RequestId
from registry.gateway.errors import MethodUnknown, UpstreamFailed
from registry.gateway.events import Event, EventTooLargeError, read_events
from registry.gateway.forward import SUCCESS, Client, check_status, failure
from registry.gateway.headers import CONTENT_TYPE
from registry.gateway.patience import Patience
from registry.gateway.values import Route
from registry.gateway.watch import CallWatch
from registry.gateway.wire import UpstreamAnswer, Wire

HELLO_ID = "gateway-initialize"
SSE_VERSION = "2024-11-05"
HELLO = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": HELLO_ID,
        "method": "initialize",
        "params": {
            "protocolVersion": SSE_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "mcp-gateway-registry", "version": registry.__version__},
        },
    }
)
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
EVENT_STREAM = "text/event-stream"
MAX_ANSWER_BYTES = 16 * 1024
"""Longest answer to a message that is read; nothing in it is of interest."""


class SseBridge:
    """Calls tools on servers of the HTTP+SSE transport.

    Args:
        wire: How requests are sent.
        patience: Says which calls are worth watching.
        connect_timeout_seconds: Longest wait for a connection to be made.
        total_timeout_seconds: Longest time for a call.
    """

    def __init__(
        self,
        wire: Wire,
        patience: Patience,
        *,
        connect_timeout_seconds: float,
        total_timeout_seconds: float,
    ) -> None:
        self._wire = wire
        self._patience = patience
        self._connect_timeout_seconds = connect_timeout_seconds
        self._total_timeout_seconds = total_timeout_seconds

    async def call(
        self,
        route: Route,
        headers: CIMultiDict[str],
        raw: bytes | bytearray,
        request_id: RequestId,
        client: Client,
    ) -> None:
        """Call a tool and relay the answer, and what the server reports on the way.

        Args:
            route: Where to.
            headers: Credentials; the transport's own headers are set here.
            raw: The client's request, sent as it is.
            request_id: Of that request.
            client: Gets the answer: JSON, or an event stream if something comes before it.

        Raises:
            Refusal: The server cannot be reached or does not speak the transport.
            ClientGone: There is nobody left to answer.
        """
        timeout = ClientTimeout(
            connect=self._connect_timeout_seconds,
            sock_connect=self._connect_timeout_seconds,
            sock_read=route.idle_timeout_seconds,
        )
        try:
            with CallWatch(self._patience, client.receive, self._total_timeout_seconds):
                await self._converse(
                    _Call(self._wire, route, headers, timeout), raw, request_id, client
                )
        except EventTooLargeError:
            raise UpstreamFailed(
                f"The server {route.server_name} sent too large an event."
            ) from None
        except (TimeoutError, ClientError, HttpProcessingError, OSError, ValueError) as exc:
            raise failure(route, exc) from exc

    async def _converse(
        self, call: "_Call", raw: bytes | bytearray, request_id: RequestId, client: Client
    ) -> None:
        answer = await call.open_stream()
        try:
            events = read_events(answer.body)
            await call.find_endpoint(events)
            await call.post(HELLO)
            await call.result(events, HELLO_ID)
            await call.post(INITIALIZED)
            await call.post(raw)
            await call.relay(events, request_id, client)
        finally:
            answer.close()


class _Call:
    """One conversation: a stream that the server writes to, an endpoint that takes messages."""

    def __init__(
        self, wire: Wire, route: Route, headers: CIMultiDict[str], timeout: ClientTimeout
    ) -> None:
        self._wire = wire
        self._route = route
        self._headers = headers
        self._timeout = timeout
        self._endpoint = route.target

    async def open_stream(self) -> UpstreamAnswer:
        headers = CIMultiDict({**self._headers, "Accept": EVENT_STREAM})
        headers.pop(CONTENT_TYPE, None)
        answer = await self._wire.request(
            "GET", self._route.target, headers, b"", timeout=self._timeout
        )
        try:
            check_status(answer.status, self._route)
            if not answer.headers.get(CONTENT_TYPE, "").startswith(EVENT_STREAM):
                raise self._broken("did not open an event stream")
        except UpstreamFailed:
            answer.close()
            raise
        return answer

    async def find_endpoint(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if event.name == "endpoint":
                endpoint = self._route.target.join(URL(event.data.decode()))
                if endpoint.origin() != self._route.target.origin():
                    # The credentials belong to the registered origin only.
                    raise self._broken("names an endpoint of another origin")
                self._endpoint = endpoint
                return
        raise self._broken("named no endpoint")

    async def post(self, message: bytes | bytearray) -> None:
        headers = CIMultiDict({**self._headers, "Content-Type": "application/json"})
        answer = await self._wire.request(
            "POST", self._endpoint, headers, message, timeout=self._timeout
        )
        try:
            check_status(answer.status, self._route)
            if answer.status not in SUCCESS:
                raise self._broken(f"answered HTTP {answer.status}")
            # Read to its end, a short answer leaves the connection fit for the next call.
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) <= MAX_ANSWER_BYTES:
                await answer.body.read()
        finally:
            answer.close()

    async def result(self, events: AsyncIterator[Event], request_id: RequestId) -> None:
        async for event in events:
            message = await self._message(event)
            if message is not None and _answers(message, request_id):
                if "error" in message:
                    raise self._broken("refused to initialize")
                return
        raise self._broken("closed its stream")

    async def relay(
        self, events: AsyncIterator[Event], request_id: RequestId, client: Client
    ) -> None:
        async for event in events:
            message = await self._message(event)
            if message is None:
                continue
            is_last = _answers(message, request_id)
            if is_last and not client.has_started:
                await _send_json(client, event.data)
                return
            await _send_event(client, event.data, is_last=is_last)
            if is_last:
                return
        raise self._broken("closed its stream")

    async def _message(self, event: Event) -> dict[str, Any] | None:
        """Return what the client may see; a server's own request is declined here."""
        try:
            message = orjson.loads(event.data) if event.name == "message" else None
        except orjson.JSONDecodeError:
            raise self._broken("sent an event that is no JSON") from None
        if not isinstance(message, dict):
            return None
        if "method" not in message or "id" not in message:
            return message
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            reply["result"] = {}
        else:
            reply["error"] = {"code": MethodUnknown.code, "message": "Not available here"}
        await self.post(orjson.dumps(reply))
        return None

    def _broken(self, what: str) -> UpstreamFailed:
        return UpstreamFailed(f"The server {self._route.server_name} {what}.")


def _answers(message: Mapping[str, Any], request_id: RequestId) -> bool:
    return "method" not in message and message.get("id") == request_id


async def _send_json(client: Client, data: bytes) -> None:
    await client.start(
        200,
        [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())],
    )
    await client.send({"type": "http.response.body", "body": data})


async def _send_event(client: Client, data: bytes, *, is_last: bool) -> None:
    if not client.has_started:
        headers = [
            (b"content-type", EVENT_STREAM.encode()),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        await client.start(200, headers, is_event_stream=True)
    lines = b"".join(b"data: " + line + b"\n" for line in data.split(b"\n"))
    body = b"event: message\n" + lines + b"\n"
    await client.send({"type": "http.response.body", "body": body, "more_body": not is_last})
