"""One request in progress, and the reading of its body."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from registry.auth.identity import UserContext
from registry.core.asgi import body_of, declares_more
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.errors import (
    BodyTooLarge,
    BodyTooSlow,
    CallOutcome,
    NotAcceptable,
    NotJson,
    Refusal,
)
from registry.gateway.protocol.envelope import Envelope, RequestId
from registry.gateway.protocol.headers import Headers
from registry.gateway.protocol.trace_context import TraceContext
from registry.gateway.transport.call_watch import CallWatch, ClientGone
from registry.gateway.transport.forwarder import ClientChannel, StreamTermination
from registry.gateway.values import NO_SERVER, Route, ToolEntry
from registry.upstream.loops import Instance

JSON = "application/json"
TOOLSETS = "toolsets/"
"""Begins what follows `/mcp/` in the path of a toolset; no server has such a path."""

NO_STATES: Mapping[str, Any] = MappingProxyType({})


class CallSpans(Protocol):
    """The spans of one request."""

    @property
    def trace_id(self) -> str:
        """The trace they belong to: 32 hexadecimal characters."""

    def forwarding(self, exchange: "GatewayRequest") -> None:
        """Start the client span of the upstream request; the headers name it from now on."""

    def end(self, exchange: "GatewayRequest", outcome: CallOutcome) -> None:
        """End them."""


class GatewayRequest:
    """What is known so far of one request; each step of the endpoint adds to it.

    Attributes:
        slug: The part of the path after `/mcp/`; empty for all servers, and for a toolset.
        toolset: Name of the toolset of the path; None for any other path.
        preset: Arguments that a toolset adds to the call, as JSON text; empty for none.
        server: The route's slug once it is known to exist, for logs.
        label: The server's label in metrics.
        method: JSON-RPC method, `response`, or the HTTP method, for metrics.
        request_id: Repeated in a refusal.
        params: The parameters of the JSON-RPC message, as the client sent them.
        client: Receives the response.
        termination: Watches for the final message of a stream that ends on purpose.
        user: The caller, once known, for records.
        route: The server, once the caller is known to have access, for records.
        target: Tool, prompt or resource as the client names it, for records.
        tool: The tool, once it is known to be served; a label of metrics.
        tool_entry: The same, with the rules for its calls.
        output_check: Checks the message with the result of a call, and returns what the client
            gets.
        task: What answers it, while it is being answered.
        ended_by: Why it is cancelled, if that is no shutdown.
        permits: What limits have counted it in.
        began_at: Monotonic seconds.
        decided_at: When it was allowed and about to go upstream; 0 until then.
        request_bytes: Length of the body.
        error_code: The code of the JSON-RPC error response; 0 without one.
        trace: The trace context that the client sent.
        spans: The spans, if tracing is on.
        http_method: The HTTP method.
        list_mark: Marks the entries of lists for another gateway; None for all other clients.
        reports_errors_in_body: Whether a failure is reported in a JSON-RPC response with HTTP
            status 200: for requests of the handshake's era that were understood.
        is_relayed: Whether it carries a message of an HTTP+SSE client, whose stream is in this
            worker, so that no other worker can answer it.
        opens_urls: Whether the client of a session of the handshake's era can open URLs.
        fills_forms: Whether it can show its user a form.
        client_name: What it calls itself.
        envelope: The message; None until it is understood.
        states: What the gateway sealed for the request that this one repeats, by kind.
        responses: The client's responses to what the gateway asked with it.
        may_repeat: Whether the called tool claims that a second call changes nothing.
        is_wrapped: Whether the client sent the call as one of `call_tool`.
    """

    __slots__ = (
        "began_at",
        "client",
        "client_name",
        "decided_at",
        "ended_by",
        "envelope",
        "error_code",
        "fills_forms",
        "headers",
        "http_method",
        "is_modern",
        "is_relayed",
        "is_wrapped",
        "label",
        "list_mark",
        "may_repeat",
        "method",
        "opens_urls",
        "outcome",
        "output_check",
        "params",
        "permits",
        "preset",
        "reports_errors_in_body",
        "request_bytes",
        "request_id",
        "responses",
        "route",
        "scope",
        "server",
        "slug",
        "spans",
        "states",
        "target",
        "task",
        "termination",
        "tool",
        "tool_entry",
        "toolset",
        "trace",
        "user",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.client = ClientChannel(receive, send)
        self.slug: str = scope["path"][5:].rstrip("/")
        self.toolset: str | None = None
        if self.slug.startswith(TOOLSETS):
            self.toolset, self.slug = self.slug.removeprefix(TOOLSETS), ""
        self.preset = b""
        self.headers: Headers = {}
        self.server = NO_SERVER
        self.label = NO_SERVER
        self.http_method: str = scope["method"]
        self.method = self.http_method
        self.request_id: RequestId | None = None
        self.is_modern = False
        self.reports_errors_in_body = False
        self.is_relayed = False
        self.is_wrapped = False
        self.opens_urls = False
        self.fills_forms = False
        self.client_name: str | None = None
        self.envelope: Envelope | None = None
        self.states: Mapping[str, Sequence[Any]] = NO_STATES
        self.responses: Mapping[str, Any] = NO_STATES
        self.may_repeat = False
        self.list_mark: Instance | None = None
        self.outcome = CallOutcome.OK
        self.termination: StreamTermination | None = None
        self.params: Mapping[str, Any] = {}
        self.user: UserContext | None = None
        self.route: Route | None = None
        self.target: str | None = None
        self.tool: str | None = None
        self.tool_entry: ToolEntry | None = None
        self.permits: tuple[Any, ...] = ()
        self.task: asyncio.Task[Any] | None = None
        self.ended_by: Refusal | None = None
        self.output_check: Callable[[bytes], bytes] | None = None
        self.began_at = 0.0
        self.decided_at = 0.0
        self.request_bytes = 0
        self.error_code = 0
        self.trace: TraceContext | None = None
        self.spans: CallSpans | None = None

    def relayed(
        self, http_method: str, headers: Headers, receive: Receive, send: Send
    ) -> "GatewayRequest":
        """Return a request of the same client to the same path, with a channel of its own.

        Args:
            http_method: Its HTTP method.
            headers: Its headers.
            receive: Returns the client's disconnect.
            send: Receives the response.
        """
        request = GatewayRequest(self.scope, receive, send)
        request.http_method = request.method = http_method
        request.headers = headers
        request.is_relayed = True
        return request

    @property
    def trace_id(self) -> str | None:
        """Return the trace of the request: the client's or a new one."""
        if self.spans is not None:
            return self.spans.trace_id
        return None if self.trace is None else self.trace.trace_id

    def served_by(self, route: Route) -> None:
        """Set which server answers, for logs, metrics and records."""
        self.route = route
        self.server = route.slug
        self.label = route.label

    async def answer(
        self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Send a complete JSON response."""
        await self.client.answer(
            status,
            [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
            body,
        )

    async def answer_empty(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send a response without a body."""
        await self.client.start(status, headers)
        await self.client.send({"type": "http.response.body", "body": b""})

    async def read_body(
        self, latency_watcher: LatencyWatcher, max_body_bytes: int, max_seconds: float
    ) -> bytes | bytearray:
        """Return the request's body.

        Raises:
            BodyTooLarge: The body exceeds the limit, or declares a length that does.
            BodyTooSlow: It takes longer than *max_seconds*.
            ClientGone: The client disconnected.
        """
        declared = self.headers.get("content-length", "0")
        if declares_more(declared, max_body_bytes):
            raise BodyTooLarge(max_body_bytes)
        whole = body_of(self.scope)
        if whole is not None:
            # It came with its head, so no waiting is necessary.
            if len(whole) > max_body_bytes:
                raise BodyTooLarge(max_body_bytes)
            self.request_bytes = len(whole)
            return whole
        try:
            with CallWatch(latency_watcher, None, max_seconds):
                body = await self._read(max_body_bytes)
        except TimeoutError:
            raise BodyTooSlow from None
        self.request_bytes = len(body)
        return body

    async def _read(self, max_body_bytes: int) -> bytes | bytearray:
        message = await self.client.receive()
        body: bytes | bytearray = message.get("body", b"")
        if message.get("more_body"):
            body = bytearray(body)
            while message.get("more_body"):
                if len(body) > max_body_bytes:
                    raise BodyTooLarge(max_body_bytes)
                message = await self.client.receive()
                body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGone
        if len(body) > max_body_bytes:
            raise BodyTooLarge(max_body_bytes)
        return body


def _is_utf8_json(content_type: str) -> bool:
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    # JSON is UTF-8 (RFC 8259); with another charset, two parsers could read different texts.
    return kind == JSON and all(
        not parameter.startswith("charset") or parameter.replace('"', "") == "charset=utf-8"
        for parameter in parameters
    )


def check_media(headers: Headers) -> None:
    """Check that the client sends JSON and accepts the server's media types.

    Only plain JSON: browsers may send other types across origins without a preflight request.

    Raises:
        NotJson: The client sends another type.
        NotAcceptable: The client accepts another type only.
    """
    content_type = headers.get("content-type", "")
    if (
        not (content_type == JSON or _is_utf8_json(content_type))
        or headers.get("content-encoding", "identity").lower() != "identity"
    ):
        raise NotJson
    accept = headers.get("accept")
    if accept and JSON not in accept and "*/*" not in accept and "application/*" not in accept:
        raise NotAcceptable
