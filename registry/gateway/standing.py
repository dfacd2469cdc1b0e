"""Streams that stay open: what changes is told there."""

from registry.gateway.callers import Caller
from registry.gateway.envelope import Envelope
from registry.gateway.errors import MethodNotAllowed
from registry.gateway.offering import Offering
from registry.gateway.requests import Exchange


class Standing:
    """Serves the standing streams of clients that the gateway itself is the server of."""

    async def stream(self, exchange: Exchange, caller: Caller, offering: Offering) -> None:
        """Serve the GET stream of a client of the handshake's era."""
        raise MethodNotAllowed("POST, DELETE")

    async def listen(
        self, exchange: Exchange, caller: Caller, offering: Offering, envelope: Envelope
    ) -> None:
        """Serve `subscriptions/listen` of a client of the stateless era."""
        raise MethodNotAllowed("POST, DELETE")
