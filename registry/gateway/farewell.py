"""End a `subscriptions/listen` stream as its protocol says: with the result of the request.

Clients tell by it that the server went away on purpose, and listen again at once.
"""

import orjson
from starlette.types import Message, Send

from registry.gateway.envelope import RequestId
from registry.gateway.errors import Refusal, ShuttingDown

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

EVENT_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
LONGEST_END = 4


class Farewell:
    """Passes a stream on and knows whether it stands between two events.

    Args:
        send: The client's ASGI channel.
    """

    __slots__ = ("_send", "_tail")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tail = b""

    async def __call__(self, message: Message) -> None:
        """Pass one ASGI message on."""
        body = message.get("body", b"")
        if body:
            self._tail = (self._tail + body[-LONGEST_END:])[-LONGEST_END:]
        await self._send(message)

    @property
    def is_between_events(self) -> bool:
        """Whether another event can follow now."""
        return not self._tail or self._tail.endswith(EVENT_ENDS)


def farewell(stream: Farewell | None, refusal: Refusal, request_id: RequestId | None) -> bytes:
    """Return what a stream ends with: nothing, unless it is one that says goodbye."""
    if stream is None or not stream.is_between_events or not isinstance(refusal, ShuttingDown):
        return b""
    result = {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: request_id}}
    message = {"jsonrpc": "2.0", "id": request_id, "result": result}
    return b"event: message\ndata: " + orjson.dumps(message) + b"\n\n"
