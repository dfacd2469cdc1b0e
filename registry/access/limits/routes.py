"""The limits API: `/api/v1/limits`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.access.limits.presenter import present_limit
from registry.access.limits.schemas import (
    LimitAnswer,
    LimitCreate,
    LimitList,
    LimitQuery,
    LimitUpdate,
)
from registry.access.limits.service import LimitService
from registry.access.limits.values import LimitRecord
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import present_page

Writer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
LimitId = Annotated[ObjectIdText, Path(description="ObjectId of the limit.")]

errors = error_answers(
    {
        404: "There is no such limit.",
        409: "The name is taken, or the limit was modified since it was read.",
        422: "A field or parameter cannot take that value, or a subject does not exist.",
    }
)

router = APIRouter(prefix="/api/v1", tags=["limits"], route_class=StrictJsonRoute)


def _service(request: Request) -> LimitService:
    return cast("LimitService", request.app.state.limits)


@router.get("/limits", response_model=LimitList, operation_id="list_limits", responses=errors())
async def list_limits(
    request: Request, user: Writer, asked: Annotated[LimitQuery, Query()]
) -> Response:
    """List limits by name: all for administrators, for others those about their servers."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.owner_id, wanted)
    return JsonAnswer(present_page("limits", page, present_limit))


@router.post(
    "/limits",
    status_code=201,
    response_model=LimitAnswer,
    operation_id="create_limit",
    responses=errors(408, 409, 415),
)
async def create_limit(request: Request, user: Writer, body: LimitCreate) -> Response:
    """Create a limit; it is in force on every replica within a second."""
    return _answer(await _service(request).create(body.change(), user), 201)


@router.get(
    "/limits/{limit_id}",
    response_model=LimitAnswer,
    operation_id="get_limit",
    responses=errors(404),
)
async def get_limit(request: Request, user: Writer, limit_id: LimitId) -> Response:
    """Return one limit."""
    return _answer(await _service(request).get(limit_id, user))


@router.patch(
    "/limits/{limit_id}",
    response_model=LimitAnswer,
    operation_id="update_limit",
    responses=errors(404, 408, 409, 415),
)
async def update_limit(
    request: Request,
    user: Writer,
    limit_id: LimitId,
    body: LimitUpdate,
    if_match: IfMatch = None,
) -> Response:
    """Change the given members only; what was counted stays counted."""
    record = await _service(request).update(
        limit_id, body.change(), user, expected_etag=etag_in(if_match)
    )
    return _answer(record)


@router.delete(
    "/limits/{limit_id}",
    status_code=204,
    operation_id="delete_limit",
    responses=errors(404, 409),
)
async def delete_limit(
    request: Request, user: Writer, limit_id: LimitId, if_match: IfMatch = None
) -> Response:
    """Remove a limit."""
    await _service(request).delete(limit_id, user, expected_etag=etag_in(if_match))
    return Response(status_code=204)


def _answer(record: LimitRecord, status: int = 200) -> Response:
    return JsonAnswer(present_limit(record), status, headers={"ETag": f'"{record.etag}"'})
