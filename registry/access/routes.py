"""The permissions API: `/api/v1/permissions`."""

from typing import Annotated, Literal, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.access.ports import SERVER_TYPE, TOOLSET_TYPE
from registry.access.presenter import (
    present_person,
    present_sharing,
)
from registry.access.schemas import (
    PermissionsAnswer,
    PermissionsUpdate,
    PrincipalsAnswer,
)
from registry.access.service import PermissionService, Sharing
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers

Reader = Annotated[UserContext, needs(Scope.READ_SERVERS)]
Sharer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
ResourceType = Literal["mcpServer", "toolset"]
ResourceId = Annotated[ObjectIdText, Path(description="ObjectId of the server or toolset.")]
Kind = Literal["user", "group", "role"]

_errors = error_answers(
    {
        404: "There is no such server or toolset.",
        409: "No owner would remain, or the entries were modified since they were read.",
        422: "A field or parameter cannot take that value, or a principal does not exist.",
    }
)


def _service(request: Request, resource_type: str = SERVER_TYPE) -> PermissionService:
    state = request.app.state
    is_toolset = resource_type == TOOLSET_TYPE
    found = state.toolset_permissions if is_toolset else state.permissions
    return cast("PermissionService", found)


router = APIRouter(prefix="/api/v1/permissions", tags=["permissions"], route_class=StrictJsonRoute)


@router.get(
    "/search-principals",
    response_model=PrincipalsAnswer,
    operation_id="search_principals",
    responses=_errors(),
)
async def search_principals(
    request: Request,
    user: Sharer,
    q: Annotated[
        str,
        Query(min_length=2, max_length=100, pattern=r"^[^\x00]*$", description="Part of a name."),
    ],
    types: Annotated[
        list[Kind] | None, Query(description="Repeat for several; all kinds when absent.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    """Find users, groups and roles to share with."""
    kinds = types or ["user", "group", "role"]
    people = await _service(request).search(q, kinds, limit, user)
    return JsonAnswer(
        {
            "query": q,
            "limit": limit,
            "count": len(people),
            "results": [present_person(person, with_email=user.is_admin) for person in people],
        }
    )


@router.get(
    "/{resource_type}/{resource_id}",
    response_model=PermissionsAnswer,
    operation_id="get_permissions",
    responses=_errors(404),
)
async def get_permissions(
    request: Request,
    user: Reader,
    resource_type: ResourceType,
    resource_id: ResourceId,
) -> Response:
    """Return who has access to a server or toolset. For callers who may share it."""
    return _answer(await _service(request, resource_type).get(resource_id, user), user)


@router.put(
    "/{resource_type}/{resource_id}",
    response_model=PermissionsAnswer,
    operation_id="put_permissions",
    responses=_errors(404, 408, 409, 415),
)
async def put_permissions(
    request: Request,
    user: Sharer,
    resource_type: ResourceType,
    resource_id: ResourceId,
    body: PermissionsUpdate,
    if_match: IfMatch = None,
) -> Response:
    """Share a server or toolset, or stop sharing it. Its `scope` follows the entries."""
    sharing = await _service(request, resource_type).change(
        resource_id, body.request(), user, expected_etag=etag_in(if_match)
    )
    return _answer(sharing, user)


def _answer(sharing: Sharing, user: UserContext) -> Response:
    return JsonAnswer(
        present_sharing(sharing, with_email=user.is_admin),
        headers={"ETag": f'"{sharing.etag}"'},
    )
