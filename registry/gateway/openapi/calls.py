"""Calls of tools for clients that speak no MCP: requests to the gateway inside this process.

Below it is the gateway's endpoint, so a call passes every station that one of an MCP client
passes: policies, validation, confirmation, approvals, limits, budgets, quarantine, records. It
knows what the answers mean in HTTP, and nothing of tools.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from starlette.types import ASGIApp, Message, Scope

import registry
from registry.core.json import JsonObject, JsonValue, dump_text, load_text, members
from registry.gateway.edge.confirmation import CONFIRM_META_KEY
from registry.gateway.edge.error_responses import ERROR_META_KEY
from registry.gateway.edge.requests import JSON
from registry.gateway.errors import HEADER_MISMATCH, INVALID_PARAMS
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.upstream.events import EventParser
from registry.upstream.rest.results import HTTP_META_KEY
from registry.upstream.sdk import encode_header_value, mcp_param_headers, x_mcp_header_map

VERSION = "2026-07-28"
"""The stateless era: any worker answers, and failures have an HTTP status of their own."""

CLIENT_NAME = "openapi"
"""What the gateway records as the name of the application, and quarantines know it by."""

PASSED_ON = frozenset(
    {b"authorization", b"origin", b"host", b"via", b"traceparent", b"tracestate", b"baggage"}
    | {b"mcp-toolset"}
)
RETURNED = frozenset(
    {b"retry-after", b"ratelimit", b"ratelimit-policy", b"www-authenticate", b"connection"}
)

TOOLS_LIST, TOOLS_CALL = "tools/list", "tools/call"
NOT_FOUND, UNPROCESSABLE, TOO_MANY, BAD_GATEWAY, UNAVAILABLE = 404, 422, 429, 502, 503
FIRST_FAILURE, PAST_FAILURES = 400, 600

RELAYED = frozenset({TOO_MANY, UNAVAILABLE})
"""What an API answered that its client has to know to behave well: when to call again."""

ASKS_FOR_INPUT = (
    "The tool asked for input during the call, which this endpoint cannot give; call it as an MCP "
    "client that can."
)
CUT_OFF = "The answer broke off."
MAX_EVENT_BYTES = 64 * 1024 * 1024

Receive = Callable[[], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class HttpResult:
    """What a call comes to in HTTP.

    Attributes:
        body: Of the answer; with a status from 400 on, the error envelope.
        headers: Further ones.
    """

    status: int
    body: JsonObject = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: JsonObject = field(repr=False)

    @property
    def error(self) -> JsonObject:
        """Return the JSON-RPC error, if it is one."""
        return members(self.body.get("error"))


class ToolEndpoints:
    """Lists and calls tools through the gateway, on behalf of whom a request is from.

    Args:
        gateway: Serves `/mcp` and what is below it.
    """

    def __init__(self, gateway: ASGIApp) -> None:
        self._gateway = gateway

    async def tools(
        self, scope: Scope, receive: Receive, slug: str
    ) -> list[JsonObject] | HttpResult:
        """Return the tools at a path of the gateway as the caller sees them, or why not.

        Args:
            scope: Of the request, whose credentials count.
            receive: Tells when its client disconnects; its body has been read.
            slug: What follows `/mcp/`.
        """
        found: list[JsonObject] = []
        params: JsonObject = {}
        while True:
            answer = await self._ask(scope, receive, slug, TOOLS_LIST, params)
            if "result" not in answer.body:
                return _failed(answer)
            result = members(answer.body["result"])
            listed = result.get("tools")
            if isinstance(listed, list):
                found += [one for one in listed if isinstance(one, dict)]
            if not isinstance(result.get("nextCursor"), str):
                return found
            params = {"cursor": result["nextCursor"]}

    async def call(
        self,
        scope: Scope,
        receive: Receive,
        slug: str,
        tool: str,
        arguments: JsonObject,
        *,
        is_confirmed: bool = False,
    ) -> HttpResult:
        """Call a tool.

        Args:
            scope: As for `tools`.
            receive: Likewise.
            slug: Likewise.
            tool: Its name at that path.
            arguments: Of the call.
            is_confirmed: Whether the caller confirms it.
        """
        params: JsonObject = {"name": tool, "arguments": arguments}
        if is_confirmed:
            params["_meta"] = {CONFIRM_META_KEY: True}
        answer = await self._ask(scope, receive, slug, TOOLS_CALL, params)
        if answer.error.get("code") == HEADER_MISMATCH:
            # The tool wants arguments mirrored in headers, which only its definition tells.
            mirrored = await self._mirrored(scope, receive, slug, tool, arguments)
            answer = await self._ask(scope, receive, slug, TOOLS_CALL, params, mirrored)
        if "result" not in answer.body:
            return _failed(answer)
        return _succeeded(members(answer.body["result"]), answer)

    async def _mirrored(
        self, scope: Scope, receive: Receive, slug: str, tool: str, arguments: JsonObject
    ) -> Mapping[str, str]:
        tools = await self.tools(scope, receive, slug)
        if isinstance(tools, HttpResult):
            return {}
        schema = next((one.get("inputSchema") for one in tools if one.get("name") == tool), None)
        return mcp_param_headers(x_mcp_header_map(schema), arguments)

    async def _ask(
        self,
        scope: Scope,
        receive: Receive,
        slug: str,
        method: str,
        params: JsonObject,
        more: Mapping[str, str] | None = None,
    ) -> _Answer:
        meta: JsonObject = {
            PROTOCOL_VERSION_META_KEY: VERSION,
            CLIENT_CAPABILITIES_META_KEY: {},
            CLIENT_INFO_META_KEY: {"name": CLIENT_NAME, "version": registry.__version__},
            **members(params.get("_meta")),
        }
        sent: JsonObject = {**params, "_meta": meta}
        body = dump_text({"jsonrpc": "2.0", "id": 1, "method": method, "params": sent})
        headers = {
            "content-type": JSON,
            "accept": f"{JSON}, text/event-stream",
            "content-length": str(len(body)),
            "mcp-protocol-version": VERSION,
            "mcp-method": method,
            **(more or {}),
        }
        if isinstance(params.get("name"), str):
            headers["mcp-name"] = encode_header_value(str(params["name"]))
        conversation = _Conversation(body, receive)
        await self._gateway(
            _inner(scope, f"/mcp/{slug}", headers), conversation.receive, conversation.send
        )
        return conversation.answer()


class _Conversation:
    """One request to the gateway: what it is sent, and what it answers."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._status = 0
        self._headers: dict[str, str] = {}
        self._is_stream = False
        self._answered = bytearray()
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the body, and then what the client of the outer request does."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message.get("headers", ()):
                if name.lower() == b"content-type":
                    self._is_stream = value.startswith(b"text/event-stream")
                elif name.lower() in RETURNED:
                    self._headers[name.decode("latin-1").title()] = value.decode("latin-1")
        elif message["type"] == "http.response.body":
            self._answered += message.get("body", b"")
            self._is_complete = not message.get("more_body", False)

    def answer(self) -> _Answer:
        """Return the answer: the last message, if there are several."""
        try:
            body = load_text(self._last() if self._is_complete else b"")
        except (ValueError, RecursionError):
            error: JsonObject = {"message": CUT_OFF, "data": {"error": "upstream_error"}}
            return _Answer(BAD_GATEWAY, {}, {"error": error})
        return _Answer(self._status, self._headers, body)

    def _last(self) -> bytes | bytearray:
        if not self._is_stream:
            return self._answered
        parser = EventParser(MAX_EVENT_BYTES)
        events = [event.data for event in parser.feed(bytes(self._answered)) if event.data]
        return events[-1] if events else b""


def _inner(scope: Scope, path: str, headers: Mapping[str, str]) -> Scope:
    """Return the scope of the request to the gateway."""
    passed = [(name, value) for name, value in scope["headers"] if name.lower() in PASSED_ON]
    made = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": "http",
        "asgi": scope.get("asgi", {"version": "3.0"}),
        "http_version": scope.get("http_version", "1.1"),
        "method": "POST",
        "scheme": scope.get("scheme", "http"),
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*passed, *made],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": scope.get("state", {}),
    }


def _succeeded(result: JsonObject, answer: _Answer) -> HttpResult:
    meta = members(result.get("_meta"))
    refused = members(meta.get(ERROR_META_KEY))
    if refused:
        facts = {name: value for name, value in refused.items() if name not in {"code", "error"}}
        return _envelope(
            _status(refused.get("code"), UNPROCESSABLE),
            str(refused.get("error")),
            _text(result),
            facts,
            answer.headers,
        )
    if result.get("resultType") == INPUT_REQUIRED:
        return _envelope(UNPROCESSABLE, INPUT_REQUIRED, ASKS_FOR_INPUT, {}, {})
    if result.get("isError") is True:
        return _tool_failed(result, members(meta.get(HTTP_META_KEY)))
    structured = result.get("structuredContent")
    if isinstance(structured, dict):
        return HttpResult(200, structured)
    return HttpResult(200, {"content": result.get("content") or []})


def _tool_failed(result: JsonObject, http: JsonObject) -> HttpResult:
    """Return what is answered for a tool that failed; *http* is how its API answered."""
    status = UNPROCESSABLE
    facts: JsonObject = {}
    headers: dict[str, str] = {}
    if isinstance(http.get("status"), int):
        facts["upstream_status"] = http["status"]
        if http["status"] in RELAYED:
            status = int(str(http["status"]))
    if isinstance(http.get("retryAfter"), str):
        headers["Retry-After"] = str(http["retryAfter"])
    if isinstance(result.get("structuredContent"), dict):
        facts["structuredContent"] = result["structuredContent"]
    return _envelope(status, "tool_error", _text(result), facts, headers)


def _failed(answer: _Answer) -> HttpResult:
    """Return what is answered for a JSON-RPC error: of the gateway, or relayed from a server."""
    error = answer.error
    data = members(error.get("data"))
    code = error.get("code")
    name = data.get("error")
    facts = {member: value for member, value in data.items() if member != "error"}
    if code == INVALID_PARAMS and name != "not_found":
        status = UNPROCESSABLE
    elif not isinstance(name, str):
        # Of the server itself, whose errors say nothing about the request for this one.
        status = BAD_GATEWAY
    else:
        status = NOT_FOUND if name == "not_found" else _status(answer.status, BAD_GATEWAY)
    if not isinstance(name, str):
        name, facts = "upstream_error", {}
    return _envelope(status, name, str(error.get("message") or ""), facts, answer.headers)


def _status(value: JsonValue, otherwise: int) -> int:
    """Return *value* if it is the HTTP status of a failure."""
    is_one = isinstance(value, int) and FIRST_FAILURE <= value < PAST_FAILURES
    return int(str(value)) if is_one else otherwise


def _text(result: JsonObject) -> str:
    content: Any = result.get("content")
    texts = [
        str(block["text"])
        for block in (content if isinstance(content, list) else [])
        if isinstance(block, dict) and isinstance(block.get("text"), str)
    ]
    return "\n".join(texts) or "The tool failed, and did not say why."


def _envelope(
    status: int,
    error: str,
    message: str,
    facts: JsonObject,
    headers: Mapping[str, str],
) -> HttpResult:
    return HttpResult(status, {**facts, "error": error, "message": message}, headers)
