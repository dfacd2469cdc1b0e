"""The connections API: `/api/v1/mcp/connection`."""

from typing import Annotated, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.connections.presenter import present_all, present_one, present_reconnected
from registry.connections.reconnection import Reconnection
from registry.connections.schemas import (
    ReinitializeAnswer,
    ServerConnectionAnswer,
    ServerConnectionsAnswer,
)
from registry.connections.service import ConnectionService
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Reader = Annotated[UserContext, needs(Scope.READ_SERVERS)]
Caller = Annotated[UserContext, needs(Scope.INVOKE_TOOLS)]
"""Making a connection uses the credentials that a call uses, and changes nothing stored."""

errors = error_answers(
    {
        404: "There is no such server.",
        409: "The server is turned off, or the connection is being made already.",
        429: "The connection was made several times just now.",
    }
)

router = APIRouter(
    prefix="/api/v1/mcp/connection", tags=["connections"], route_class=StrictJsonRoute
)

reconnection_router = APIRouter(
    prefix="/api/v1/mcp", tags=["connections"], route_class=StrictJsonRoute
)


def _service(request: Request) -> ConnectionService:
    return cast("ConnectionService", request.app.state.connections)


@router.get(
    "/status",
    response_model=ServerConnectionsAnswer,
    operation_id="list_connections",
    responses=errors(),
)
async def list_connections(request: Request, user: Reader) -> Response:
    """Return the connection state of all servers that the caller may see.

    Where users connect with credentials of their own, it is the state of the caller's connection.
    """
    return JsonAnswer(present_all(await _service(request).of_all(user)))


@router.get(
    "/status/{server_id}",
    response_model=ServerConnectionAnswer,
    operation_id="get_connection",
    responses=errors(404),
)
async def get_connection(request: Request, user: Reader, server_id: ServerId) -> Response:
    """Return the connection state of one server."""
    server, view = await _service(request).of_one(server_id, user)
    return JsonAnswer(present_one(server, view))


@reconnection_router.post(
    "/{server_id}/reinitialize",
    response_model=ReinitializeAnswer,
    operation_id="reinitialize_connection",
    responses=errors(404, 409, 429),
)
async def reinitialize(request: Request, user: Caller, server_id: ServerId) -> Response:
    """Make the caller's connection to a server anew, and return its state.

    Where the caller must authorise the registry first, the answer says where.
    """
    service = _service(request)
    server, _ = await service.of_one(server_id, user)
    reconnection = cast("Reconnection", request.app.state.reconnection)
    made = await reconnection.reinitialize(server, user)
    server, view = await service.of_one(server_id, user)
    return JsonAnswer(present_reconnected(server, view, made))
