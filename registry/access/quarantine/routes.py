"""The quarantine API: `/api/v1/access/quarantine`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from registry.access.quarantine.presenter import present_quarantine, present_radius
from registry.access.quarantine.schemas import (
    AddedQuarantine,
    LiftedAnswer,
    QuarantineList,
    QuarantineRequest,
)
from registry.access.quarantine.service import QuarantineService
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.text import ObjectIdText
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Writer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
QuarantineId = Annotated[ObjectIdText, Path(description="ObjectId of the quarantine.")]

errors = error_answers(
    {
        404: "There is no such quarantine.",
        422: "A member cannot take that value, or there is no such subject.",
    }
)

router = APIRouter(prefix="/api/v1/access", tags=["access"], route_class=StrictJsonRoute)


def _service(request: Request) -> QuarantineService:
    return cast("QuarantineService", request.app.state.quarantine)


@router.post(
    "/quarantine",
    status_code=201,
    response_model=AddedQuarantine,
    operation_id="add_quarantine",
    responses=errors(408, 415),
)
async def add_quarantine(request: Request, user: Writer, body: QuarantineRequest) -> Response:
    """Refuse a server, tool, user, token or application everywhere, within a second.

    The answer says what was reached from there in the last hours.
    """
    service = _service(request)
    added, radius = await service.add(body.value(), user)
    presented = present_quarantine(added, service.now())
    return JsonAnswer({**presented, "reached": present_radius(radius)}, 201)


@router.get(
    "/quarantine",
    response_model=QuarantineList,
    operation_id="list_quarantine",
    responses=errors(),
)
async def list_quarantine(
    request: Request, user: Writer, *, active: bool | None = None
) -> Response:
    """List what is in quarantine, and what was, the newest first."""
    service = _service(request)
    found = await service.listed(user, active=active)
    now = service.now()
    return JsonAnswer({"quarantines": [present_quarantine(one, now) for one in found]})


@router.delete(
    "/quarantine/{quarantine_id}",
    response_model=LiftedAnswer,
    operation_id="lift_quarantine",
    responses=errors(404),
)
async def lift_quarantine(request: Request, user: Writer, quarantine_id: QuarantineId) -> Response:
    """End a quarantine; it stays in the list."""
    service = _service(request)
    lifted, others = await service.lift(quarantine_id, user)
    return JsonAnswer({**present_quarantine(lifted, service.now()), "others": list(others)})
