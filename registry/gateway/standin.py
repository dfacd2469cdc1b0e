"""Answer in a server's place what needs nothing of it. Pure.

Servers of the old SSE transport are never asked for it, others only while they are there. Tools
are listed from memory, but clients say hello before they list: if that failed, a server that is
down for a minute would lose its tools in every client that starts in that minute.
"""

from collections.abc import Mapping
from typing import Any

from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

import registry
from registry.gateway.envelope import NOTIFICATION_PREFIX, Envelope
from registry.gateway.errors import CredentialsRejected, UpstreamAnswered, UpstreamFailed
from registry.gateway.values import Route
from registry.servers.values import Era

SERVER_ERROR = 500


def is_away(failure: UpstreamFailed) -> bool:
    """Whether a failure says that the server is down, rather than that it refuses."""
    if isinstance(failure, CredentialsRejected):
        return False
    return not (isinstance(failure, UpstreamAnswered) and failure.http_status < SERVER_ERROR)


def may_go_unheard(envelope: Envelope) -> bool:
    """Whether a message to a server that is away needs no answer."""
    return not envelope.is_request and envelope.method.startswith(NOTIFICATION_PREFIX)


def stand_in_result(envelope: Envelope, route: Route) -> Mapping[str, Any] | None:
    """Return the result of a request in the server's place, or None when only it can tell."""
    match envelope.method:
        case "initialize":
            wanted = envelope.params.get("protocolVersion")
            known = wanted in HANDSHAKE_PROTOCOL_VERSIONS
            return {
                "protocolVersion": wanted if known else LATEST_HANDSHAKE_VERSION,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": route.server_name, "version": registry.__version__},
            }
        case "server/discover" if Era.MODERN in route.eras:
            # Not to be remembered: the server itself has more to say.
            return {
                "resultType": "complete",
                "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
                "capabilities": {"tools": {}},
                "ttlMs": 0,
                "cacheScope": "private",
            }
        case "ping":
            return {}
        case _:
            return None
