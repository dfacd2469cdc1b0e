"""JSON-RPC messages as the gateway relays them: text first, parsed only where necessary."""

from collections.abc import AsyncIterator, Mapping
from enum import Enum
from typing import Any

import orjson

from registry.core.json import JsonObject, dump_text, load_text, members
from registry.gateway.protocol.envelope import Envelope
from registry.http.client.connection import ResponseBody
from registry.upstream.events import EventParser, ServerSentEvent

INPUT_REQUIRED = "input_required"


class MessageKind(Enum):
    """The role of a message for the request during which it came."""

    ANSWER = "answer"
    NOTICE = "notice"
    REQUEST = "request"


class Message:
    """One message from a server.

    Attributes:
        raw: The JSON text of the message.
    """

    __slots__ = ("_body", "_is_exact", "kind", "raw")

    def __init__(self, kind: MessageKind, raw: bytes, body: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.raw = raw
        self._body = body
        self._is_exact: bool | None = None

    @property
    def body(self) -> dict[str, Any]:
        """Return the parsed message.

        Raises:
            ValueError: It is not a JSON object.
        """
        if self._body is None:
            body = orjson.loads(self.raw)
            if type(body) is not dict:
                raise ValueError("The message is not a JSON object.")
            self._body = body
        return self._body

    def editable(self) -> JsonObject:
        """Return the message parsed so that `dump_text` changes only what was edited."""
        return load_text(self.raw)


def read_message(raw: bytes, request_id: str) -> Message | None:
    """Return the role of *raw* for the request *request_id*, or None if it is unrelated.

    Raises:
        ValueError: It is not JSON.
    """
    body = orjson.loads(raw)
    if type(body) is not dict:
        return None
    if "method" in body:
        return Message(MessageKind.REQUEST if "id" in body else MessageKind.NOTICE, raw, body)
    # An error about a message that could not be parsed has no id.
    if body.get("id") == request_id or (body.get("id") is None and "error" in body):
        return Message(MessageKind.ANSWER, raw, body)
    return None


def renamed(envelope: Envelope, member: str, name: str) -> bytes:
    """Return the text of a request with one parameter replaced."""
    if envelope.is_canonical:
        params = {**envelope.params, member: name}
        return orjson.dumps({**envelope.body, "params": params})
    body = load_text(envelope.raw)
    members(body["params"])[member] = name
    return dump_text(body)


def with_arguments(envelope: Envelope, added: Mapping[str, Any]) -> Envelope:
    """Return a call with further arguments, which replace the client's own of the same names."""
    params = envelope.params
    own = params.get("arguments")
    if own is not None and type(own) is not dict:
        # Refused by the check of arguments.
        return envelope
    params = {**params, "arguments": {**(own or {}), **added}}
    body = {**envelope.body, "params": params}
    if envelope.is_canonical:
        return envelope._replace(params=params, body=body, raw=orjson.dumps(body))
    exact = load_text(envelope.raw)
    sent = members(exact["params"])
    sent["arguments"] = {**members(sent.get("arguments")), **added}
    return envelope._replace(params=params, body=body, raw=dump_text(exact))


def with_id(message: Message, ours: str, theirs: str | int | None) -> bytes:
    """Return the text of an answer with the id that its receiver knows.

    Args:
        message: The answer.
        ours: The id in the answer; long and random, so that it can be found in the text.
        theirs: The id to put in its place.

    Raises:
        ValueError: The message is not an answer.
    """
    raw = message.raw
    known = b'"%s"' % ours.encode()
    if raw.count(known) == 1 and raw[raw.find(known) - 1 : raw.find(known)] != b"\\":
        return raw.replace(known, orjson.dumps(theirs))
    body = message.editable()
    if "result" not in body and "error" not in body:
        raise ValueError("The message is not a JSON-RPC response.")
    body["id"] = theirs
    return dump_text(body)


async def read_events(body: ResponseBody, max_bytes: int) -> AsyncIterator[ServerSentEvent]:
    """Yield the complete events of *body*, each of at most *max_bytes*.

    Raises:
        EventTooLargeError: An event exceeds *max_bytes*.
    """
    parser = EventParser(max_bytes)
    async for chunk in body.iter_any():
        for event in parser.feed(chunk):
            yield event


def event_text(raw: bytes) -> bytes:
    """Return a message as a server-sent event."""
    if b"\n" in raw or b"\r" in raw:
        lines = b"".join(b"data: %s\n" % line for line in raw.splitlines())
        return b"event: message\n%s\n" % lines
    return b"event: message\ndata: %s\n\n" % raw
