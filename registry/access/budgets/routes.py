"""The budgets API: `/api/v1/budgets`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.access.budgets.presenter import present_budget
from registry.access.budgets.schemas import (
    BudgetAnswer,
    BudgetCreate,
    BudgetList,
    BudgetQuery,
    BudgetUpdate,
)
from registry.access.budgets.service import BudgetService, BudgetState
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.json import JsonObject
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import present_page

Payer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
BudgetId = Annotated[ObjectIdText, Path(description="ObjectId of the budget.")]

errors = error_answers(
    {
        403: "The token lacks the scope write:access, or the caller is no administrator.",
        404: "There is no such budget.",
        409: "The name is taken, the budget was modified since it was read, or calls leave no "
        "records.",
        422: "A field or parameter cannot take that value, or a user does not exist.",
    }
)

router = APIRouter(prefix="/api/v1/budgets", tags=["budgets"], route_class=StrictJsonRoute)


def _service(request: Request) -> BudgetService:
    return cast("BudgetService", request.app.state.budgets)


@router.get("", response_model=BudgetList, operation_id="list_budgets", responses=errors())
async def list_budgets(
    request: Request, user: Payer, asked: Annotated[BudgetQuery, Query()]
) -> Response:
    """List budgets by name, with what was spent this month; only administrators have any."""
    page = await _service(request).page(user, PageRequest(asked.page, asked.per_page))
    return JsonAnswer(present_page("budgets", page, _present))


@router.post(
    "",
    status_code=201,
    response_model=BudgetAnswer,
    operation_id="create_budget",
    responses=errors(408, 409, 415),
)
async def create_budget(request: Request, user: Payer, body: BudgetCreate) -> Response:
    """Create a budget; it is in force on every replica within a second.

    What its callers spent this month counts.
    """
    return _answer(await _service(request).create(body.change(), user), 201)


@router.get(
    "/{budget_id}", response_model=BudgetAnswer, operation_id="get_budget", responses=errors(404)
)
async def get_budget(request: Request, user: Payer, budget_id: BudgetId) -> Response:
    """Return one budget."""
    return _answer(await _service(request).get(budget_id, user))


@router.patch(
    "/{budget_id}",
    response_model=BudgetAnswer,
    operation_id="update_budget",
    responses=errors(404, 408, 409, 415),
)
async def update_budget(
    request: Request,
    user: Payer,
    budget_id: BudgetId,
    body: BudgetUpdate,
    if_match: IfMatch = None,
) -> Response:
    """Change the given members only. Calls that are under way are not ended."""
    state = await _service(request).update(
        budget_id, body.change(), user, expected_etag=etag_in(if_match)
    )
    return _answer(state)


@router.delete(
    "/{budget_id}", status_code=204, operation_id="delete_budget", responses=errors(404, 409)
)
async def delete_budget(
    request: Request, user: Payer, budget_id: BudgetId, if_match: IfMatch = None
) -> Response:
    """Remove a budget."""
    await _service(request).delete(budget_id, user, expected_etag=etag_in(if_match))
    return Response(status_code=204)


def _present(state: BudgetState) -> JsonObject:
    return present_budget(state.record, state.month, state.spent)


def _answer(state: BudgetState, status: int = 200) -> Response:
    headers = {"ETag": f'"{state.record.etag}"'}
    return JsonAnswer(_present(state), status, headers=headers)
