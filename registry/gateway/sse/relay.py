"""Relay between a client and a server that both use the HTTP+SSE transport (2024-11-05).

Only the server's endpoint address is replaced, so that messages come to the gateway first; each is
decided on as on every path, and tools are listed from memory.
"""

from registry.auth.identity import UserContext
from registry.gateway.client.answers import FAILURES, Channel, failed
from registry.gateway.client.connector import Connector
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.error_responses import error_body
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import CredentialsRejected, Refusal, ServerUnknown
from registry.gateway.passthrough import PassThrough
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.messages import event_text
from registry.gateway.sse.send_queue import SendQueue
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.forwarder import ANNOUNCEMENT
from registry.gateway.values import Route


class SseRelay:
    """One HTTP+SSE client, and its stream with the server.

    Args:
        channel: The server's stream.
        route: The server.
        send_queue: The client's stream.
        admission: Supplies the credentials of users who bring their own.
        passthrough: Answers what the server must not get.
        announced_lists: Notified when a server announces that one of its lists changed.
    """

    def __init__(
        self,
        connector: Connector,
        channel: Channel,
        route: Route,
        send_queue: SendQueue,
        admission: Admission,
        passthrough: PassThrough,
        announced_lists: AnnouncedLists,
    ) -> None:
        self._connector = connector
        self._channel = channel
        self._route = route
        self._send_queue = send_queue
        self._admission = admission
        self._passthrough = passthrough
        self._announced_lists = announced_lists

    async def relay(self) -> None:
        """Pass on the server's messages until its stream ends; a failure ends it too."""
        # Long-lived: the server may be silent for as long as it likes.
        self._channel.answer.rest()
        try:
            async for event in self._channel.events:
                if event.name == "message" and event.data:
                    if ANNOUNCEMENT in event.data:
                        self._announced_lists.add(self._route)
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
            own = await self._passthrough.own_answer(exchange, envelope, user, route)
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
        sent = await self._admission.credentials(route, user)
        raw = bytes(envelope.raw)
        try:
            await self._connector.post(route, endpoint, sent.headers.copy(), raw)
        except CredentialsRejected as rejected:
            sent = await self._admission.other_credentials(route, user, sent, rejected)
            await self._connector.post(route, endpoint, sent.headers.copy(), raw)

    async def idle(self) -> None:
        """Return at once: requests in progress are not known here."""

    async def close(self) -> None:
        """Close the server's stream, which ends its work for the client."""
        self._channel.answer.close()
