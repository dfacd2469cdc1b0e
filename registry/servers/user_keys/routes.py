"""The routes for users' own values: `/api/v1/servers/{id}/user-keys`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from registry.access.presenter import present_flags
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.servers.presenter import timestamp
from registry.servers.routes import server_errors
from registry.servers.schemas import UserKeys, UserKeysInput
from registry.servers.service import ServerService, UserKeyResult
from registry.servers.user_keys.service import UserKeyService
from registry.servers.values import ServerRecord
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import JsonAnswer

KeyReader = Annotated[UserContext, needs(Scope.READ_SERVERS, Scope.READ_TOKENS)]
KeyWriter = Annotated[UserContext, needs(Scope.READ_SERVERS, Scope.WRITE_TOKENS)]
Variable = Annotated[str, Path(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]

router = APIRouter(prefix="/api/v1/servers", tags=["servers"], route_class=StrictJsonRoute)


def _servers(request: Request, server: ServerRecord) -> ServerService:
    state = request.app.state
    return cast("ServerService", state.api_servers if server.is_api else state.servers)


def _user_keys(request: Request) -> UserKeyService:
    return cast("UserKeyService", request.app.state.user_keys)


@router.get(
    "/{server_id}/user-keys",
    response_model=UserKeys,
    operation_id="list_user_keys",
    responses=server_errors(404),
)
async def list_user_keys(request: Request, user: KeyReader, server_id: ServerId) -> Response:
    """Return the server's user variables, and which of them the caller has stored."""
    return await _keys_answer(request, user, server_id)


@router.put(
    "/{server_id}/user-keys",
    response_model=UserKeys,
    operation_id="put_user_keys",
    responses=server_errors(404, 408, 409, 415),
)
async def put_user_keys(
    request: Request, user: KeyWriter, server_id: ServerId, body: UserKeysInput
) -> Response:
    """Store values of the caller's own for a server. The gateway uses them for the caller only.

    The server is read with them, for ten seconds at most, and `check` says whether it takes them;
    they are stored in any case. The first one that an editor of the server stores makes its tools
    known.
    """
    server = await _user_keys(request).store(server_id, body.values, user)
    check = None
    if any(value is not None for value in body.values.values()):
        check = await _servers(request, server).try_user_keys(server_id, user)
    return await _keys_answer(request, user, server_id, check)


@router.delete(
    "/{server_id}/user-keys",
    status_code=204,
    operation_id="delete_user_keys",
    responses=server_errors(404),
)
async def delete_user_keys(request: Request, user: KeyWriter, server_id: ServerId) -> Response:
    """Remove all values that the caller has stored for a server."""
    await _user_keys(request).remove(server_id, None, user)
    return Response(status_code=204)


@router.delete(
    "/{server_id}/user-keys/{name}",
    status_code=204,
    operation_id="delete_user_key",
    responses=server_errors(404),
)
async def delete_user_key(
    request: Request, user: KeyWriter, server_id: ServerId, name: Variable
) -> Response:
    """Remove one value of the caller's own."""
    await _user_keys(request).remove(server_id, name, user)
    return Response(status_code=204)


async def _keys_answer(
    request: Request, user: UserContext, server_id: str, check: UserKeyResult | None = None
) -> Response:
    server, states = await _user_keys(request).states(server_id, user)
    extra: dict[str, object] = {}
    if check is not None:
        extra["check"] = {"accepted": check.accepted, "message": check.message}
    return JsonAnswer(
        {
            **extra,
            "id": server.id,
            "serverName": server.server_name,
            "variables": [
                {
                    "name": state.name,
                    "title": str(state.variable.get("title") or state.name),
                    "description": str(state.variable.get("description") or ""),
                    "isSet": state.is_set,
                    "updatedAt": timestamp(state.updated_at),
                }
                for state in states
            ],
            "permissions": present_flags(server.bits),
        }
    )
