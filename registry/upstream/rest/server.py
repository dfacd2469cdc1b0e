"""The MCP server that a REST API has in this process: calls of tools become calls of operations.

Above is the gateway, which speaks to it as to a server of the stateless era (2026-07-28): JSON-RPC
in, JSON-RPC out. It has no sessions, no lists and nothing to say of its own: for clients the
gateway is the server at an API's path, and answers all but calls from its view. Below is the
caller of operations. Policies, confirmations and limits are not known here; they came before.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from aiohttp import ClientTimeout

from registry.core.json import load_exact, members
from registry.http.client.connection import WholeResponseBody
from registry.http.client.exchange import UNASKED, HeaderLines, UpstreamAnswer
from registry.openapi.binding import OPERATION, OperationBinding, binding_of, without_binding
from registry.openapi.projection import Projection, ProjectionError
from registry.upstream.rest.bodies import is_json
from registry.upstream.rest.caller import RedirectError, RestCaller
from registry.upstream.rest.credentials import Credentials, credentials_of
from registry.upstream.rest.requests import ArgumentError, Operation, origin_of
from registry.upstream.rest.results import RestAnswer, Shape, failure_result, result_of

OPERATION_MARK: Final = OPERATION.encode()
"""Contained in the text of every tool of an API."""

UNAUTHORIZED: Final = 401
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
LARGE_BYTES: Final = 64 * 1024
"""Bodies from this size on are projected in a thread: others have their turn meanwhile."""

JSON_HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class RestTool:
    """What a tool of an API needs beside what clients see of it.

    Attributes:
        is_promised: Whether the tool has an output schema.
        projection: A JMESPath expression; None to leave answers as they are.
    """

    binding: OperationBinding
    is_promised: bool = False
    projection: str | None = None


def rest_tool(definition: bytes, projection: str | None) -> tuple[bytes, RestTool] | None:
    """Return what clients see of a stored definition, and what calls need; None for other tools.

    What a projection leaves is not what the output schema says, so that is not shown.

    Raises:
        ValueError: It is no JSON.
    """
    if OPERATION_MARK not in definition:
        return None
    whole = orjson.loads(definition)
    binding = binding_of(whole)
    if binding is None:
        return None
    shown = without_binding(whole)
    if projection is not None:
        shown = {name: value for name, value in shown.items() if name != "outputSchema"}
    is_promised = isinstance(shown.get("outputSchema"), dict)
    return orjson.dumps(shown), RestTool(binding, is_promised, projection)


class UnusableToolError(Exception):
    """What is stored of a tool cannot be used."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """An operation that was called before."""

    operation: Operation
    shape: Shape


class RestApi:
    """The operations of one API; each is made ready by its first call.

    Args:
        name: Of the API, for messages.
        url: Where its operations are.
        tools: By name.
        takes_tokens: Whether its credentials are tokens of OAuth, which may be renewed.

    Attributes:
        home: Its origin, which alone gets the credentials.
    """

    __slots__ = ("_elsewhere", "_ready", "_tools", "home", "name", "takes_tokens", "url")

    def __init__(
        self, name: str, url: str, tools: Mapping[str, RestTool], *, takes_tokens: bool = False
    ) -> None:
        self.name = name
        self.url = url
        self.home = origin_of(urlsplit(url))
        self.takes_tokens = takes_tokens
        self._tools = tools
        self._elsewhere = _origins_elsewhere(tools, self.home)
        self._ready: dict[str, _Ready] = {}

    def elsewhere(self, name: str | None) -> str | None:
        """Return the origin that a tool's operation is at; None if it is the API's own."""
        return None if name is None else self._elsewhere.get(name)

    def ready(self, name: str) -> _Ready | None:
        """Return an operation by the name of its tool; None if there is none.

        Raises:
            UnusableToolError: What is stored of it cannot be used.
        """
        found = self._ready.get(name)
        if found is not None:
            return found
        tool = self._tools.get(name)
        if tool is None:
            return None
        projection = None
        if tool.projection is not None:
            try:
                projection = Projection(tool.projection)
            except ProjectionError as exc:
                raise UnusableToolError(f"The projection of this tool {exc}.") from None
        shape = Shape(
            wraps=tool.binding.wraps_result,
            is_promised=tool.is_promised,
            expects_json=not tool.binding.accepts or any(map(is_json, tool.binding.accepts)),
            projection=projection,
        )
        try:
            operation = Operation(tool.binding, self.url)
        except ValueError as exc:
            raise UnusableToolError(str(exc)) from None
        ready = self._ready[name] = _Ready(operation, shape)
        return ready


def _origins_elsewhere(tools: Mapping[str, RestTool], home: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, tool in tools.items():
        if tool.binding.base_url is not None:
            origin = origin_of(urlsplit(tool.binding.base_url))
            if origin != home:
                found[name] = origin
    return found


class RestServer:
    """Answers messages for all APIs.

    Args:
        caller: Calls their operations.
    """

    def __init__(self, caller: RestCaller) -> None:
        self._caller = caller

    async def request(
        self,
        api: RestApi,
        headers: HeaderLines | Mapping[str, str],
        body: bytes | bytearray,
        *,
        timeout: ClientTimeout,  # noqa: ASYNC109 - carries the pool's own waits, not ours
        first_byte_seconds: float | None = None,
    ) -> UpstreamAnswer:
        """Answer one message that was posted; what `UpstreamHttp.request` does for other servers.

        Raises what that raises: calls fail as those of an MCP server do.
        """
        message = members(load_exact(body))
        request_id = message.get("id")
        if request_id is None:
            return self._unasked(self._answer(202, b""))
        if message.get("method") != "tools/call":
            return self._error(request_id, METHOD_NOT_FOUND, "The server is a REST API.")
        params = members(message.get("params"))
        name = params.get("name")
        try:
            ready = api.ready(name) if isinstance(name, str) else None
            if ready is None:
                return self._error(request_id, INVALID_PARAMS, f"Unknown tool: {name}")
            request = ready.operation.request(members(params.get("arguments")))
            credentials = credentials_of(_pairs(headers))
            answer = await self._caller.call(
                request,
                credentials,
                home=api.home,
                timeout=timeout,
                first_byte_seconds=first_byte_seconds,
                idempotency_header=ready.operation.idempotency_header,
                is_projected=ready.shape.projection is not None,
                is_public=ready.operation.is_public,
            )
        except (ArgumentError, RedirectError, UnusableToolError) as exc:
            failed = self._result(request_id, failure_result(str(exc)))
            return failed if isinstance(exc, RedirectError) else self._unasked(failed)
        if answer.status == UNAUTHORIZED and api.takes_tokens:
            # The gateway renews the token, or has its user authorise the registry again.
            return self._answer(UNAUTHORIZED, b"")
        result = await _result(answer, ready.shape, credentials, api.url)
        return self._result(request_id, result, answer.status)

    def _result(
        self, request_id: object, result: Mapping[str, Any], status: int = 200
    ) -> UpstreamAnswer:
        whole = {"resultType": "complete", **result}
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": whole})
        answer = self._answer(200, body)
        answer.health_status = status
        return answer

    def _error(self, request_id: object, code: int, text: str) -> UpstreamAnswer:
        error = {"code": code, "message": text}
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
        return self._unasked(self._answer(200, body))

    def _unasked(self, answer: UpstreamAnswer) -> UpstreamAnswer:
        """Mark an answer for which the API was not asked: it says nothing of the API."""
        answer.health_status = UNASKED
        return answer

    def _answer(self, status: int, body: bytes) -> UpstreamAnswer:
        headers = {"content-length": str(len(body))}
        if body:
            headers.update(JSON_HEADERS)
        return UpstreamAnswer(status, headers, WholeResponseBody(body), self._caller.max_bytes)


def _pairs(headers: HeaderLines | Mapping[str, str]) -> Iterable[tuple[str, str]]:
    if not isinstance(headers, HeaderLines):
        return headers.items()
    if headers.text.count("\n") != headers.lines:
        raise ValueError("A header holds a control character.")
    lines = (line.partition(": ") for line in headers.text.split("\r\n") if line)
    return [(name, value) for name, _, value in lines]


async def _result(
    answer: RestAnswer, shape: Shape, credentials: Credentials, url: str
) -> dict[str, Any]:
    sent = credentials.sent if answer.status not in range(200, 300) else []
    if shape.projection is None or len(answer.body) < LARGE_BYTES:
        return result_of(answer, shape, sent=sent, url=url)
    return await asyncio.to_thread(result_of, answer, shape, sent=sent, url=url)
