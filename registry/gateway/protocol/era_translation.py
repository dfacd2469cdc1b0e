"""Era translation: converts a message of one era to the other. Pure.

docs/gateway.md shows both directions as a table.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_types import LOG_LEVEL_META_KEY, SERVER_INFO_META_KEY
from mcp_types.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from registry.core.json import JsonObject, JsonValue, members
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.upstream.sdk import ERROR_CODE_HTTP_STATUS

RESERVED_META = "io.modelcontextprotocol/"
RESOURCE_NOT_FOUND = -32002
URL_ELICITATION_REQUIRED = -32042

MODERN_ONLY_MEMBERS = ("resultType", "ttlMs", "cacheScope")
MODERN_CODES = frozenset(
    {HEADER_MISMATCH, MISSING_REQUIRED_CLIENT_CAPABILITY, UNSUPPORTED_PROTOCOL_VERSION}
)
CACHEABLE = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
"""Methods whose results carry cache lifetimes."""

INPUT_METHODS: Mapping[str, str] = {
    "elicitation/create": "elicitation",
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
}
"""Requests that servers may send to clients, and the capability that each needs."""

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


UNKNOWN_TOOL = re.compile(r"unknown tool|no such tool|not found|not exist|disabled", re.IGNORECASE)
"""How the SDKs' servers and those of others say that they do not have a tool."""


def lacking_capabilities(capabilities: Mapping[str, Any]) -> list[str]:
    """Return what tools are read with and a client with *capabilities* did not declare."""
    return sorted(set(INPUT_METHODS.values()).difference(capabilities))


def explain_unknown_tool(answer: JsonObject, tool: str, lacking: Sequence[str]) -> bool:
    """Say in a server's answer why it may not have a tool that is in its list.

    Args:
        answer: Is changed: a JSON-RPC error, or a result with `isError`, that says so.
        tool: Its name, as the server knows it.
        lacking: Capabilities that the client did not declare.

    Returns:
        Whether the answer was one.
    """
    error, result = members(answer.get("error")), members(answer.get("result"))
    content = result.get("content") if result.get("isError") is True else None
    places = [(error, "message")]
    places += [(members(item), "text") for item in (content if isinstance(content, list) else [])]
    for holder, name in places:
        text = holder.get(name)
        if isinstance(text, str) and tool in text and UNKNOWN_TOOL.search(text):
            holder[name] = (
                f"{text.rstrip('.')}. The server may offer this tool only to clients with "
                f"{' or '.join(lacking)}, which this client did not declare."
            )
            return True
    return False


def is_within(method: str, params: Mapping[str, Any], capabilities: Mapping[str, Any]) -> bool:
    """Whether a client with *capabilities* accepts this request."""
    needed = INPUT_METHODS.get(method)
    if needed is None or needed not in capabilities:
        return False
    if method == "elicitation/create" and params.get("mode") == "url":
        return "url" in members(capabilities[needed])
    return True


def passes_level(message: Mapping[str, Any], level: str | None) -> bool:
    """Whether a client that set the log level *level* wants this log message."""
    if level not in LOG_LEVELS:
        return False
    sent = members(message.get("params")).get("level")
    return sent not in LOG_LEVELS or LOG_LEVELS.index(str(sent)) >= LOG_LEVELS.index(level)


def to_modern_result(method: str, result: JsonValue) -> JsonObject:
    """Convert a result of the handshake's era to the stateless one."""
    found = dict(members(result))
    found.setdefault("resultType", "complete")
    if method in CACHEABLE:
        found.setdefault("ttlMs", 0)
        # It is not known here who else may read it.
        found["cacheScope"] = "private"
    return found


def to_legacy_result(result: JsonValue) -> JsonObject:
    """Convert a result of the stateless era to the handshake's."""
    found = {
        name: value for name, value in members(result).items() if name not in MODERN_ONLY_MEMBERS
    }
    meta = found.get("_meta")
    if isinstance(meta, dict) and SERVER_INFO_META_KEY in meta:
        kept = {name: value for name, value in meta.items() if name != SERVER_INFO_META_KEY}
        if kept:
            found["_meta"] = kept
        else:
            del found["_meta"]
    return found


def to_modern_error(error: JsonValue) -> JsonObject:
    """Convert an error of the handshake's era to the stateless one."""
    found = dict(members(error))
    match found.get("code"):
        case -32002:  # RESOURCE_NOT_FOUND
            found["code"] = INVALID_PARAMS
        case -32042:  # URL_ELICITATION_REQUIRED, of a client that does not support it
            found["code"] = MISSING_REQUIRED_CLIENT_CAPABILITY
            found["data"] = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        case _:
            pass
    return found


def to_legacy_error(method: str, error: JsonValue) -> JsonObject:
    """Convert an error of the stateless era to the handshake's."""
    found = dict(members(error))
    code = found.get("code")
    if code in MODERN_CODES:
        found["code"] = INVALID_REQUEST
    elif code == INVALID_PARAMS and method == "resources/read":
        found["code"] = RESOURCE_NOT_FOUND
    return found


def status_of(error: Mapping[str, Any]) -> int:
    """Return the HTTP status of an error answer in the stateless era."""
    code = error.get("code")
    return ERROR_CODE_HTTP_STATUS.get(code, 200) if isinstance(code, int) else 200


def wants_input(body: Mapping[str, Any]) -> bool:
    """Whether an answer is an intermediate one that asks the client for input."""
    return members(body.get("result")).get("resultType") == INPUT_REQUIRED


def url_elicitations(error: JsonValue) -> list[JsonObject]:
    """Return the URLs that a server of the handshake's era asks the user to visit first."""
    found = members(error)
    if found.get("code") != URL_ELICITATION_REQUIRED:
        return []
    listed = members(found.get("data")).get("elicitations")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def legacy_params(params: Mapping[str, Any]) -> JsonObject:
    """Return a request's parameters without those that only the stateless era has."""
    found = {
        name: value
        for name, value in params.items()
        if name not in {"inputResponses", "requestState"}
    }
    meta = found.get("_meta")
    if isinstance(meta, dict):
        kept = {name: value for name, value in meta.items() if not name.startswith(RESERVED_META)}
        if kept:
            found["_meta"] = kept
        else:
            del found["_meta"]
    return found


def asked_level(meta: Mapping[str, Any]) -> str | None:
    """Return the log level that a request of the stateless era sets."""
    level = meta.get(LOG_LEVEL_META_KEY)
    return level if level in LOG_LEVELS else None
