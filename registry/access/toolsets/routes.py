"""The toolsets API: `/api/v1/toolsets`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.access.toolsets.presenter import present_toolset
from registry.access.toolsets.schemas import (
    ToolsetAnswer,
    ToolsetBody,
    ToolsetList,
    ToolsetPatch,
    ToolsetQuery,
)
from registry.access.toolsets.service import ToolsetService
from registry.access.toolsets.values import ToolsetSeen
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import present_page

Reader = Annotated[UserContext, needs(Scope.READ_TOOLS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_TOOLS)]
ToolsetId = Annotated[ObjectIdText, Path(description="ObjectId of the toolset.")]

errors = error_answers(
    {
        404: "There is no such toolset.",
        409: "The author has another of that name, a caller has another default, or the toolset "
        "was modified since it was read.",
        422: "A field or parameter cannot take that value, or names something unknown.",
    }
)

router = APIRouter(prefix="/api/v1/toolsets", tags=["toolsets"], route_class=StrictJsonRoute)


def _service(request: Request) -> ToolsetService:
    return cast("ToolsetService", request.app.state.toolsets)


@router.get("", response_model=ToolsetList, operation_id="list_toolsets", responses=errors())
async def list_toolsets(
    request: Request, user: Reader, asked: Annotated[ToolsetQuery, Query()]
) -> Response:
    """List the toolsets that the caller may see, by name."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.query, wanted)
    return JsonAnswer(present_page("toolsets", page, present_toolset))


@router.post(
    "",
    status_code=201,
    response_model=ToolsetAnswer,
    operation_id="create_toolset",
    responses=errors(408, 409, 415),
)
async def create_toolset(request: Request, user: Writer, body: ToolsetBody) -> Response:
    """Create a toolset of the caller; it is served on every replica within a second."""
    return _answer(request, await _service(request).create(body.change(), user), user, 201)


@router.get(
    "/{toolset_id}",
    response_model=ToolsetAnswer,
    operation_id="get_toolset",
    responses=errors(404),
)
async def get_toolset(request: Request, user: Reader, toolset_id: ToolsetId) -> Response:
    """Return one toolset, with the tools that it serves to the caller now."""
    return _answer(request, await _service(request).get(toolset_id, user), user)


@router.patch(
    "/{toolset_id}",
    response_model=ToolsetAnswer,
    operation_id="update_toolset",
    responses=errors(404, 408, 409, 415),
)
async def update_toolset(
    request: Request,
    user: Writer,
    toolset_id: ToolsetId,
    body: ToolsetPatch,
    if_match: IfMatch = None,
) -> Response:
    """Change the given members only."""
    seen = await _service(request).update(
        toolset_id, body.change(), user, expected_etag=etag_in(if_match)
    )
    return _answer(request, seen, user)


@router.put(
    "/{toolset_id}",
    response_model=ToolsetAnswer,
    operation_id="replace_toolset",
    responses=errors(404, 408, 409, 415),
)
async def replace_toolset(
    request: Request,
    user: Writer,
    toolset_id: ToolsetId,
    body: ToolsetBody,
    if_match: IfMatch = None,
) -> Response:
    """Replace all members."""
    seen = await _service(request).update(
        toolset_id, body.change(), user, expected_etag=etag_in(if_match)
    )
    return _answer(request, seen, user)


@router.delete(
    "/{toolset_id}",
    status_code=204,
    operation_id="delete_toolset",
    responses=errors(404, 409),
)
async def delete_toolset(
    request: Request, user: Writer, toolset_id: ToolsetId, if_match: IfMatch = None
) -> Response:
    """Remove a toolset; its path is not found any more, and who was bound to it is refused."""
    await _service(request).delete(toolset_id, user, expected_etag=etag_in(if_match))
    return Response(status_code=204)


def _answer(request: Request, seen: ToolsetSeen, user: UserContext, status: int = 200) -> Response:
    resolution = _service(request).resolved(seen, user)
    return JsonAnswer(
        present_toolset(seen, resolution), status, headers={"ETag": f'"{seen.record.etag}"'}
    )
