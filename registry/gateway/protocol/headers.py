"""Headers: which are read, sent upstream and returned. All others are dropped."""

from collections.abc import Iterable, Mapping

from registry.gateway.errors import HeaderMismatch
from registry.http.client.exchange import HeaderLines

PARAM_PREFIX = b"mcp-param-"

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
COMMON_FORWARDED = ("accept", "mcp-protocol-version", "last-event-id", *TRACE_HEADERS)
MCP_NAME = "mcp-name"
MODERN_FORWARDED = ("mcp-method", MCP_NAME)
CONVERSATION_HEADER = "x-conversation-id"
"""Names a client's conversation; each conversation has its own sessions with servers."""

TOOLSET_HEADER = "mcp-toolset"
"""Names a toolset that a client wants to be limited to."""

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
    TOOLSET_HEADER,
    "origin",
    CONVERSATION_HEADER,
    "via",
)
LISTS = frozenset({"accept", "tracestate", "baggage", "via"})
"""Headers that may be sent in several lines, equal to one with the values joined by commas."""

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
"""The known headers of a request, by lower-case name; values without surrounding white space."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the known headers of a request.

    uvicorn's fast parser keeps white space around values, so it is removed here.

    Raises:
        HeaderMismatch: A header is not ASCII, or is repeated and must not be.
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
            raise HeaderMismatch(f"The header {name} contains non-ASCII characters.") from None
        if name not in found:
            found[name] = value
        elif name in LISTS:
            found[name] = f"{found[name]}, {value}"
        else:
            raise HeaderMismatch(f"The header {name} appears more than once.")
    return found


def forwarded_lines(
    stored: HeaderLines,
    sent: Headers,
    *,
    is_modern: bool,
    session_id: str | None = None,
    called: str | None = None,
) -> HeaderLines:
    """Return the headers for upstream: the stored ones, and the client's that may pass.

    Stored headers take precedence. `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` pass only where they
    were compared with the body.

    Args:
        stored: Credentials and other fixed headers.
        sent: The client's headers.
        is_modern: Whether the client speaks the stateless era.
        session_id: The server's own session id.
        called: The server's name for what `Mcp-Name` names, if the client's name is another.
    """
    via = sent.get("via")
    # The gateways on the way; the last sender is the last element.
    lines = [stored.text] if via is None else [f"via: {via}\r\n", stored.text]
    names = stored.names
    if "content-type" in sent:
        # Not the client's value: with a charset, the server would decode another text.
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
    """Return the server's response headers that the client gets."""
    headers = [
        (wire_name, value.encode("latin-1", "replace"))
        for name, wire_name in RETURNED
        if (value := answered.get(name)) is not None
    ]
    if is_stream:
        headers.append((b"x-accel-buffering", b"no"))
    return headers
