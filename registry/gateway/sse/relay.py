"""Relay between a client and a server that both use the HTTP+SSE transport (2024-11-05).

Only the server's endpoint address is replaced, so that messages come to the gateway first; each is
decided on as on every path, and tools are listed from memory.
"""

from collections.abc import Awaitable, Callable

from multidict import CIMultiDict

from registry.auth.identity import UserContext
from registry.gateway.client.answers import FAILURES, Channel, failed
from registry.gateway.client.connector import Connector
from registry.gateway.edge.error_responses import error_body
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import Refusal, ServerUnknown
from registry.gateway.notifications.feed import HeardListChanged
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.messages import event_text
from registry.gateway.sse.send_queue import SendQueue
from registry.gateway.transport.forwarder import ANNOUNCEMENT
from registry.gateway.values import Route

CredentialsOf = Callable[[Route, UserContext], Awaitable[CIMultiDict[str]]]

OwnAnswer = Callable[[GatewayRequest, Envelope, Route], Awaitable[bytes | None]]
"""Returns the gateway's own response; None if the server must respond. Raises a Refusal if the
message must not be sent."""


class SseRelay:
    """One HTTP+SSE client, and its stream with the server.

    Args:
        channel: The server's stream.
        route: The server.
        send_queue: The client's stream.
        heard_list_changed: Called when the server announces that one of its lists changed.
    """

    def __init__(
        self,
        connector: Connector,
        channel: Channel,
        route: Route,
        send_queue: SendQueue,
        credentials_of: CredentialsOf,
        own_answer: OwnAnswer,
        heard_list_changed: HeardListChanged,
    ) -> None:
        self._connector = connector
        self._channel = channel
        self._route = route
        self._send_queue = send_queue
        self._credentials_of = credentials_of
        self._own_answer = own_answer
        self._heard_list_changed = heard_list_changed

    async def relay(self) -> None:
        """Pass on the server's messages until its stream ends; a failure ends it too."""
        # Long-lived: the server may be silent for as long as it likes.
        self._channel.answer.rest()
        try:
            async for event in self._channel.events:
                if event.name == "message" and event.data:
                    if ANNOUNCEMENT in event.data:
                        self._heard_list_changed(self._route)
                    await self._send_queue.put(event_text(event.data))
        except FAILURES as exc:
            raise failed(self._route, exc) from exc
        finally:
            self._send_queue.close()

    async def take(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext, route: Route
    ) -> None:
        """Forward a message to the server, or answer it on the client's stream.

        Raises:
            Refusal: A message other than a request was refused; refused requests get a response.
        """
        try:
            own = await self._own_answer(exchange, envelope, route)
            if own is None:
                await self._send(envelope, user, route)
                return
        except Refusal as refusal:
            if not envelope.is_request:
                raise
            exchange.outcome = refusal.outcome
            own = error_body(refusal, exchange.request_id)
        await self._send_queue.put(event_text(own))

    async def _send(self, envelope: Envelope, user: UserContext, route: Route) -> None:
        endpoint = self._channel.endpoint
        if endpoint.origin() != route.target.origin():
            raise ServerUnknown
        credentials = await self._credentials_of(route, user)
        await self._connector.post(route, endpoint, credentials.copy(), bytes(envelope.raw))

    async def idle(self) -> None:
        """Return at once: requests in progress are not known here."""

    async def close(self) -> None:
        """Close the server's stream, which ends its work for the client."""
        self._channel.answer.close()
