"""Classification of failed exchanges with upstreams, and their messages. Pure."""

import errno
from collections.abc import Mapping
from enum import Enum
from typing import Any

from aiohttp import ClientConnectorError, ClientError
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

import registry
from registry.gateway.errors import (
    CredentialsRejected,
    InputRefused,
    NotServing,
    Refusal,
    UpstreamAnswered,
    UpstreamFailed,
    UpstreamTimedOut,
    Wait,
)
from registry.gateway.protocol.envelope import NOTIFICATION_PREFIX, Envelope
from registry.gateway.transport.call_watch import TookTooLong
from registry.gateway.values import Route
from registry.http.client.connection import InvalidHttpError
from registry.http.client.exchange import AnswerTimedOut, ConnectTimedOut
from registry.servers.values import Era

SERVER_ERROR = 500


def is_away(failure: UpstreamFailed) -> bool:
    """Whether a failure says that the server is down, rather than that it refuses."""
    if isinstance(failure, CredentialsRejected):
        return False
    return not (isinstance(failure, UpstreamAnswered) and failure.http_status < SERVER_ERROR)


def is_optional_notification(envelope: Envelope) -> bool:
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


OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Failures to connect for want of something on this machine."""

WAITED_FOR: Mapping[type[Exception], Wait] = {
    ConnectTimedOut: Wait.CONNECTION,
    AnswerTimedOut: Wait.ANSWER,
    TookTooLong: Wait.END,
}
"""Every other timeout is that of the pool's connections: silence within an answer."""


class Evidence(Enum):
    """What the end of an exchange says of the connection that it went over."""

    WORKS = "works"
    """The upstream answered, be it with an error."""
    FAILS = "fails"
    """It could not be asked, or what it answered is no MCP."""
    REFUSES = "refuses"
    """It does not take the credentials that it was sent."""
    NOTHING = "nothing"
    """Its client left, or the gateway is at fault."""


def evidence_of(error: BaseException | None) -> Evidence:
    """Return what it says that an exchange ended with *error*, or without any."""
    match error:
        case None:
            return Evidence.WORKS
        case CredentialsRejected():
            return Evidence.REFUSES
        case InputRefused():
            return Evidence.WORKS
        case UpstreamFailed():
            return Evidence.FAILS if is_away(error) else Evidence.WORKS
        case _:
            return Evidence.FAILS if says_that_it_fails(error) else Evidence.NOTHING


def says_that_it_fails(error: BaseException) -> bool:
    """Whether an exchange that ended so shows that the server does not work."""
    if isinstance(error, OSError) and error.errno in OUR_OWN:
        return False
    return isinstance(error, TimeoutError | ClientError | InvalidHttpError | OSError)


def is_silence(error: BaseException) -> bool:
    """Whether a server that took a request did not answer it in time, which may be its nature."""
    return isinstance(error, TimeoutError) and not isinstance(error, ConnectTimedOut)


def failure(named: str, error: BaseException) -> Refusal:
    """Return the error for the client of a failed exchange.

    Args:
        named: What was asked, as in "the server files".
        error: What happened.
    """
    match error:
        case TimeoutError():
            return UpstreamTimedOut(named, WAITED_FOR.get(type(error), Wait.MORE))
        case OSError(errno=number) if number in OUR_OWN:
            return NotServing("The gateway has no connection left; try again in a moment.")
        case ClientConnectorError():
            return UpstreamFailed(f"The {named} cannot be reached.")
        case InvalidHttpError():
            return UpstreamFailed(f"The {named} did not answer in HTTP.")
        case ValueError():
            return UpstreamFailed(f"The request to the {named} cannot be sent.")
        case _:
            return UpstreamFailed(f"The {named} broke the connection.")
