"""The versions API: `/api/v1/servers/{id}/versions`."""

from dataclasses import replace
from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.servers.routes import (
    IfMatch,
    IfUnmodifiedSince,
    Reader,
    detail_answer,
    precondition_of,
)
from registry.servers.schemas import ServerDetail
from registry.servers.versions.presenter import present_difference, present_version
from registry.servers.versions.schemas import (
    MAX_VERSION,
    ServerVersionDetail,
    ServerVersions,
    VersionDifferences,
    VersionRollback,
)
from registry.servers.versions.service import VersionService
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import PageNumber, PerPage, pagination

Writer = Annotated[UserContext, needs(Scope.READ_SERVERS, Scope.WRITE_SERVERS)]
Number = Annotated[int, Path(ge=1, le=MAX_VERSION, description="Counts from 1.")]

errors = error_answers(
    {
        404: "There is no such server, or no such version of it.",
        409: "The server was modified meanwhile, is reached so already, or a secret of the "
        "version cannot be decrypted.",
        502: "The upstream cannot be read.",
    }
)

router = APIRouter(prefix="/api/v1/servers", tags=["servers"], route_class=StrictJsonRoute)


def _service(request: Request) -> VersionService:
    return cast("VersionService", request.app.state.versions)


@router.get(
    "/{server_id}/versions",
    response_model=ServerVersions,
    operation_id="list_server_versions",
    responses=errors(404),
)
async def list_server_versions(
    request: Request,
    user: Reader,
    server_id: ServerId,
    page: PageNumber = 1,
    per_page: PerPage = 20,
) -> Response:
    """List how a server was reached, newest first. For callers who may change it."""
    wanted = PageRequest(page, per_page)
    history = await _service(request).history(server_id, user, wanted)
    return JsonAnswer(
        {
            "id": history.server.id,
            "serverName": history.server.server_name,
            "activeVersion": history.active_version,
            "changedElsewhere": history.is_changed_elsewhere,
            "versions": [present_version(version) for version in history.page.items],
            "pagination": pagination(history.page),
        }
    )


@router.get(
    "/{server_id}/versions/{version}",
    response_model=ServerVersionDetail,
    operation_id="get_server_version",
    responses=errors(404),
)
async def get_server_version(
    request: Request, user: Reader, server_id: ServerId, version: Number
) -> Response:
    """Return one version of how a server is reached."""
    server, found = await _service(request).get(server_id, version, user)
    return JsonAnswer(
        {"id": server.id, "serverName": server.server_name, **present_version(found)}
    )


@router.get(
    "/{server_id}/versions/{version}/diff",
    response_model=VersionDifferences,
    operation_id="diff_server_version",
    responses=errors(404),
)
async def diff_server_version(
    request: Request,
    user: Reader,
    server_id: ServerId,
    version: Number,
    against: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="By default the active one.")
    ] = None,
) -> Response:
    """Compare two versions; of secrets, only whether they differ is shown."""
    found = await _service(request).compare(server_id, version, against, user)
    return JsonAnswer(
        {
            "id": found.server.id,
            "serverName": found.server.server_name,
            "version": found.version,
            "against": found.against,
            "changes": [present_difference(change) for change in found.changes],
        }
    )


@router.post(
    "/{server_id}/versions/{version}/rollback",
    response_model=ServerDetail,
    operation_id="roll_back_server",
    responses=errors(404, 408, 409, 412, 415, 502),
)
async def roll_back_server(
    request: Request,
    user: Writer,
    server_id: ServerId,
    version: Number,
    body: VersionRollback | None = None,
    if_match: IfMatch = None,
    if_unmodified_since: IfUnmodifiedSince = None,
) -> Response:
    """Restore the connection of a version, secrets included; that makes a new version."""
    precondition = precondition_of(if_match, if_unmodified_since)
    if body is not None and body.updated_at is not None:
        precondition = replace(precondition, updated_at=body.updated_at)
    server = await _service(request).roll_back(server_id, version, user, precondition=precondition)
    return await detail_answer(request, server, user)
