"""Tools for clients that speak no MCP: `openapi.json` of servers, APIs and toolsets, and calls.

What a caller sees and may do is what the gateway says: these routes ask it, in this process.
"""

import hashlib
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Body, Header, Path, Query, Request
from starlette.responses import Response

import registry
from registry.access.toolsets.routes import ToolsetId
from registry.access.toolsets.service import ToolsetService
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.errors import ValidationFailedError
from registry.core.json import dump_text
from registry.gateway.edge.requests import TOOLSETS
from registry.gateway.openapi.calls import HttpResult, ToolEndpoints
from registry.gateway.openapi.document import Published, openapi_document
from registry.servers.errors import ServerNotFoundError
from registry.servers.routes import is_about_apis
from registry.servers.service import ServerService
from registry.servers.values import ServerRecord
from registry.tools.naming import slug_of
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Reader = Annotated[UserContext, needs(Scope.READ_SERVERS, Scope.READ_TOOLS)]
ToolsetReader = Annotated[UserContext, needs(Scope.READ_TOOLS)]
Invoker = Annotated[UserContext, needs(Scope.INVOKE_TOOLS)]
ToolName = Annotated[str, Path(description="Name of the tool, percent-encoded.", max_length=1024)]
Arguments = Annotated[dict[str, Any] | None, Body(description="The arguments of the call.")]
Confirm = Annotated[
    bool,
    Query(
        description="Confirms the call, if its tool demands that of its user; needs a token with "
        "`confirm:tools`."
    ),
]
IfNoneMatch = Annotated[str | None, Header(description="The ETag that is known.")]

NOT_MODIFIED = 304

errors = error_answers(
    {
        404: "There is no such server, API, toolset or tool for the caller.",
        422: "The arguments do not match the tool's schema, or the tool failed.",
        429: "Over a limit or a budget.",
        502: "The upstream cannot be reached, or answered with an error of its own.",
        504: "The upstream did not answer in time.",
    }
)
CALL_ERRORS = (404, 408, 415, 429, 502, 504)


def _endpoints(request: Request) -> ToolEndpoints:
    return cast("ToolEndpoints", request.app.state.tool_endpoints)


async def _server(request: Request, server_id: str, user: UserContext) -> tuple[ServerRecord, str]:
    """Return a server or API that the caller sees, and its path of the gateway."""
    state = request.app.state
    service = state.api_servers if is_about_apis(request) else state.servers
    server = await cast("ServerService", service).read(server_id, user)
    slug = slug_of(server.effective_path)
    if slug is None:
        raise ServerNotFoundError
    return server, slug


async def server_document(
    request: Request, user: Reader, server_id: ServerId, if_none_match: IfNoneMatch = None
) -> Response:
    """Describe the tools that the caller may use as an OpenAPI document, with how to call them."""
    server, slug = await _server(request, server_id, user)
    kind = "apis" if server.is_api else "servers"
    title, description = server.config.get("title"), server.config.get("description")
    published = Published(
        title if isinstance(title, str) else server.server_name,
        description if isinstance(description, str) else None,
        request.app.state.base_url,
        f"/api/v1/{kind}/{server.id}/tools",
    )
    return await _document(request, slug, published, if_none_match)


async def call_server_tool(
    request: Request,
    user: Invoker,
    server_id: ServerId,
    name: ToolName,
    arguments: Arguments = None,
    *,
    confirm: Confirm = False,
) -> Response:
    """Call a tool, by the rules that hold for MCP clients; the answer is what it returns."""
    _, slug = await _server(request, server_id, user)
    return await _called(request, slug, name, arguments, confirm=confirm)


async def toolset_document(
    request: Request, user: ToolsetReader, toolset_id: ToolsetId, if_none_match: IfNoneMatch = None
) -> Response:
    """Describe the tools that the caller finds in a toolset, with how to call them."""
    service = cast("ToolsetService", request.app.state.toolsets)
    toolset = (await service.get(toolset_id, user)).record.toolset
    published = Published(
        toolset.name,
        toolset.description,
        request.app.state.base_url,
        f"/api/v1/toolsets/{toolset_id}/tools",
    )
    return await _document(request, TOOLSETS + toolset.name, published, if_none_match)


async def call_toolset_tool(
    request: Request,
    user: Invoker,
    toolset_id: ToolsetId,
    name: ToolName,
    arguments: Arguments = None,
    *,
    confirm: Confirm = False,
) -> Response:
    """Call a tool of a toolset, by the name that it has there."""
    service = cast("ToolsetService", request.app.state.toolsets)
    toolset = (await service.get(toolset_id, user)).record.toolset
    return await _called(request, TOOLSETS + toolset.name, name, arguments, confirm=confirm)


async def _document(
    request: Request, slug: str, published: Published, known: str | None
) -> Response:
    found = await _endpoints(request).tools(request.scope, request.receive, slug)
    if isinstance(found, HttpResult):
        return _answer(found)
    document = openapi_document(published, found, version=registry.__version__)
    text = dump_text(document)
    etag = f'"{hashlib.sha256(text).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if known is not None and etag in known:
        return Response(status_code=NOT_MODIFIED, headers=headers)
    return JsonAnswer(orjson.Fragment(text), headers=headers)


async def _called(
    request: Request, slug: str, name: str, arguments: dict[str, Any] | None, *, confirm: bool
) -> Response:
    try:
        dump_text(arguments or {})
    except ValueError:
        raise ValidationFailedError("body", "holds a number that JSON cannot say") from None
    result = await _endpoints(request).call(
        request.scope, request.receive, slug, name, arguments or {}, is_confirmed=confirm
    )
    return _answer(result)


def _answer(result: HttpResult) -> Response:
    return JsonAnswer(orjson.Fragment(dump_text(result.body)), result.status, result.headers)


def _routes() -> APIRouter:
    """Return the routes, which are the same below servers, APIs and toolsets."""
    router = APIRouter(prefix="/api/v1", route_class=StrictJsonRoute)
    kinds: tuple[tuple[str, str, str, Any, Any], ...] = (
        ("servers", "server_id", "server", server_document, call_server_tool),
        ("apis", "server_id", "api", server_document, call_server_tool),
        ("toolsets", "toolset_id", "toolset", toolset_document, call_toolset_tool),
    )
    for prefix, key, kind, document, call in kinds:
        router.add_api_route(
            f"/{prefix}/{{{key}}}/openapi.json",
            document,
            methods=["GET"],
            operation_id=f"get_{kind}_openapi",
            responses=errors(404, 502),
            tags=[prefix],
        )
        router.add_api_route(
            f"/{prefix}/{{{key}}}/tools/{{name:path}}",
            call,
            methods=["POST"],
            operation_id=f"call_{kind}_tool",
            responses=errors(*CALL_ERRORS),
            tags=[prefix],
        )
    return router


router = _routes()
