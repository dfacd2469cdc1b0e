"""The API of the official MCP registry, for reading: `/v0.1/servers`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.catalog.subregistry.schemas import (
    RegistryServer,
    RegistryServerList,
    ServersQuery,
    VersionsQuery,
)
from registry.catalog.subregistry.service import SubregistryService
from registry.core.json import JsonObject
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Reader = Annotated[UserContext, needs(Scope.READ_CATALOG, Scope.READ_SERVERS)]
ServerName = Annotated[
    str, Path(max_length=600, description="Name of the server, with or without its `/` encoded.")
]

errors = error_answers(
    {
        404: "There is no such server or version.",
        422: "A parameter cannot take that value.",
    }
)

router = APIRouter(prefix="/v0.1", tags=["registry"], route_class=StrictJsonRoute)


def _service(request: Request) -> SubregistryService:
    return cast("SubregistryService", request.app.state.subregistry)


@router.get(
    "/servers",
    response_model=RegistryServerList,
    operation_id="list_registry_servers",
    responses=errors(),
)
async def list_registry_servers(
    request: Request, user: Reader, asked: Annotated[ServersQuery, Query()]
) -> Response:
    """List servers of the catalog and of this gateway as the official registry does, by name."""
    found = await _service(request).page(user, asked.narrowed(), asked.cursor, asked.limit)
    return _list(*found)


@router.get(
    "/servers/{server_name:path}/versions",
    response_model=RegistryServerList,
    operation_id="list_registry_versions",
    responses=errors(404),
)
async def list_registry_versions(
    request: Request,
    user: Reader,
    server_name: ServerName,
    asked: Annotated[VersionsQuery, Query()],
) -> Response:
    """Return all versions of a server, the latest first."""
    found = await _service(request).versions(user, server_name, with_deleted=asked.include_deleted)
    return _list(found, None)


@router.get(
    "/servers/{server_name:path}/versions/{version}",
    response_model=RegistryServer,
    operation_id="get_registry_version",
    responses=errors(404),
)
async def get_registry_version(
    request: Request,
    user: Reader,
    server_name: ServerName,
    version: Annotated[str, Path(max_length=255, description="Version, or `latest`.")],
    asked: Annotated[VersionsQuery, Query()],
) -> Response:
    """Return one version of a server."""
    found = await _service(request).version(
        user, server_name, version, with_deleted=asked.include_deleted
    )
    return JsonAnswer(found)


def _list(servers: list[JsonObject], cursor: str | None) -> Response:
    metadata: dict[str, object] = {"count": len(servers)}
    if cursor is not None:
        metadata["nextCursor"] = cursor
    return JsonAnswer({"servers": servers, "metadata": metadata})
