"""Client and server of the HTTP+SSE transport (2024-11-05): the server's stream is passed on.

Only the address that it names is replaced, so that messages come here first; each is decided on
as everywhere, and tools are listed from memory.
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
"""Returns what the gateway answers itself; None when the server is to. Raises a Refusal when the
message may not be sent."""


class SseRelay:
    """One client of the old transport, and the stream of the server that it talks to.

    Args:
        channel: The server's stream.
        route: The server that it belongs to.
        send_queue: What the client gets on its stream.
        heard_list_changed: Called when the server says that one of its lists changed.
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
        """Pass on what the server says until it ends its stream. Its failure is that, too."""
        # Standing: the server may be silent for as long as it likes.
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
        """Bring a message to the server, or answer it here, on the stream.

        Raises:
            Refusal: It got no further, and is no request; those are told on the stream.
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
        """Return at once: what is under way there is not known here."""

    async def close(self) -> None:
        """Close the server's stream, which ends what it was doing for the client."""
        self._channel.answer.close()
