"""Parse a JSON-RPC message, and refuse any that another parser could read differently. Pure.

Decisions are made on the parsed message, and the original bytes are forwarded. If the server's
parser chose another of two equal keys, or read `Name` as `name`, it would execute an unchecked
request.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from registry.core.json import LARGE_BYTES, MAX_VALUES, holds_more_values, parsing, repeats_members
from registry.gateway.errors import InvalidParams, InvalidRequest, MalformedJson

RequestId = str | int

TOP_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
PARAMS_MEMBERS = frozenset(
    {"name", "uri", "arguments", "cursor", "protocolVersion", "_meta", "ref", "requestState"}
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
METHODS = frozenset(
    {
        # A client's response.
        "",
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
"""Methods that are forwarded, by their exact names. What a server does for any other, `Tools/Call`
or an extension's, is unknown, so neither scope nor policy could be decided; methods of tasks refer
to tasks that another caller may have begun. See docs/decisions/0027-known-methods.md."""

NOTIFICATION_PREFIX = "notifications/"

PEEKED_BYTES = 4096
"""Limit of an unauthenticated body that is parsed; that takes at most 30 microseconds."""

NAMED_REPEAT_BYTES = 64 * 1024
"""Up to this size, a refusal names the repeated member."""


class Envelope(NamedTuple):
    """One JSON-RPC message.

    Attributes:
        method: Empty for a client's response to a server's request.
        params: Empty if the message has none.
        body: The whole message.
        raw: Its bytes.
        is_canonical: Whether orjson serializes *body* to *raw* again, so that nothing was lost.
    """

    method: str
    params: Mapping[str, Any]
    is_request: bool
    body: Mapping[str, Any]
    raw: bytes | bytearray
    is_canonical: bool


def load_object(raw: bytes | bytearray) -> dict[str, Any]:
    """Parse *raw* as one JSON object.

    Raises:
        MalformedJson: It is not valid JSON.
        InvalidRequest: It is a batch or no object, or holds too many values.
    """
    if holds_more_values(raw, MAX_VALUES):
        raise InvalidRequest(f"The body contains more than {MAX_VALUES} JSON values.")
    try:
        if len(raw) > LARGE_BYTES:
            with parsing(raw):
                body = orjson.loads(raw)
        else:
            # Calls are small, and entering the context costs as much as parsing one.
            body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MalformedJson from None
    if type(body) is dict:
        return body
    if type(body) is list:
        raise InvalidRequest("Batches are not supported; send one message per request.")
    raise InvalidRequest("The body must be one JSON-RPC message, a JSON object.")


def peek_object(raw: bytes | bytearray | None) -> dict[str, Any]:
    """Return the content of a small unauthenticated body, for its refusal alone; else empty."""
    if raw is None or len(raw) > PEEKED_BYTES:
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return body if type(body) is dict else {}


def usable_id(body: Mapping[str, Any]) -> RequestId | None:
    """Return the message's id; None if it has none that a response could carry."""
    request_id = body.get("id")
    return request_id if type(request_id) is str or type(request_id) is int else None


def read_envelope(raw: bytes | bytearray, body: dict[str, Any]) -> Envelope:
    """Check *body*, which was parsed from *raw*, and return it as an envelope.

    Raises:
        InvalidRequest: It is not a JSON-RPC 2.0 message, or an ambiguous one.
        InvalidParams: `params` is not an object.
    """
    if body.get("jsonrpc") != "2.0":
        raise InvalidRequest('The member jsonrpc must be "2.0".')
    params = body.get("params")
    if params is None:
        params = {}
    elif type(params) is not dict:
        raise InvalidParams("The member params must be an object.")
    is_canonical = _is_canonical(raw, body)
    if not body.keys() <= TOP_MEMBERS:
        _refuse_lookalikes(body, TOP_MEMBERS)
    if not params.keys() <= USUAL_PARAMS:
        _refuse_lookalikes(params, PARAMS_MEMBERS)
    has_id = "id" in body
    if has_id and usable_id(body) is None:
        raise InvalidRequest("The member id must be a string, or an integer of at most 64 bits.")
    is_answer = "result" in body or "error" in body
    if is_answer and has_id and "method" not in body:
        return Envelope("", params, False, body, raw, is_canonical)
    method = body.get("method")
    if type(method) is not str or not method or is_answer:
        raise InvalidRequest("The body must be a request, a notification or a response.")
    if not has_id and not method.startswith(NOTIFICATION_PREFIX):
        raise InvalidRequest(f"{method[:64]} needs an id: it is no notification.")
    return Envelope(method, params, has_id, body, raw, is_canonical)


def check_meta(params: Mapping[str, Any]) -> None:
    """Check that the reserved members of *params* are in an object, or that there are none.

    Each part that reads one of them may so rely on it, and a server never reads it differently.

    Raises:
        InvalidParams: `_meta` is no object.
    """
    if "_meta" in params and type(params["_meta"]) is not dict:
        raise InvalidParams("The member params._meta must be an object.")


def _is_canonical(raw: bytes | bytearray, body: dict[str, Any]) -> bool:
    """Whether orjson serializes *body* to *raw* again.

    Raises:
        InvalidRequest: An object in it has a duplicate member name.
    """
    try:
        written = orjson.dumps(body)
    except orjson.JSONEncodeError:
        # orjson parses deeper nesting than it serializes, and the message must be serialized.
        raise InvalidRequest("The body is nested too deeply.") from None
    # Text that is reproduced exactly has lost no duplicate member. Clients write compact
    # JSON, so this is the usual case, and cheaper than any other check of the members.
    if written == raw:
        return True
    if repeats_members(raw, written):
        raise InvalidRequest(_repeated(raw))
    return False


def _repeated(raw: bytes | bytearray) -> str:
    names: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            names.append(next(name for name, times in counts.items() if times > 1))

    if len(raw) <= NAMED_REPEAT_BYTES:
        json.loads(raw, object_pairs_hook=look, parse_int=str)
    subject = f"The member {names[-1][:64]}" if names else "A member of an object"
    return f"{subject} is repeated."


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
