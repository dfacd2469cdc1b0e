"""Endpoint of streamable HTTP: reads every request to `/mcp` and `/mcp/<server>`, step by step.

Order: Host and Origin, caller, body limit, envelope, method, scope, server, era, session, tool,
credentials, forwarding. The caller is authenticated on the headers, before a body is read or
parsed and before anything is looked up, so that strangers cost little and cannot find out which
servers exist; everything else is decided on the body, by `registry.gateway.dispatch`.
"""

from contextlib import AsyncExitStack

from starlette.types import Receive, Scope, Send

from registry.auth.identity import UserContext
from registry.core.asgi import body_of
from registry.core.json import members
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.dispatch import Dispatcher
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.eras import message_era
from registry.gateway.edge.recorder import Recorder
from registry.gateway.edge.requests import GatewayRequest, check_media
from registry.gateway.errors import MethodNotAllowed, OriginNotAllowed
from registry.gateway.protocol.cors import preflight, readable_by
from registry.gateway.protocol.envelope import (
    METHODS,
    check_meta,
    load_object,
    peek_object,
    read_envelope,
    usable_id,
)
from registry.gateway.protocol.headers import read_headers
from registry.gateway.sse.endpoint import SseEndpoint, is_sse_client, stream_name
from registry.servers.values import Era
from registry.web.hosts import HostGuard

ALLOWED_ALL = "POST, GET, DELETE"


class GatewayEndpoint:
    """Serves `/mcp` and `/mcp/<server>` as a raw ASGI application.

    Args:
        dispatcher: Answers the requests.
        admission: Authenticates the callers.
        sse: Adapter for clients of the HTTP+SSE transport.
        recorder: Notified of the message of each request.
        hosts: Allows origins.
        resources: Everything to be closed at the end.
        max_body_bytes: Limit of a request's body.
        body_seconds: How long a client may take to send it.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        admission: Admission,
        sse: SseEndpoint,
        recorder: Recorder,
        hosts: HostGuard,
        latency_watcher: LatencyWatcher,
        resources: AsyncExitStack,
        *,
        max_body_bytes: int,
        body_seconds: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._sse = sse
        self._recorder = recorder
        self._hosts = hosts
        self._latency_watcher = latency_watcher
        self._resources = resources
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request. No exception gets out, and no answer is a bare 500."""
        exchange = GatewayRequest(scope, receive, send)
        await self._dispatcher.run(exchange, self._serve(exchange))

    async def close(self) -> None:
        """Close everything that is open upstream; no request may be served after that."""
        await self._resources.aclose()

    async def _serve(self, exchange: GatewayRequest) -> None:
        scope = exchange.scope
        headers = exchange.headers = read_headers(scope["headers"])
        origin = headers.get("origin")
        if origin is not None:
            server = scope.get("server")
            if not self._hosts.is_allowed_origin(origin, server[1] if server else None):
                raise OriginNotAllowed
            exchange.client.extra_headers = readable_by(origin)
        match exchange.http_method:
            case "POST":
                await self._post(exchange)
            case "GET" | "DELETE":
                await self._get_or_delete(exchange)
            case "OPTIONS" if origin and "access-control-request-method" in headers:
                await exchange.answer_empty(204, preflight(headers, ALLOWED_ALL))
            case _:
                raise MethodNotAllowed(ALLOWED_ALL)

    async def _post(self, exchange: GatewayRequest) -> None:
        check_media(exchange.headers)
        user = await self._identified(exchange)
        raw = await exchange.read_body(
            self._latency_watcher, self._max_body_bytes, self._body_seconds
        )
        body = load_object(raw)
        exchange.request_id = usable_id(body)
        envelope = read_envelope(raw, body)
        query = exchange.scope.get("query_string")
        stream = stream_name(query) if query else None
        self._dispatcher.understood(exchange, envelope, is_for_stream=stream is not None)
        check_meta(envelope.params)
        if stream is None or envelope.method not in METHODS:
            await self._dispatcher.post(exchange, envelope, user)
            return
        route = await self._dispatcher.admit_for_stream(exchange, envelope, user)
        await self._sse.take(exchange, envelope, user, route, stream)

    async def _get_or_delete(self, exchange: GatewayRequest) -> None:
        user, route = await self._dispatcher.admit_without_message(exchange)
        if exchange.method == "GET" and is_sse_client(exchange.headers):
            await self._sse.open(exchange, user, route)
        else:
            await self._dispatcher.get_or_delete(exchange, user, route)

    async def _identified(self, exchange: GatewayRequest) -> UserContext:
        try:
            return await self._admission.identify(exchange)
        except Exception:
            # Without a token only the headers count, and no body is awaited; a small one that came
            # with them says what the refusal is the answer to.
            body = peek_object(body_of(exchange.scope))
            exchange.request_id = usable_id(body)
            method, params = body.get("method"), members(body.get("params"))
            if method in METHODS:
                exchange.method = method or "response"
                query = exchange.scope.get("query_string")
                exchange.is_modern = message_era(exchange.headers, params) is Era.MODERN
                exchange.reports_errors_in_body = not (
                    exchange.is_modern
                    or exchange.request_id is None
                    or (query and stream_name(query))
                )
            self._recorder.understood(exchange, params)
            self._dispatcher.refuse_loop(exchange)
            raise
