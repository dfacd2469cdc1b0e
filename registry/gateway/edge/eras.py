"""Protocol eras: which one a request uses, and the checks that the stateless era requires."""

from collections.abc import Mapping
from typing import Any

import orjson
from mcp_types import PROTOCOL_VERSION_META_KEY
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    MODERN_PROTOCOL_VERSIONS,
)

from registry.core.json import JsonObject
from registry.gateway.errors import (
    INVALID_REQUEST,
    UNSUPPORTED_PROTOCOL_VERSION,
    HeaderMismatch,
    InvalidParams,
    InvalidRequest,
    LadderRefusal,
)
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import Headers
from registry.servers.values import Era
from registry.upstream.sdk import (
    InboundLadderRejection,
    classify_inbound_request,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)

HANDSHAKE_VERSIONS = frozenset(HANDSHAKE_PROTOCOL_VERSIONS)
NO_SUCH_PROTOCOL = frozenset({400, 404, 405, 406})
MISSING_SESSION_CODES = frozenset({-32000, INVALID_REQUEST})
VERSION_HEADER = "mcp-protocol-version"


def header_era(headers: Headers) -> Era:
    """Return the era of `MCP-Protocol-Version`; without the header, the handshake's."""
    version = headers.get(VERSION_HEADER)
    return Era.LEGACY if version is None or version in HANDSHAKE_VERSIONS else Era.MODERN


def message_era(headers: Headers, params: Mapping[str, Any]) -> Era:
    """Return the era of a POST: the stateless one if header or body claims it."""
    if header_era(headers) is Era.MODERN:
        return Era.MODERN
    meta = params.get("_meta")
    if type(meta) is dict and PROTOCOL_VERSION_META_KEY in meta:
        return Era.MODERN
    return Era.LEGACY


def check_modern(envelope: Envelope, headers: Headers) -> None:
    """Check a message of the stateless era: its `_meta`, its version, matching headers.

    A refusal of the version lists those of this era alone, as `server/discover` does; the others
    need the handshake.

    Raises:
        LadderRefusal: The first check that failed.
        InvalidRequest: It is a response; servers of this era send no requests.
        HeaderMismatch: A notification's `Mcp-Method` names another method.
    """
    if envelope.is_request:
        version, meta = headers.get(VERSION_HEADER), envelope.params.get("_meta")
        if version is not None and not (type(meta) is dict and PROTOCOL_VERSION_META_KEY in meta):
            # A version that nobody knows, rather than one whose `_meta` is missing.
            unknown = unsupported_protocol_version_rejection(version, MODERN_PROTOCOL_VERSIONS)
            if unknown is not None:
                raise _refused(unknown)
        verdict = classify_inbound_request(
            envelope.body, headers=headers, supported_modern_versions=MODERN_PROTOCOL_VERSIONS
        )
        if isinstance(verdict, InboundLadderRejection):
            raise _refused(verdict)
        return
    if not envelope.method:
        raise InvalidRequest("Responses are not part of this protocol version.")
    rejection = unsupported_protocol_version_rejection(
        headers.get(VERSION_HEADER, ""), MODERN_PROTOCOL_VERSIONS
    )
    if rejection is not None:
        raise _refused(rejection)
    if headers.get("mcp-method", envelope.method) != envelope.method:
        raise HeaderMismatch("mcp-method header does not match the request body's method")


def check_param_headers(
    schema: JsonObject, arguments: Mapping[str, Any], headers: Headers
) -> None:
    """Check that `Mcp-Param-*` headers match the arguments they mirror.

    Raises:
        LadderRefusal: One does not match.
    """
    rejection = validate_mcp_param_headers(schema, arguments, headers)
    if rejection is not None:
        raise _refused(rejection)


def is_of_another_era(era: Era, status: int, answer: bytes) -> bool:
    """Whether a server's answer in *era* suggests that it does not speak that era.

    Args:
        era: The era of the request.
        status: The HTTP status of the answer.
        answer: The body, or the end of it.
    """
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return status in NO_SUCH_PROTOCOL
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if era is Era.LEGACY:
        return code == UNSUPPORTED_PROTOCOL_VERSION
    # Servers of the handshake's era miss a session; those of the stateless one have own codes.
    return status in NO_SUCH_PROTOCOL and code in MISSING_SESSION_CODES


def require_arguments(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a call.

    Raises:
        InvalidParams: They are not an object, or the call asks for a task.
    """
    if "task" in params:
        # A task's result is fetched by an id that does not say who may read it.
        raise InvalidParams("Tasks are not supported here; send tools/call without params.task.")
    arguments = params.get("arguments")
    if arguments is None:
        return {}
    if type(arguments) is not dict:
        raise InvalidParams("The member arguments must be an object.")
    return arguments


def _refused(rejection: InboundLadderRejection) -> LadderRefusal:
    facts = rejection.data if isinstance(rejection.data, dict) else {}
    return LadderRefusal(rejection.code, rejection.message, facts)
