"""How one worker reaches the others."""

from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send
from typing_extensions import override

from registry.gateway.ports import PeerGone, Peers


class Alone(Peers):
    """The only worker: there is nobody to reach.

    Args:
        own: Its id.
    """

    def __init__(self, own: str) -> None:
        self.own = own

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Refuse: whichever worker that was, it is gone.

        Raises:
            PeerGone: Always.
        """
        raise PeerGone

    @override
    async def tell(self, worker: str, message: bytes) -> bytes | None:
        """Return None: nobody hears it."""
        return None

    @override
    async def tell_all(self, message: bytes) -> list[bytes]:
        """Return no replies."""
        return []

    @override
    def listen(self, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Do nothing: nobody tells anything."""
