"""The search API: `/api/v1/search`."""

from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import UserContext
from registry.search.errors import SearchDisabledError
from registry.search.presenter import present_answer
from registry.search.schemas import SearchRequest, SearchResults
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

if TYPE_CHECKING:
    # It loads numpy, and is built only where search is on.
    from registry.search.service import SearchService

Caller = Annotated[UserContext, needs()]

errors = error_answers(
    {
        403: "The token may read none of the kinds, or not one that is named.",
        422: "A member cannot take that value, or the query is empty.",
        503: "Search is off, or what is known of servers is too old to be shown.",
    }
)

router = APIRouter(prefix="/api/v1/search", tags=["search"], route_class=StrictJsonRoute)


@router.post(
    "", response_model=SearchResults, operation_id="search", responses=errors(408, 415, 503)
)
async def search(request: Request, user: Caller, body: SearchRequest) -> Response:
    """Find tools, servers and catalog entries for a description.

    Tools are exactly those that `tools/list` at `/mcp` shows to the caller, servers those that
    the caller can call. By words and, where there is a model, by meaning.
    """
    service = cast("SearchService | None", request.app.state.search)
    if service is None:
        raise SearchDisabledError
    answer = await service.search(user, body.question())
    return JsonAnswer(present_answer(answer, explains=body.explain))
