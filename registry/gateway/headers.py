"""Which headers are read, which go upstream, and which come back. Everything else is dropped."""

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict, istr

from registry.gateway.errors import HeaderMismatch

PARAM_PREFIX = b"mcp-param-"

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
COMMON_FORWARDED = tuple(
    istr(name) for name in ("accept", "mcp-protocol-version", "last-event-id", *TRACE_HEADERS)
)
MODERN_FORWARDED = tuple(istr(name) for name in ("mcp-method", "mcp-name"))
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
)
LISTS = frozenset({"accept", "tracestate", "baggage"})
"""Headers that may be sent in several lines, which mean the same as one joined by commas."""

KNOWN: Mapping[bytes, istr] = {
    str(name).encode(): istr(name) for name in (*COMMON_FORWARDED, *MODERN_FORWARDED, *READ_HERE)
}

RETURNED = tuple(
    (istr(name), name.encode())
    for name in ("content-type", "cache-control", "retry-after", "allow")
)
MCP_NAME = istr("mcp-name")
SESSION_HEADER = istr("mcp-session-id")
CONTENT_LENGTH = istr("content-length")
CONTENT_ENCODING = istr("content-encoding")
CONTENT_TYPE = istr("content-type")

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


def forwarded_headers(
    stored: CIMultiDict[str], sent: Headers, *, is_modern: bool
) -> CIMultiDict[str]:
    """Return what goes upstream: the stored headers, and those of the client that may pass.

    The stored ones win. `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` pass only where they were
    checked against the body.
    """
    headers = stored.copy()
    if "content-type" in sent:
        # Not the client's own words: a charset would make the upstream read another text.
        headers[CONTENT_TYPE] = "application/json"
    for name in COMMON_FORWARDED:
        value = sent.get(name)
        if value is not None and name not in headers:
            headers[name] = value
    if is_modern:
        for name in MODERN_FORWARDED:
            value = sent.get(name)
            if value is not None:
                headers[name] = value
        for other, value in sent.items():
            if other.startswith("mcp-param-") and other not in headers:
                headers[other] = value
    return headers


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
