"""Headers that every request to an upstream carries. Pure."""

from collections.abc import Mapping

from multidict import CIMultiDict

GATEWAY_OWNED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "transfer-encoding",
        "via",
    }
)
"""Headers of the protocol itself; a stored header of that name is not sent."""

USER_AGENT = "mcp-gateway-registry"


def upstream_headers(stored: Mapping[str, str], via: str | None = None) -> CIMultiDict[str]:
    """Return the headers for every upstream request, without the protocol's own."""
    headers = CIMultiDict({"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
    if via is not None:
        headers["Via"] = via
    for name, value in stored.items():
        if name.lower() not in GATEWAY_OWNED_HEADERS:
            headers[name] = value
    return headers
