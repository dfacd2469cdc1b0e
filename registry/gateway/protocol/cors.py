"""CORS: lets pages of allowed origins read the gateway's responses (WHATWG Fetch, 3.2). Pure.

Whether an origin is allowed is decided in `hosts`; for others, no CORS header is sent.
"""

from registry.gateway.protocol.headers import CONVERSATION_HEADER, TOOLSET_HEADER, Headers

READABLE = b"mcp-session-id, www-authenticate, retry-after"
SENDABLE = frozenset(
    {
        "accept",
        "authorization",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "traceparent",
        "tracestate",
        "baggage",
        CONVERSATION_HEADER,
        TOOLSET_HEADER,
    }
)
MAX_AGE_SECONDS = 600
"""How long browsers may cache the answer to a preflight request."""


def readable_by(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that let a page of *origin* read a response."""
    return (
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-expose-headers", READABLE),
        (b"vary", b"origin"),
    )


def preflight(headers: Headers, methods: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that answer a preflight request."""
    wanted = headers.get("access-control-request-headers", "").lower().split(",")
    names = [
        name
        for name in (part.strip() for part in wanted)
        if name in SENDABLE or name.startswith("mcp-param-")
    ]
    return [
        (b"access-control-allow-methods", methods.encode()),
        (b"access-control-allow-headers", ", ".join(names).encode()),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
    ]
