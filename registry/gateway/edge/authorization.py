"""What callers get who must authorise the registry at a server first, and how their calls go on.

A client that can open URLs is asked to (elicitation in URL mode); any other gets an error with the
link. In the stateless era the client repeats its request once the user has agreed, with a sealed
state, and the call waits until the user has finished. In the handshake's era it is told by an
error, and repeats the request by itself.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from mcp_types import CLIENT_CAPABILITIES_META_KEY

from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject, dump_text, load_text, members
from registry.core.latency_watcher import LatencyWatcher
from registry.core.seal import Seal
from registry.gateway.edge.error_responses import refusal_body, result_body
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    AuthorizationDeclined,
    AuthorizationRequired,
    UrlElicitationRequired,
)
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.transport.call_watch import CallWatch
from registry.oauth.ports import AccessTokens

WAIT_SECONDS = 60.0
"""How long a repeated request waits for its user to finish in the browser."""

STATE_LIFETIME = timedelta(minutes=15)
INPUT = "authorize"
RESUMABLE = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Requests that may be answered with `input_required` (MCP 2026-07-28)."""

OWN_MEMBERS = ("requestState", "inputResponses")


class AuthorizationPrompts:
    """Asks callers to authorise the registry, and waits for them.

    Args:
        tokens: Says when a user's access token has come.
        seal: Seals the states of requests.
    """

    def __init__(
        self, tokens: AccessTokens, seal: Seal, latency_watcher: LatencyWatcher, clock: Clock
    ) -> None:
        self._tokens = tokens
        self._seal = seal
        self._latency_watcher = latency_watcher
        self._clock = clock

    def answer(
        self, exchange: GatewayRequest, required: AuthorizationRequired
    ) -> tuple[int, bytes]:
        """Return HTTP status and body of the answer to a request that needs authorization.

        The code of the error is noted in *exchange*.
        """
        exchange.error_code = required.rpc_code
        request_id = exchange.request_id
        if exchange.is_modern and request_id is not None:
            if exchange.method in RESUMABLE and opens_urls(_capabilities(exchange.params)):
                return 200, result_body(self._input_required(exchange, required), request_id)
            if exchange.method == "tools/call":
                content = [{"type": "text", "text": required.message}]
                result = {"resultType": "complete", "content": content, "isError": True}
                return 200, result_body(result, request_id)
        elif exchange.opens_urls:
            refusal = UrlElicitationRequired(required)
            exchange.error_code = refusal.rpc_code
            return 200, refusal_body(exchange, refusal)
        is_inside = exchange.reports_errors_in_body
        return 200 if is_inside else required.http_status, refusal_body(exchange, required)

    async def resumed(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext
    ) -> Envelope:
        """Return a repeated request without our state, after its user has finished.

        One with another's state is returned as it is.

        Raises:
            AuthorizationDeclined: The user does not want to.
            ClientGone: The client disconnected.
        """
        state = envelope.params.get("requestState")
        if not isinstance(state, str):
            return envelope
        content = self._seal.open(state, self._clock.now())
        if content is None:
            return envelope
        principal, digest, server_id, flow_id = orjson.loads(content)
        if principal != user.principal or digest != _digest(envelope.method, envelope.params):
            return envelope
        response = members(members(envelope.params.get("inputResponses")).get(INPUT))
        if response.get("action") in {"decline", "cancel"}:
            raise AuthorizationDeclined
        if response:
            with CallWatch(self._latency_watcher, exchange.client.receive, None):
                await self._tokens.arrived(user.user_id, server_id, flow_id, WAIT_SECONDS)
        envelope = _without_state(envelope)
        exchange.params = envelope.params
        return envelope

    def _input_required(
        self, exchange: GatewayRequest, required: AuthorizationRequired
    ) -> JsonObject:
        params: JsonObject = {
            name: value for name, value in required.elicitation.items() if name != "elicitationId"
        }
        principal = "" if exchange.user is None else exchange.user.principal
        digest = _digest(exchange.method, exchange.params)
        content = [principal, digest, required.server_id, required.link.flow_id]
        expires_at = self._clock.now() + STATE_LIFETIME
        return {
            "resultType": "input_required",
            "inputRequests": {INPUT: {"method": "elicitation/create", "params": params}},
            "requestState": self._seal.seal(orjson.dumps(content), expires_at),
        }


def opens_urls(capabilities: Mapping[str, Any]) -> bool:
    """Whether a client can open URLs for its user."""
    return "url" in members(capabilities.get("elicitation"))


def _capabilities(params: Mapping[str, Any]) -> JsonObject:
    return members(members(params.get("_meta")).get(CLIENT_CAPABILITIES_META_KEY))


def _digest(method: str, params: Mapping[str, Any]) -> str:
    """Return a digest of what a request asks for: its repetition must ask for the same."""
    asked = [method, params.get("name"), params.get("uri"), params.get("arguments")]
    text = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:32]


def _without_state(envelope: Envelope) -> Envelope:
    params = {name: value for name, value in envelope.params.items() if name not in OWN_MEMBERS}
    body = {**envelope.body, "params": params}
    if envelope.is_canonical:
        return envelope._replace(params=params, body=body, raw=orjson.dumps(body))
    exact = load_text(envelope.raw)
    for name in OWN_MEMBERS:
        members(exact["params"]).pop(name, None)
    return envelope._replace(params=params, body=body, raw=dump_text(exact))
