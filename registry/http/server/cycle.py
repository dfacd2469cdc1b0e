"""Request/response cycle over HTTP/1.1: uvicorn's, with a fast path for most answers.

Most answers have a Content-Length and are sent in one piece. For those, uvicorn's checks, two
regular expressions per header, cost more than the rest of the head: here each name is checked once
and all values together. Everything else takes uvicorn's path.
"""

import asyncio
import re
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from registry.http.server.transport import JoiningTransport

CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that no header value may contain; as in uvicorn."""

MAX_NAMES = 256
NO_BODY = frozenset({204, 304})
"""Statuses whose answers never have a body."""

CHANGES_FRAMING = frozenset({b"connection", b"transfer-encoding"})
CONTENT_LENGTH = b"content-length"

_known_names: dict[bytes, bytes] = {}
"""Checked header names, and their form on the wire."""


class Cycle(RequestResponseCycle):
    """A request and its answer."""

    def __init__(
        self,
        protocol: HttpToolsProtocol,
        transport: JoiningTransport,
        *,
        keep_alive: bool,
        expect_100_continue: bool,
    ) -> None:
        # Replaces the base class's initialisation, which takes all this as arguments.
        self.scope = protocol.scope
        self.transport: JoiningTransport = transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.access_logger = protocol.access_logger
        self.access_log = protocol.access_log
        self.default_headers = protocol.server_state.default_headers
        self.message_event = asyncio.Event()
        self.on_response = protocol.on_response_complete
        self.disconnected = False
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray()
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0
        self._head: bytes | None = None

    @override
    async def send(self, message: Any) -> None:
        if self._head is None:
            if not self.response_started and message["type"] == "http.response.start":
                self._head = self._short_head(message)
            if self._head is None:
                await super().send(message)
            else:
                # For uvicorn: an error from here on closes the connection, without another head.
                self.response_started = True
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        head, self._head = self._head, None
        self.waiting_for_100_continue = False
        body = message.get("body", b"")
        is_whole = len(body) == self.expected_content_length and not message.get("more_body")
        if not is_whole or message["type"] != "http.response.body":
            self.transport.write(head)
            await super().send(message)
            return
        self.transport.write_whole(head, body)
        self.expected_content_length = 0
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _short_head(self, message: Any) -> bytes | None:
        """Return the head of an answer for the fast path, or None for uvicorn's path."""
        status = message["status"]
        if status in NO_BODY or self.access_log or self.scope["method"] == "HEAD":
            return None
        headers = message.get("headers", ())
        if self.default_headers:
            headers = [*self.default_headers, *headers]
        length = None
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            sent = _known_names.get(name) or _checked(name)
            if sent is None:
                return None
            if sent == CONTENT_LENGTH:
                length = int(value)
            lines += (sent, b": ", value, b"\r\n")
        if length is None or CONTROL.search(b"".join([value for _, value in headers])):
            return None
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self.chunked_encoding = False
        self.expected_content_length = length
        return b"".join(lines)


def _checked(name: bytes) -> bytes | None:
    """Return a header name's form on the wire, or None if uvicorn must handle it."""
    sent = name.lower()
    if HEADER_RE.search(name) or sent in CHANGES_FRAMING:
        return None
    if len(_known_names) < MAX_NAMES:
        _known_names[name] = sent
    return sent
