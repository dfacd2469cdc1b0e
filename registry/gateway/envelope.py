"""Read a JSON-RPC message so that no two parsers can read it differently. Pure.

The gateway decides on what it parsed and forwards the bytes it got. If the upstream's parser took
another of two equal keys, or read `Name` as `name`, it would execute what was never decided on.
"""

import json
from collections.abc import Iterable, Mapping
from math import isinf
from typing import Any, NamedTuple

import orjson

from registry.gateway.errors import InvalidParams, InvalidRequest, MalformedJson

RequestId = str | int

TOP_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
PARAMS_MEMBERS = frozenset(
    {"name", "uri", "arguments", "cursor", "protocolVersion", "_meta", "ref", "requestState"}
)
META_MEMBERS = frozenset(
    {
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/clientInfo",
    }
)
USUAL_PARAMS = PARAMS_MEMBERS | {
    "capabilities",
    "clientInfo",
    "inputResponses",
    "progress",
    "progressToken",
    "requestState",
    "task",
}
NOTIFICATION_PREFIX = "notifications/"


class Envelope(NamedTuple):
    """One JSON-RPC message.

    Attributes:
        method: Empty for a client's answer to a server's request.
        params: Empty when the message has none.
        body: The whole message.
        raw: Its text.
        is_canonical: Whether orjson writes *body* as *raw* again, so that nothing of it was lost.
    """

    method: str
    params: Mapping[str, Any]
    is_request: bool
    body: Mapping[str, Any]
    raw: bytes | bytearray
    is_canonical: bool


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys."""


def load_object(raw: bytes | bytearray) -> dict[str, Any]:
    """Parse *raw* as one JSON object.

    Raises:
        MalformedJson: It is no JSON.
        InvalidRequest: It is a batch or no object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MalformedJson from None
    if type(body) is dict:
        return body
    if type(body) is list:
        raise InvalidRequest("Batches are not supported; send one message per request.")
    raise InvalidRequest("The body must be one JSON-RPC message.")


def usable_id(body: Mapping[str, Any]) -> RequestId | None:
    """Return the message's id, or None when it has none that an answer could carry."""
    request_id = body.get("id")
    return request_id if type(request_id) is str or type(request_id) is int else None


def read_envelope(raw: bytes | bytearray, body: dict[str, Any]) -> Envelope:
    """Check *body*, which was parsed from *raw*, and return it as an envelope.

    Raises:
        InvalidRequest: It is no JSON-RPC 2.0 message, or an ambiguous one.
        InvalidParams: `params` is no object.
    """
    if body.get("jsonrpc") != "2.0":
        raise InvalidRequest('The member jsonrpc must be "2.0".')
    params = body.get("params")
    if params is None:
        params = {}
    elif type(params) is not dict:
        raise InvalidParams("The member params must be an object.")
    is_canonical = _is_canonical(raw, body)
    _refuse_ambiguity(raw, body, params, is_canonical=is_canonical)
    has_id = "id" in body
    if has_id and usable_id(body) is None:
        raise InvalidRequest("The member id must be a string or an integer.")
    is_answer = "result" in body or "error" in body
    if is_answer and has_id and "method" not in body:
        return Envelope("", params, False, body, raw, is_canonical)
    method = body.get("method")
    if type(method) is not str or not method or is_answer:
        raise InvalidRequest("The body must be a request, a notification or a response.")
    if not has_id and not method.startswith(NOTIFICATION_PREFIX):
        raise InvalidRequest(f"{method[:64]} needs an id: it is no notification.")
    return Envelope(method, params, has_id, body, raw, is_canonical)


def _refuse_ambiguity(
    raw: bytes | bytearray, body: dict[str, Any], params: dict[str, Any], *, is_canonical: bool
) -> None:
    if not is_canonical:
        _refuse_repeated_keys(raw)
    if not body.keys() <= TOP_MEMBERS:
        _refuse_lookalikes(body, TOP_MEMBERS)
    if not params.keys() <= USUAL_PARAMS:
        _refuse_lookalikes(params, PARAMS_MEMBERS)


def _is_canonical(raw: bytes | bytearray, body: dict[str, Any]) -> bool:
    # Text that comes out again as it went in has lost no repeated key. Clients write compact
    # JSON, so this is the usual case, and far cheaper than looking at every key.
    try:
        return orjson.dumps(body) == raw
    except orjson.JSONEncodeError:
        # orjson reads deeper nesting than it writes, and what is sent on must be written.
        raise InvalidRequest("The body is nested too deeply.") from None


def _refuse_repeated_keys(raw: bytes | bytearray) -> None:
    try:
        message = json.loads(raw, object_pairs_hook=_Pairs, parse_int=str, parse_float=_finite)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is nested too deeply or cannot be read twice.") from None
    _refuse_repeats(message, TOP_MEMBERS)
    for params in _values(message, "params"):
        _refuse_repeats(params, PARAMS_MEMBERS)
        for meta in _values(params, "_meta"):
            _refuse_repeats(meta, META_MEMBERS)


def _finite(text: str) -> str:
    if isinf(float(text)):
        raise InvalidRequest("The body holds a number that is too large to be sent on.")
    return text


def _refuse_repeats(pairs: _Pairs, deciding: frozenset[str]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in deciding and key in seen:
            raise InvalidRequest(f"The member {key} is repeated.")
        seen.add(key)


def _values(pairs: _Pairs, wanted: str) -> Iterable[_Pairs]:
    return [value for key, value in pairs if key == wanted and isinstance(value, _Pairs)]


def _refuse_lookalikes(members: Iterable[str], known: frozenset[str]) -> None:
    for member in members:
        # casefold also maps the long s and the Kelvin sign, which some parsers take for s and k.
        if member not in known and member.casefold() in _FOLDED[known]:
            raise InvalidRequest(
                f"The member {member[:64]} differs only in case from a known one."
            )


_FOLDED = {
    known: frozenset(member.casefold() for member in known)
    for known in (TOP_MEMBERS, PARAMS_MEMBERS)
}
