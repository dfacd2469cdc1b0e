"""Which headers are read, which go upstream, and which come back. Everything else is dropped."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from registry.gateway.errors import HeaderMismatch

PARAM_PREFIX = b"mcp-param-"

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
COMMON_FORWARDED = ("accept", "mcp-protocol-version", "last-event-id", *TRACE_HEADERS)
MCP_NAME = "mcp-name"
MODERN_FORWARDED = ("mcp-method", MCP_NAME)
CONVERSATION_HEADER = "x-conversation-id"
"""By which a client names a conversation, each of which has sessions with servers of its own."""

JSON_LINE = "content-type: application/json\r\n"
READ_HERE = (
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "mcp-session-id",
    "origin",
    CONVERSATION_HEADER,
    "via",
)
LISTS = frozenset({"accept", "tracestate", "baggage", "via"})
"""Headers that may be sent in several lines, which mean the same as one joined by commas."""

KNOWN: Mapping[bytes, str] = {
    name.encode(): name for name in (*COMMON_FORWARDED, *MODERN_FORWARDED, *READ_HERE)
}

RETURNED = tuple(
    (name, name.encode()) for name in ("content-type", "cache-control", "retry-after", "allow")
)
SESSION_HEADER = "mcp-session-id"
CONTENT_LENGTH = "content-length"
CONTENT_ENCODING = "content-encoding"
CONTENT_TYPE = "content-type"

Headers = dict[str, str]
"""The headers we know, by lower-case name; values without surrounding white space."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the known headers of a request.

    uvicorn's fast parser leaves white space around values, so it is cut here.

    Raises:
        HeaderMismatch: One that may occur once is repeated, or is not ASCII.
    """
    found: Headers = {}
    for raw_name, raw_value in raw:
        name: str | None = KNOWN.get(raw_name)
        if name is None:
            if not raw_name.startswith(PARAM_PREFIX):
                continue
            name = raw_name.decode("latin-1")
        try:
            value = raw_value.strip(b" \t").decode("ascii")
        except UnicodeDecodeError:
            raise HeaderMismatch(f"The header {name} may hold ASCII only.") from None
        if name not in found:
            found[name] = value
        elif name in LISTS:
            found[name] = f"{found[name]}, {value}"
        else:
            raise HeaderMismatch(f"The header {name} appears more than once.")
    return found


class HeaderLines(NamedTuple):
    """Headers of a request as they are sent.

    Attributes:
        text: Each ends in a line break.
        lines: How many there are. With more line breaks than that, one of them holds another.
        names: In lower case.
    """

    text: str
    lines: int
    names: frozenset[str]


def header_lines(headers: Mapping[str, str]) -> HeaderLines:
    """Return *headers* as they are sent."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return HeaderLines("".join(lines), len(lines), frozenset(name.lower() for name in headers))


def forwarded_lines(
    stored: HeaderLines,
    sent: Headers,
    *,
    is_modern: bool,
    session_id: str | None = None,
    called: str | None = None,
) -> HeaderLines:
    """Return what goes upstream: the stored headers, and those of the client that may pass.

    The stored ones win. `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` pass only where they were
    checked against the body.

    Args:
        stored: Credentials and what else always goes there.
        sent: The client's.
        is_modern: Whether it speaks the stateless era.
        session_id: The upstream's own.
        called: What `Mcp-Name` names upstream, where that is not the client's name for it.
    """
    via = sent.get("via")
    # The gateways that it came through; whoever sends it on stands last.
    lines = [stored.text] if via is None else [f"via: {via}\r\n", stored.text]
    names = stored.names
    if "content-type" in sent:
        # Not the client's own words: a charset would make the upstream read another text.
        lines.append(JSON_LINE)
    for name in COMMON_FORWARDED:
        value = sent.get(name)
        if value is not None and name not in names:
            lines.append(f"{name}: {value}\r\n")
    if session_id is not None:
        lines.append(f"mcp-session-id: {session_id}\r\n")
    if is_modern:
        lines += _modern_lines(sent if called is None else {**sent, MCP_NAME: called}, names)
    return HeaderLines("".join(lines), stored.lines + len(lines) - 1, names)


def _modern_lines(sent: Headers, stored: frozenset[str]) -> list[str]:
    return [
        f"{name}: {value}\r\n"
        for name, value in sent.items()
        if name in MODERN_FORWARDED or (name.startswith("mcp-param-") and name not in stored)
    ]


def returned_headers(answered: Mapping[str, str], *, is_stream: bool) -> list[tuple[bytes, bytes]]:
    """Return those of the upstream's response headers that the client gets."""
    headers = [
        (wire_name, value.encode("latin-1", "replace"))
        for name, wire_name in RETURNED
        if (value := answered.get(name)) is not None
    ]
    if is_stream:
        headers.append((b"x-accel-buffering", b"no"))
    return headers
