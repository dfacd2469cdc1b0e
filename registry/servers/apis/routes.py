"""The API of REST APIs: `/api/v1/apis`. What does not concern descriptions is that of servers."""

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from registry.access.policy import ServerScope
from registry.connections.service import ConnectionService
from registry.core import search
from registry.core.paging import PageRequest
from registry.core.text import ONE_LINE, ObjectIdText
from registry.servers import default_effects
from registry.servers import routes as servers
from registry.servers.apis.credentials import present_credentials
from registry.servers.apis.schemas import (
    ApiCreate,
    ApiDetail,
    ApiList,
    ApiPreview,
    ApiPreviewAnswer,
    ApiRefresh,
    ApiToggle,
    ApiTools,
    ApiUpdate,
)
from registry.servers.apis.service import ApiService, Previewed
from registry.servers.presenter import (
    listed_problems,
    openapi_facts,
    present_api,
    present_connection,
)
from registry.servers.routes import (
    API_PREFIX,
    IfMatch,
    IfUnmodifiedSince,
    Reader,
    ToolReader,
    Writer,
    detail_answer,
    precondition_of,
)
from registry.servers.storage.inventory import seen
from registry.servers.values import ServerFilter, ServerStatus
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import PageNumber, PerPage, pagination

api_errors = error_answers(
    {
        404: "There is no such API.",
        409: "The name or path is taken, or the API was modified since it was read.",
        502: "The description cannot be read.",
    }
)

router = APIRouter(prefix=API_PREFIX, tags=["apis"], route_class=StrictJsonRoute)


def _service(request: Request) -> ApiService:
    return cast("ApiService", request.app.state.apis)


def _connections(request: Request) -> ConnectionService:
    return cast("ConnectionService", request.app.state.connections)


@router.get("", response_model=ApiList, operation_id="list_apis", responses=api_errors())
async def list_apis(
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
    """List the REST APIs that the caller may see, last changed first."""
    narrowed = ServerFilter(query, scope, status, author)
    found = await _service(request).servers.list_page(user, narrowed, PageRequest(page, per_page))
    connections = _connections(request)
    views = await connections.views(user, [seen(api) for api in found.items])
    now = connections.now()
    return JsonAnswer(
        {
            "apis": [
                {**present_api(api), **present_connection(api, views[api.id], now)}
                for api in found.items
            ],
            "pagination": pagination(found),
        }
    )


@router.post(
    "",
    status_code=201,
    response_model=ApiDetail,
    operation_id="register_api",
    responses=api_errors(408, 409, 415, 502),
)
async def register_api(
    request: Request,
    user: Writer,
    body: ApiCreate,
    *,
    strict: Annotated[
        bool, Query(description="Refuse an API that cannot be read instead of storing it.")
    ] = False,
) -> Response:
    """Register a REST API: read its description, make tools of its operations, store both."""
    former = await default_effects.former_of(request, body)
    api = await _service(request).register(body, user, strict=strict)
    told = await default_effects.told(request, api.id, former, user)
    return await detail_answer(request, api, user, 201, told=told)


@router.post(
    "/preview",
    response_model=ApiPreviewAnswer,
    operation_id="preview_api",
    responses=api_errors(408, 415, 502),
)
async def preview_api(request: Request, _user: Writer, body: ApiPreview) -> Response:
    """Return what would become of a description, without storing anything."""
    return JsonAnswer(_preview(await _service(request).preview(body)))


@router.get(
    "/{server_id}", response_model=ApiDetail, operation_id="get_api", responses=api_errors(404)
)
async def get_api(request: Request, user: Reader, server_id: ServerId) -> Response:
    """Return everything about a REST API but its secrets."""
    return await detail_answer(
        request, await _service(request).servers.read(server_id, user), user
    )


@router.patch(
    "/{server_id}",
    response_model=ApiDetail,
    operation_id="update_api",
    responses=api_errors(404, 408, 409, 412, 415, 502),
)
@router.put(
    "/{server_id}",
    response_model=ApiDetail,
    operation_id="put_api",
    responses=api_errors(404, 408, 409, 412, 415, 502),
)
async def update_api(
    request: Request,
    user: Writer,
    server_id: ServerId,
    body: ApiUpdate,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Change the given fields only. PUT does the same as PATCH."""
    precondition = precondition_of(if_match, if_unmodified_since)
    former = await default_effects.former_of(request, body, server_id)
    api = await _service(request).update(server_id, body, user, precondition=precondition)
    told = await default_effects.told(request, api.id, former, user)
    return await detail_answer(request, api, user, told=told)


router.add_api_route(
    "/{server_id}",
    servers.delete_server,
    methods=["DELETE"],
    status_code=204,
    operation_id="delete_api",
    responses=api_errors(404, 409, 412),
    description="Remove an API, its tools, its ACL entries and the credentials stored for it.",
)
router.add_api_route(
    "/{server_id}/toggle",
    servers.toggle_server,
    methods=["POST"],
    response_model=ApiToggle,
    operation_id="toggle_api",
    responses=api_errors(404, 408, 409, 412, 415),
    description="Turn an API on or off.",
)
router.add_api_route(
    "/{server_id}/refresh",
    servers.refresh_server,
    methods=["POST"],
    response_model=ApiRefresh,
    operation_id="refresh_api",
    responses=api_errors(404, 409, 412, 502),
    description="Read the description again and apply what changed.",
)


@router.get(
    "/{server_id}/tools",
    response_model=ApiTools,
    operation_id="list_api_tools",
    responses=api_errors(404),
)
async def list_api_tools(request: Request, user: ToolReader, server_id: ServerId) -> Response:
    """List an API's tools in MCP's form, from the database, and how credentials are sent."""
    api, tools = await _service(request).servers.tools(server_id, user)
    credentials = present_credentials(api.config, tools)
    return JsonAnswer({**servers.listed_tools(api, tools), "credentials": credentials})


def _preview(previewed: Previewed) -> dict[str, object]:
    found = previewed.found
    tools = [servers.native(tool) for tool in found.snapshot.tools]
    answer: dict[str, object] = {"tools": tools, "numTools": len(tools)}
    if found.api is not None:
        facts = openapi_facts(found.api.facts)
        answer = {"baseUrl": found.api.base_url, "openapi": facts, **answer}
    answer["credentials"] = present_credentials(previewed.config, found.snapshot.tools)
    if found.snapshot.rejected:
        answer["toolProblems"] = listed_problems(found.snapshot.rejected)
    return answer
