"""What callers get who must authorise the registry at a server first, and how their calls go on.

A client that can open URLs is asked to (elicitation in URL mode); any other gets an error with the
link. In the stateless era the client repeats its request once the user has agreed, with a sealed
state, and the call waits until the user has finished. In the handshake's era it is told by an
error, and repeats the request by itself.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mcp_types import CLIENT_CAPABILITIES_META_KEY

from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.edge.error_responses import refusal_body, result_body
from registry.gateway.edge.request_states import RequestStates
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    AuthorizationDeclined,
    AuthorizationRequired,
    UrlElicitationRequired,
)
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.gateway.transport.call_watch import CallWatch
from registry.oauth.ports import AccessTokens

WAIT_SECONDS = 60.0
"""How long a repeated request waits for its user to finish in the browser."""

STATE_LIFETIME = timedelta(minutes=15)
INPUT = "authorize"
RESUMABLE = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Requests that may be answered with `input_required` (MCP 2026-07-28)."""


class AuthorizationPrompts:
    """Asks callers to authorise the registry, and waits for them.

    Args:
        tokens: Says when a user's access token has come.
        states: Seals the states of requests.
    """

    def __init__(
        self, tokens: AccessTokens, states: RequestStates, latency_watcher: LatencyWatcher
    ) -> None:
        self._tokens = tokens
        self._states = states
        self._latency_watcher = latency_watcher

    def answer(
        self, exchange: GatewayRequest, required: AuthorizationRequired
    ) -> tuple[int, bytes]:
        """Return HTTP status and body of the answer to a request that needs authorization.

        The code of the error is noted in *exchange*.
        """
        exchange.error_code = required.rpc_code
        request_id = exchange.request_id
        if exchange.is_modern and request_id is not None:
            if exchange.method in RESUMABLE and opens_urls(client_capabilities(exchange.params)):
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

    async def wait(self, exchange: GatewayRequest, user: UserContext) -> None:
        """Wait for the user of a repeated request to finish, if that is what it is repeated for.

        Raises:
            AuthorizationDeclined: The user does not want to.
            ClientGone: The client disconnected.
        """
        state = exchange.states.get(INPUT)
        if state is None:
            return
        server_id, flow_id = state
        response = members(exchange.responses.get(INPUT))
        if response.get("action") in {"decline", "cancel"}:
            raise AuthorizationDeclined
        if response:
            with CallWatch(self._latency_watcher, exchange.client.receive, None):
                await self._tokens.arrived(user.user_id, server_id, flow_id, WAIT_SECONDS)

    def _input_required(
        self, exchange: GatewayRequest, required: AuthorizationRequired
    ) -> JsonObject:
        params: JsonObject = {
            name: value for name, value in required.elicitation.items() if name != "elicitationId"
        }
        content = [required.server_id, required.link.flow_id]
        return {
            "resultType": INPUT_REQUIRED,
            "inputRequests": {INPUT: {"method": "elicitation/create", "params": params}},
            "requestState": self._states.seal(exchange, INPUT, content, STATE_LIFETIME),
        }


def opens_urls(capabilities: Mapping[str, Any]) -> bool:
    """Whether a client can open URLs for its user."""
    return "url" in members(capabilities.get("elicitation"))


def fills_forms(capabilities: Mapping[str, Any]) -> bool:
    """Whether a client can show its user a form; one without any mode can do only that."""
    declared = capabilities.get("elicitation")
    return isinstance(declared, dict) and ("form" in declared or "url" not in declared)


def client_capabilities(params: Mapping[str, Any]) -> JsonObject:
    """Return the capabilities that a request of the stateless era declares."""
    return members(members(params.get("_meta")).get(CLIENT_CAPABILITIES_META_KEY))
