"""The usage API: `/api/v1/usage`."""

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.usage.presenter import present_record
from registry.usage.schemas import UsageAnswer, UsageQuery
from registry.usage.service import UsageService
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Auditor = Annotated[UserContext, needs(Scope.READ_AUDIT)]

errors = error_answers(
    {
        403: "The token lacks the scope read:audit.",
        422: "A parameter has an invalid value.",
    }
)

router = APIRouter(prefix="/api/v1/usage", tags=["usage"], route_class=StrictJsonRoute)


@router.get("", response_model=UsageAnswer, operation_id="list_usage", responses=errors())
async def list_usage(
    request: Request,
    user: Auditor,
    asked: Annotated[UsageQuery, Query()],
) -> Response:
    """List calls at the gateway, newest first: who called what, how long it took, how it ended.

    Of servers that the caller may see, and the caller's own.
    """
    service = cast("UsageService", request.app.state.usage)
    page = await service.page(user, asked.record_filter(), asked.cursor, asked.limit)
    return JsonAnswer(
        {
            "records": [present_record(record) for record in page.records],
            "next_cursor": page.next_cursor,
        }
    )
