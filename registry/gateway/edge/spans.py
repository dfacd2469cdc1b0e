"""OpenTelemetry spans of gateway requests. Imported only if an exporter is configured.

Each request is a server span with the client's span as its parent; the upstream request is a
client span below it. Names and attributes follow the semantic conventions for MCP
(https://opentelemetry.io/docs/specs/semconv/gen-ai/mcp/), which are still in development.
Arguments and results are never attributes.
"""

import hashlib
import time

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from registry.core.logs import without_secrets
from registry.gateway.edge.recorder import LABELLED_METHODS, OTHER
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import CallOutcome
from registry.gateway.protocol.trace_context import TRACEPARENT, TRACESTATE, TraceContext
from registry.usage.values import clean_name

NO_MESSAGE = frozenset({"GET", "DELETE", "response"})
"""Values of `GatewayRequest.method` that are no JSON-RPC method."""

TARGET_ATTRIBUTES = {"prompts/get": "gen_ai.prompt.name", "resources/read": "mcp.resource.uri"}
SESSION_CHARACTERS = 16

Attributes = dict[str, AttributeValue]


class SpanTracing:
    """Creates the spans of requests."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, exchange: GatewayRequest) -> "RequestSpans":
        """Start the span of a request at its arrival, with the client's span as parent."""
        # The SDK times spans with this clock; the monotonic clock has another origin.
        elapsed = exchange.client.monotonic() - exchange.began_at
        span = self._tracer.start_span(
            exchange.method if exchange.method in LABELLED_METHODS else OTHER,
            _context(exchange.trace),
            SpanKind.SERVER,
            start_time=time.time_ns() - round(elapsed * 1e9),
        )
        return RequestSpans(self._tracer, span)


class RequestSpans:
    """The spans of one request."""

    __slots__ = ("_server", "_tracer", "_upstream", "trace_id")

    def __init__(self, tracer: Tracer, server: Span) -> None:
        self._tracer = tracer
        self._server = server
        self._upstream: Span | None = None
        self.trace_id = f"{server.get_span_context().trace_id:032x}"

    def forwarding(self, exchange: GatewayRequest) -> None:
        """Start the span of the upstream request, and name it in the headers."""
        upstream = self._upstream = self._tracer.start_span(
            _name(exchange), set_span_in_context(self._server, Context()), SpanKind.CLIENT
        )
        named = upstream.get_span_context()
        own = TraceContext(self.trace_id, f"{named.span_id:016x}", int(named.trace_flags))
        exchange.headers[TRACEPARENT] = own.traceparent
        state = named.trace_state.to_header()
        if state:
            exchange.headers[TRACESTATE] = state
        else:
            exchange.headers.pop(TRACESTATE, None)

    def end(self, exchange: GatewayRequest, outcome: CallOutcome) -> None:
        """End both spans, with the attributes known now."""
        if self._server.is_recording():
            self._describe(exchange, outcome)
        if self._upstream is not None:
            self._upstream.end()
        self._server.end()

    def _describe(self, exchange: GatewayRequest, outcome: CallOutcome) -> None:
        attributes = _attributes(exchange, outcome)
        server = self._server
        server.update_name(_name(exchange))
        server.set_attributes(attributes)
        server.set_attributes(_caller(exchange))
        if outcome is not CallOutcome.OK:
            server.set_status(Status(StatusCode.ERROR))
        if self._upstream is None:
            return
        self._upstream.set_attributes(attributes)
        if exchange.route is not None:
            target = exchange.route.target
            self._upstream.set_attribute("server.address", target.host or "")
            self._upstream.set_attribute("server.port", target.port or 0)
        if outcome is not CallOutcome.OK:
            self._upstream.set_status(Status(StatusCode.ERROR))


def _context(parent: TraceContext | None) -> Context:
    if parent is None:
        # An empty context, or the SDK would use the current span as parent.
        return Context()
    span_context = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header([parent.state]) if parent.state else None,
    )
    return set_span_in_context(NonRecordingSpan(span_context), Context())


def _name(exchange: GatewayRequest) -> str:
    method = exchange.method if exchange.method in LABELLED_METHODS else OTHER
    # Span names need low cardinality: clients may call tools of any name.
    return method if exchange.tool is None else f"{method} {exchange.tool}"


def _attributes(exchange: GatewayRequest, outcome: CallOutcome) -> Attributes:
    method = exchange.method
    attributes: Attributes = {
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "mcp_gateway.server": exchange.server,
        "mcp_gateway.outcome": outcome.value,
    }
    if method not in NO_MESSAGE:
        attributes["mcp.method.name"] = clean_name(method)
    if exchange.tool is not None:
        attributes["gen_ai.operation.name"] = "execute_tool"
        attributes["gen_ai.tool.name"] = exchange.tool
    named = TARGET_ATTRIBUTES.get(method)
    if named is not None and exchange.target is not None:
        # The URL of a resource may contain a key.
        attributes[named] = clean_name(without_secrets(exchange.target))
    if exchange.request_id is not None:
        attributes["jsonrpc.request.id"] = clean_name(str(exchange.request_id))
    version = exchange.headers.get("mcp-protocol-version")
    if version is not None:
        attributes["mcp.protocol.version"] = clean_name(version)
    session = exchange.headers.get("mcp-session-id")
    if session is not None:
        # The id itself, with the caller's token, would give access to the session.
        digest = hashlib.sha256(session.encode()).hexdigest()
        attributes["mcp.session.id"] = digest[:SESSION_CHARACTERS]
    if exchange.error_code:
        attributes["rpc.response.status_code"] = str(exchange.error_code)
    if outcome is not CallOutcome.OK:
        attributes["error.type"] = str(exchange.error_code or outcome.value)
    return attributes


def _caller(exchange: GatewayRequest) -> Attributes:
    attributes: Attributes = {}
    client = exchange.scope.get("client")
    if client:
        attributes["client.address"] = str(client[0])
    if exchange.user is not None:
        attributes["user.id"] = exchange.user.user_id
    return attributes
