"""The audit API: `/api/v1/audit`."""

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from registry.audit.presenter import present_record
from registry.audit.schemas import AuditAnswer, AuditQuery
from registry.audit.service import AuditService
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Auditor = Annotated[UserContext, needs(Scope.READ_AUDIT)]

errors = error_answers(
    {
        403: "The token lacks the scope read:audit.",
        422: "A parameter has an invalid value.",
    }
)

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], route_class=StrictJsonRoute)


@router.get("", response_model=AuditAnswer, operation_id="list_audit", responses=errors())
async def list_audit(
    request: Request,
    user: Auditor,
    asked: Annotated[AuditQuery, Query()],
) -> Response:
    """List changes, secret reads and refused attempts, newest first.

    Administrators see all records of their tenant; others those about servers that they may see.
    """
    service = cast("AuditService", request.app.state.audit)
    page = await service.page(user, asked.record_filter(), asked.cursor, asked.limit)
    return JsonAnswer(
        {
            "records": [present_record(record) for record in page.records],
            "next_cursor": page.next_cursor,
        }
    )
