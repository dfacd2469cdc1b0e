"""The servers API: `/api/v1/servers`."""

from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, cast

import orjson
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from registry.access.policy import ServerScope
from registry.access.presenter import present_flags
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.connections.service import ConnectionService
from registry.core import search
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, dump_text, load_text
from registry.core.paging import PageRequest
from registry.core.text import ONE_LINE, ObjectIdText
from registry.openapi.binding import OPERATION, without_binding
from registry.servers import default_effects
from registry.servers.credentials import is_user_level
from registry.servers.errors import UnknownEtagError
from registry.servers.presenter import (
    present_api_detail,
    present_changes,
    present_connection,
    present_detail,
    present_summary,
    timestamp,
)
from registry.servers.schemas import (
    ConnectionAnswer,
    ConnectionTest,
    RefreshAnswer,
    ServerCreate,
    ServerDetail,
    ServerList,
    ServerStats,
    ServerTools,
    ServerUpdate,
    Toggle,
    ToggleAnswer,
)
from registry.servers.service import Refreshed, ServerService
from registry.servers.storage.inventory import seen
from registry.servers.values import (
    Discovered,
    Precondition,
    ServerFilter,
    ServerRecord,
    ServerStatus,
)
from registry.tools.values import ToolDefinition
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.embedding import embedding_of
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import PageNumber, PerPage, pagination

Reader = Annotated[UserContext, needs(Scope.READ_SERVERS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_SERVERS)]
ToolReader = Annotated[UserContext, needs(Scope.READ_SERVERS, Scope.READ_TOOLS)]
IfMatch = Annotated[
    str | None, Header(description="The ETag that was read; 409 when the server moved on since.")
]
IfUnmodifiedSince = Annotated[
    str | None, Header(description="An HTTP date; 409 when the server was modified after it.")
]

server_errors = error_answers(
    {
        404: "There is no such server.",
        409: "The name or path is taken, or the server was modified since it was read.",
        502: "The upstream cannot be read.",
    }
)


API_PREFIX = "/api/v1/apis"


def is_about_apis(request: Request) -> bool:
    """Whether a request is one of those about REST APIs, which share routes with servers."""
    return str(request.scope["path"]).startswith(API_PREFIX)


def _service(request: Request) -> ServerService:
    # Not a dependency: FastAPI would take longer to resolve it than the caller's token.
    state = request.app.state
    return cast("ServerService", state.api_servers if is_about_apis(request) else state.servers)


def _connections(request: Request) -> ConnectionService:
    return cast("ConnectionService", request.app.state.connections)


router = APIRouter(prefix="/api/v1/servers", tags=["servers"], route_class=StrictJsonRoute)


@router.get("", response_model=ServerList, operation_id="list_servers", responses=server_errors())
async def list_servers(
    request: Request,
    user: Reader,
    query: Annotated[
        str | None, Query(max_length=200, pattern=ONE_LINE, description=search.DESCRIPTION)
    ] = None,
    scope: ServerScope | None = None,
    status: ServerStatus | None = None,
    author: Annotated[ObjectIdText | None, Query(description="For administrators.")] = None,
    page: PageNumber = 1,
    per_page: PerPage = 20,
) -> Response:
    """List the servers that the caller may see, last changed first."""
    service = _service(request)
    narrowed = ServerFilter(query, scope, status, author)
    result = await service.list_page(user, narrowed, PageRequest(page, per_page))
    connections = _connections(request)
    views = await connections.views(user, [seen(server) for server in result.items])
    now = connections.now()
    return JsonAnswer(
        {
            "servers": [
                {
                    **present_summary(server),
                    **present_connection(server, views[server.id], now),
                }
                for server in result.items
            ],
            "pagination": pagination(result),
        }
    )


@router.get(
    "/stats",
    response_model=ServerStats,
    operation_id="get_server_stats",
    responses=server_errors(),
)
async def server_stats(request: Request, user: Reader) -> Response:
    """Count all servers, tools and tokens. For administrators."""
    service = _service(request)
    servers, tokens = await service.stats(user)
    return JsonAnswer(
        {
            "total_servers": servers.total,
            "servers_by_scope": {key.value: value for key, value in servers.by_scope.items()},
            "servers_by_status": {key.value: value for key, value in servers.by_status.items()},
            "servers_by_transport": servers.by_transport,
            "total_tokens": tokens.total,
            "tokens_by_type": {key.value: value for key, value in tokens.by_type.items()},
            "active_tokens": tokens.active,
            "expired_tokens": tokens.expired,
            "active_users": tokens.active_users,
            "total_tools": servers.tools,
        }
    )


@router.post(
    "",
    status_code=201,
    response_model=ServerDetail,
    operation_id="register_server",
    responses=server_errors(408, 409, 415, 502),
)
async def register_server(
    request: Request,
    user: Writer,
    body: ServerCreate,
    *,
    strict: Annotated[
        bool, Query(description="Refuse a server that cannot be read instead of storing it.")
    ] = False,
) -> Response:
    """Register a server: connect, read its tools, store it."""
    service = _service(request)
    former = await default_effects.former_of(request, body)
    server = await service.register(body, user, strict=strict)
    told = await default_effects.told(request, server.id, former, user)
    return await detail_answer(request, server, user, 201, told=told)


@router.post(
    "/connection",
    response_model=ConnectionAnswer,
    operation_id="try_connection",
    responses=server_errors(408, 415, 502),
)
async def try_connection(request: Request, _user: Writer, body: ConnectionTest) -> Response:
    """Connect to a server and return what it offers, without saving anything."""
    service = _service(request)
    found = await service.try_connection(body)
    return JsonAnswer(_connection(found))


@router.get(
    "/{server_id}",
    response_model=ServerDetail,
    operation_id="get_server",
    responses=server_errors(404),
)
async def get_server(request: Request, user: Reader, server_id: ServerId) -> Response:
    """Return everything about a server but its secrets."""
    service = _service(request)
    return await detail_answer(request, await service.read(server_id, user), user)


@router.patch(
    "/{server_id}",
    response_model=ServerDetail,
    operation_id="update_server",
    responses=server_errors(404, 408, 409, 412, 415, 502),
)
@router.put(
    "/{server_id}",
    response_model=ServerDetail,
    operation_id="put_server",
    responses=server_errors(404, 408, 409, 412, 415, 502),
)
async def update_server(
    request: Request,
    user: Writer,
    server_id: ServerId,
    body: ServerUpdate,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Change the given fields only. PUT does the same as PATCH."""
    service = _service(request)
    precondition = precondition_of(if_match, if_unmodified_since)
    former = await default_effects.former_of(request, body, server_id)
    server = await service.update(server_id, body, user, precondition=precondition)
    told = await default_effects.told(request, server.id, former, user)
    return await detail_answer(request, server, user, told=told)


@router.delete(
    "/{server_id}",
    status_code=204,
    operation_id="delete_server",
    responses=server_errors(404, 409, 412),
)
async def delete_server(
    request: Request,
    user: Writer,
    server_id: ServerId,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Remove a server, its tools, its ACL entries and the credentials stored for it."""
    service = _service(request)
    precondition = precondition_of(if_match, if_unmodified_since)
    await service.delete(server_id, user, precondition=precondition)
    return Response(status_code=204)


@router.post(
    "/{server_id}/toggle",
    response_model=ToggleAnswer,
    operation_id="toggle_server",
    responses=server_errors(404, 408, 409, 412, 415),
)
async def toggle_server(
    request: Request,
    user: Writer,
    server_id: ServerId,
    body: Toggle,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Turn a server on or off."""
    service = _service(request)
    precondition = precondition_of(if_match, if_unmodified_since)
    server = await service.toggle(server_id, user, enabled=body.enabled, precondition=precondition)
    return JsonAnswer(
        {
            **_named(server),
            "status": server.effective_status.value,
            "enabled": body.enabled,
            "message": f"{_kind(server)} {'enabled' if body.enabled else 'disabled'} successfully",
            "updatedAt": timestamp(server.updated_at),
            "permissions": present_flags(server.bits),
        }
    )


@router.get(
    "/{server_id}/tools",
    response_model=ServerTools,
    operation_id="list_server_tools",
    responses=server_errors(404),
)
async def list_server_tools(request: Request, user: ToolReader, server_id: ServerId) -> Response:
    """List a server's tools in MCP's form, from the database."""
    service = _service(request)
    return JsonAnswer(listed_tools(*await service.tools(server_id, user)))


def listed_tools(server: ServerRecord, tools: Sequence[ToolDefinition]) -> dict[str, object]:
    """Return the stored tools of a server, or of an API, as an answer."""
    synced_at = server.registry.get("last_synced_at")
    retrieved = synced_at if isinstance(synced_at, datetime) else server.last_connected
    return {
        **_named(server),
        "tools": [native(tool) for tool in tools],
        "numTools": len(tools),
        "capabilities": server.capabilities,
        "cached": True,
        "retrievedAt": timestamp(retrieved),
        "permissions": present_flags(server.bits),
    }


@router.post(
    "/{server_id}/refresh",
    response_model=RefreshAnswer,
    operation_id="refresh_server",
    responses=server_errors(404, 409, 412, 502),
)
async def refresh_server(
    request: Request,
    user: Writer,
    server_id: ServerId,
    *,
    accept: Annotated[
        bool, Query(description="Serve new and changed tools of a shared server at once.")
    ] = False,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Connect to the upstream again and apply what changed."""
    service = _service(request)
    refreshed = await service.refresh(
        server_id,
        user,
        accept=accept,
        precondition=precondition_of(if_match, if_unmodified_since),
    )
    server = refreshed.server
    is_ok = refreshed.failure is None and refreshed.unread is None
    # Where users have credentials of their own, the last success may be another's.
    is_shown = is_ok or not is_user_level(server.config)
    answer: dict[str, object] = {
        **_named(server),
        "status": server.effective_status.value,
        "lastConnected": timestamp(server.last_connected) if is_shown else None,
        "lastError": timestamp(server.last_error),
        "errorMessage": server.error_message,
        "numTools": len(server.tool_names),
        "capabilities": server.config.get("capabilities"),
        "tools": ", ".join(server.tool_names),
        "initDuration": server.config.get("initDuration"),
        "ok": is_ok,
        "message": _told(refreshed),
        "updatedAt": timestamp(server.updated_at),
        "permissions": present_flags(server.bits),
    }
    problems = server.registry.get("tool_problems")
    if problems:
        answer["toolProblems"] = problems
    unlisted = server.registry.get("feature_problems")
    if unlisted:
        answer["featureProblems"] = unlisted
    if refreshed.held:
        answer["heldTools"] = list(refreshed.held)
    if refreshed.changes:
        answer["changes"] = present_changes(refreshed.changes)
    return JsonAnswer(answer)


def _told(refreshed: Refreshed) -> str:
    is_api = refreshed.server.is_api
    if refreshed.failure is not None:
        if is_api:
            return f"The description cannot be read: {refreshed.failure}"
        return f"Server health check failed: {refreshed.failure}"
    if refreshed.unread is not None:
        return f"The {'API' if is_api else 'server'} was not asked: {refreshed.unread}"
    return "The description was read" if is_api else "Server health check successful"


def _kind(server: ServerRecord) -> str:
    return "API" if server.is_api else "Server"


async def detail_answer(
    request: Request,
    server: ServerRecord,
    user: UserContext,
    status: int = 200,
    *,
    told: JsonObject | None = None,
) -> Response:
    """Return the response with everything about a server, and its ETag.

    Args:
        request: The request.
        server: The server.
        user: Who asks.
        status: The HTTP status.
        told: More members of the body.
    """
    connections = _connections(request)
    views = await connections.views(user, [seen(server)])
    body = {
        **(present_api_detail(server) if server.is_api else present_detail(server)),
        **present_connection(server, views[server.id], connections.now()),
        **embedding_of(request, "server", server.id),
        **(told or {}),
    }
    headers = {}
    if server.updated_at is not None:
        headers = {"ETag": _etag(server.updated_at)}
    return JsonAnswer(body, status, headers)


def _etag(updated_at: datetime) -> str:
    return f'"{timestamp(updated_at)}"'


def precondition_of(if_match: str | None, if_unmodified_since: str | None) -> Precondition:
    """Return the caller's precondition, from the headers of the request.

    Raises:
        ValidationFailedError: `If-Unmodified-Since` is not a date.
        UnknownEtagError: `If-Match` is not an ETag of this API.
    """
    since = None
    if if_unmodified_since is not None:
        try:
            since = parsedate_to_datetime(if_unmodified_since)
        except ValueError:
            since = None
        if since is None or since.tzinfo is None:
            raise ValidationFailedError("If-Unmodified-Since", "is not an HTTP date in GMT")
    return Precondition(_from_etag(if_match), since)


def _from_etag(tag: str | None) -> datetime | None:
    if tag is None or tag.strip() == "*":
        return None
    try:
        moment = datetime.fromisoformat(tag.strip().removeprefix("W/").strip('"'))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UnknownEtagError
    return moment


def _named(server: ServerRecord) -> dict[str, object]:
    """Return the id and the name of a server, under the name that its kind has for that."""
    return {"id": server.id, "name" if server.is_api else "serverName": server.server_name}


def native(tool: ToolDefinition) -> orjson.Fragment:
    """Return a tool in MCP's form, without what only the gateway needs to call it."""
    if OPERATION not in tool.definition:
        # Verbatim: a schema may hold numbers that do not survive a round trip through Python.
        return orjson.Fragment(tool.definition)
    shown = without_binding(load_text(tool.definition))
    return orjson.Fragment(dump_text(shown))


def _connection(found: Discovered) -> dict[str, object]:
    count = len(found.snapshot.tools)
    answer: dict[str, object] = {
        "ok": True,
        "message": f"Connected; the server offers {count} tools.",
        "protocolVersion": found.protocol_version,
        "capabilities": found.capabilities,
        "tools": [native(tool) for tool in found.snapshot.tools],
        "numTools": count,
        "initDuration": found.init_duration_ms,
    }
    if found.snapshot.rejected:
        answer["toolProblems"] = [
            {"name": item.name, "reason": item.reason} for item in found.snapshot.rejected
        ]
    if found.features.problems:
        answer["featureProblems"] = [
            {"name": item.name, "reason": item.reason} for item in found.features.problems
        ]
    return answer
