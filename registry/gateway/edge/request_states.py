"""What the gateway seals for the repetition of a request of the stateless era (`requestState`).

Each state is bound to caller, tool and arguments, and expires. A server may ask for input too,
after the gateway has: then its state follows the gateway's own, which is what the call has passed
so far. Nothing is stored here; who needs a state to count once sees to it.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import orjson
from starlette.types import Message, Send

from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import canonical_json, dump_text, load_text, members
from registry.core.seal import Seal
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import StateMismatch, StateUnknown
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.gateway.transport.early_stream import EVENT_STREAM, KEEP_ALIVE
from registry.upstream.events import SILENT, EventParser, ServerSentEvent, written
from registry.upstream.loops import Instance

SEPARATOR = "~"
MAX_STATES = 4
"""How many states of the gateway one requestState may hold."""

OWN_MEMBERS = ("requestState", "inputResponses")
ASKS = INPUT_REQUIRED.encode()
MAX_ASKING_BYTES = 256 * 1024
"""Longer answers ask for nothing; they pass in pieces."""


Subject: TypeAlias = tuple[str, str]
"""Caller and digest of a request."""


class RequestStates:
    """Seals and opens states.

    Args:
        seal: Seals them.
        instance: Begins them: another gateway behind this one has states of its own, and one of
            ours that has expired is no server's.
    """

    def __init__(self, seal: Seal, instance: Instance, clock: Clock) -> None:
        self._seal = seal
        self._mark = f"{instance.id}."
        self._marks = tuple(f"{known}." for known in instance.known)
        self._clock = clock

    def seal(
        self, exchange: GatewayRequest, kind: str, content: Sequence[Any], lifetime: timedelta
    ) -> str:
        """Return a requestState by which the gateway asks for the repetition of a request.

        Args:
            exchange: The request; its caller is known.
            kind: Names the part of the gateway that reads it, and the client's responses.
            content: For that part; JSON.
            lifetime: How long it is accepted.
        """
        return self._sealed(subject_of(exchange), kind, content, lifetime, None)

    def seal_before(
        self,
        state: str,
        subject: Subject,
        kind: str,
        content: Sequence[Any],
        lifetime: timedelta,
    ) -> str:
        """Return a server's state behind one that passes the call on.

        Args:
            state: The server's; empty if it gave none.
            subject: Of the request.
            kind: As of `seal`, like the others.
            content: For that part; JSON.
            lifetime: How long it is accepted.
        """
        return self._sealed(subject, kind, content, lifetime, state) + SEPARATOR + state

    def _sealed(
        self,
        subject: Subject,
        kind: str,
        content: Sequence[Any],
        lifetime: timedelta,
        before: str | None,
    ) -> str:
        bound = [kind, *subject, _text_digest(before), *content]
        return self._mark + self._seal.seal(orjson.dumps(bound), self._clock.now() + lifetime)

    def resumed(self, exchange: GatewayRequest, envelope: Envelope, user: UserContext) -> Envelope:
        """Return a repeated request without the gateway's states, which *exchange* then has.

        One with a server's state alone is returned as it is.

        Raises:
            StateUnknown: A state was not sealed here, or has expired.
            StateMismatch: It is of another caller, tool or arguments.
        """
        state = envelope.params.get("requestState")
        if not isinstance(state, str) or not state.startswith(self._marks):
            return envelope
        exchange.envelope = envelope
        states: dict[str, Sequence[Any]] = {}
        rest: str | None = state
        number = 0
        while rest is not None and rest.startswith(self._marks):
            number += 1
            if number > MAX_STATES:
                raise StateUnknown
            part, separator, rest_text = rest.partition(SEPARATOR)
            rest = rest_text if separator else None
            kind, content = self._opened(exchange, part, rest, user)
            states[kind] = content
        exchange.states = states
        if rest is None:
            exchange.responses = members(envelope.params.get("inputResponses"))
        envelope = with_state(envelope, rest)
        exchange.envelope, exchange.params = envelope, envelope.params
        return envelope

    def _opened(
        self, exchange: GatewayRequest, part: str, rest: str | None, user: UserContext
    ) -> tuple[str, list[Any]]:
        content = self._seal.open(part.partition(".")[2], self._clock.now())
        if content is None:
            raise StateUnknown
        kind, principal, digest, rest_digest, *own = orjson.loads(content)
        if principal != user.principal:
            raise StateMismatch("is another caller's")
        if digest != _digest(exchange):
            raise StateMismatch("is of a call of another tool, or with other arguments")
        if rest_digest != _text_digest(rest):
            raise StateMismatch("was modified")
        return kind, own


class PassedState:
    """Adds a state of the gateway to what a server asks for, as the answer to a request.

    Args:
        send: The client's ASGI channel.
        add: Returns the state for the client, from the server's; that is empty if it gave none.
        max_bytes: Longest event.
    """

    __slots__ = ("_add", "_head", "_held", "_max_bytes", "_parser", "_send")

    def __init__(self, send: Send, add: Callable[[str], str], *, max_bytes: int) -> None:
        self._send = send
        self._add = add
        self._max_bytes = max_bytes
        self._head: Message | None = None
        self._held = bytearray()
        self._parser: EventParser | None = None

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(EVENT_STREAM):
                self._parser = EventParser(self._max_bytes)
                await self._send(message)
            else:
                # Its length may change.
                self._head = message
            return
        body: bytes = message.get("body", b"")
        if self._parser is not None:
            pieces = [self._event(event) for event in self._parser.feed_all(body)]
            await self._send({**message, "body": b"".join(pieces)})
            return
        if self._head is not None:
            self._held += body
            if message.get("more_body") and len(self._held) <= MAX_ASKING_BYTES:
                return
            head, self._head = self._head, None
            body = bytes(self._held)
            if ASKS in body and len(body) <= MAX_ASKING_BYTES:
                body = self._edited(body)
                head = {**head, "headers": _resized(head["headers"], len(body))}
            await self._send(head)
        await self._send({**message, "body": body})

    def _event(self, event: ServerSentEvent) -> bytes:
        if event is SILENT:
            return KEEP_ALIVE
        data = self._edited(event.data) if ASKS in event.data else event.data
        return written(event._replace(data=data.translate(LINE_ENDS)))

    def _edited(self, raw: bytes) -> bytes:
        try:
            body = load_text(raw)
        except (ValueError, RecursionError):
            return raw
        result = members(body.get("result"))
        if result.get("resultType") != INPUT_REQUIRED:
            return raw
        given = result.get("requestState")
        result["requestState"] = self._add(given if isinstance(given, str) else "")
        return dump_text(body)


LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
"""JSON has line ends only between tokens."""


def _resized(headers: Sequence[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [
        (name, str(length).encode() if name == b"content-length" else value)
        for name, value in headers
    ]


def subject_of(exchange: GatewayRequest) -> Subject:
    """Return what the states of a request are bound to."""
    return "" if exchange.user is None else exchange.user.principal, _digest(exchange)


def _digest(exchange: GatewayRequest) -> str:
    """Return a digest of what a request asks for: its repetition must ask for the same."""
    envelope = exchange.envelope
    params = exchange.params
    if envelope is not None and not envelope.is_canonical:
        # Numbers that orjson rounds are not the same for the server.
        params = members(load_text(envelope.raw).get("params"))
    asked = [exchange.method, *(params.get(name) for name in ("name", "uri", "arguments"))]
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


def _text_digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def with_state(envelope: Envelope, rest: str | None) -> Envelope:
    """Return the request with a server's state instead of the gateway's."""
    dropped = OWN_MEMBERS if rest is None else () if rest else ("requestState",)
    changed = {"requestState": rest} if rest else {}
    params = {n: v for n, v in envelope.params.items() if n not in dropped} | changed
    body = {**envelope.body, "params": params}
    if envelope.is_canonical:
        return envelope._replace(params=params, body=body, raw=orjson.dumps(body))
    exact = load_text(envelope.raw)
    own = members(exact["params"])
    exact["params"] = {**{n: v for n, v in own.items() if n not in dropped}, **changed}
    return envelope._replace(params=params, body=body, raw=dump_text(exact))
