"""One request in progress, and how its body is read."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from registry.gateway.envelope import RequestId
from registry.gateway.errors import BodyTooLarge, BodyTooSlow, NotAcceptable, NotJson, Outcome
from registry.gateway.farewell import Farewell
from registry.gateway.forward import Client
from registry.gateway.headers import Headers
from registry.gateway.patience import Patience
from registry.gateway.recorder import NO_SERVER
from registry.gateway.values import Route
from registry.gateway.watch import CallWatch, ClientGone

JSON = "application/json"


class Exchange:
    """What is known so far of one request; each step of the endpoint adds to it.

    Attributes:
        slug: The part of the path after `/mcp/`.
        server: The route's slug once it is known to exist, for logs.
        label: Stands for that server in metrics.
        method: JSON-RPC method, `response`, or the HTTP method, for metrics.
        request_id: Goes into a refusal.
        params: Of the JSON-RPC message, as the client sent them.
        client: Where the answer goes.
        farewell: Watches a stream that ends with a message of its own.
    """

    __slots__ = (
        "client",
        "farewell",
        "headers",
        "is_modern",
        "label",
        "method",
        "outcome",
        "params",
        "request_id",
        "scope",
        "server",
        "slug",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.client = Client(receive, send)
        self.slug: str = scope["path"][5:].rstrip("/")
        self.headers: Headers = {}
        self.server = NO_SERVER
        self.label = NO_SERVER
        self.method: str = scope["method"]
        self.request_id: RequestId | None = None
        self.is_modern = False
        self.outcome = Outcome.OK
        self.farewell: Farewell | None = None
        self.params: Mapping[str, Any] = {}

    def served_by(self, route: Route) -> None:
        """Note which server answers, for logs and metrics."""
        self.server = route.slug
        self.label = route.label

    async def answer(
        self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Send a whole JSON answer."""
        await self.client.start(
            status,
            [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        )
        await self.client.send({"type": "http.response.body", "body": body})

    async def answer_empty(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send an answer without a body."""
        await self.client.start(status, headers)
        await self.client.send({"type": "http.response.body", "body": b""})

    async def read_body(
        self, patience: Patience, max_body_bytes: int, max_seconds: float
    ) -> bytes | bytearray:
        """Return the request's body.

        Raises:
            BodyTooLarge: It is, or is declared to be, over the limit.
            BodyTooSlow: It takes longer than *max_seconds*.
            ClientGone: The client broke off.
        """
        declared = self.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > max_body_bytes:
            raise BodyTooLarge(max_body_bytes)
        try:
            with CallWatch(patience, None, max_seconds):
                return await self._read(max_body_bytes)
        except TimeoutError:
            raise BodyTooSlow from None

    async def _read(self, max_body_bytes: int) -> bytes | bytearray:
        message = await self.client.receive()
        body: bytes | bytearray = message.get("body", b"")
        if message.get("more_body"):
            body = bytearray(body)
            while message.get("more_body"):
                if len(body) > max_body_bytes:
                    raise BodyTooLarge(max_body_bytes)
                message = await self.client.receive()
                body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGone
        if len(body) > max_body_bytes:
            raise BodyTooLarge(max_body_bytes)
        return body


def _is_utf8_json(content_type: str) -> bool:
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    # JSON is UTF-8 (RFC 8259); what says otherwise would be read in two ways.
    return kind == JSON and all(
        not parameter.startswith("charset") or parameter.replace('"', "") == "charset=utf-8"
        for parameter in parameters
    )


def check_media(headers: Headers) -> None:
    """Check that the client sends JSON and takes what servers answer.

    Plain JSON only: browsers may send other types across origins without asking first.

    Raises:
        NotJson: It sends something else.
        NotAcceptable: It takes something else.
    """
    content_type = headers.get("content-type", "")
    if (
        not (content_type == JSON or _is_utf8_json(content_type))
        or headers.get("content-encoding", "identity").lower() != "identity"
    ):
        raise NotJson
    accept = headers.get("accept")
    if accept and JSON not in accept and "*/*" not in accept and "application/*" not in accept:
        raise NotAcceptable
