"""The simulation API: `/api/v1/access/simulate`."""

from typing import Annotated, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from registry.access.simulation.presenter import present_simulation
from registry.access.simulation.schemas import SimulateAnswer, SimulateRequest
from registry.access.simulation.service import SimulationService
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Writer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]

errors = error_answers(
    {
        404: "There is no such policy, limit or toolset.",
        422: "A member cannot take that value, or names something unknown.",
    }
)

router = APIRouter(prefix="/api/v1/access", tags=["access"], route_class=StrictJsonRoute)


@router.post(
    "/simulate",
    response_model=SimulateAnswer,
    operation_id="simulate_access",
    responses=errors(404, 408, 415),
)
async def simulate_access(request: Request, user: Writer, body: SimulateRequest) -> Response:
    """Tell which recorded calls a policy, limit or toolset would have refused or newly allowed.

    Nothing is stored. Those may ask who may write the same.
    """
    service = cast("SimulationService", request.app.state.simulation)
    return JsonAnswer(present_simulation(await service.simulate(body.question(), user)))
