"""The catalog's API: `/api/v1/catalog`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.catalog.presenter import (
    present_entry,
    present_import,
    present_match,
    present_seen,
    present_source,
    present_version,
)
from registry.catalog.schemas import (
    CatalogQuery,
    CatalogServerAnswer,
    CatalogServerBody,
    CatalogServerList,
    CatalogServerPatch,
    CatalogSourceList,
    CatalogVersionList,
    ImportAccepted,
    ImportAnswer,
    ImportBody,
    ImportList,
    MatchAnswer,
    MatchBody,
    RegisterBody,
)
from registry.catalog.service import CatalogService
from registry.catalog.values import CatalogSeen
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.servers.routes import detail_answer
from registry.servers.schemas import ServerDetail
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import present_page

Reader = Annotated[UserContext, needs(Scope.READ_CATALOG)]
Writer = Annotated[UserContext, needs(Scope.WRITE_CATALOG)]
ServerWriter = Annotated[UserContext, needs(Scope.READ_CATALOG, Scope.WRITE_SERVERS)]
EntryId = Annotated[ObjectIdText, Path(description="ObjectId of the server of the catalog.")]

errors = error_answers(
    {
        404: "There is no such server in the catalog.",
        409: "The name, URL or package is taken, or the server was modified since it was read.",
        422: "A field or parameter cannot take that value.",
        502: "Another server cannot be read.",
    }
)

router = APIRouter(prefix="/api/v1/catalog", tags=["catalog"], route_class=StrictJsonRoute)


def _service(request: Request) -> CatalogService:
    return cast("CatalogService", request.app.state.catalog)


@router.get(
    "/servers",
    response_model=CatalogServerList,
    operation_id="list_catalog_servers",
    responses=errors(),
)
async def list_catalog_servers(
    request: Request, _user: Reader, asked: Annotated[CatalogQuery, Query()]
) -> Response:
    """List the servers of the catalog, by name, or best match first."""
    page = _service(request).page(asked.narrowed(), PageRequest(asked.page, asked.per_page))
    return JsonAnswer(present_page("servers", page, present_entry))


@router.post(
    "/servers",
    status_code=201,
    response_model=CatalogServerAnswer,
    operation_id="create_catalog_server",
    responses=errors(408, 409, 415),
)
async def create_catalog_server(
    request: Request, user: Writer, body: CatalogServerBody
) -> Response:
    """Add a server to the catalog. No registered server is linked to it by that."""
    return _answer(await _service(request).create(body.content(), user), 201)


@router.get(
    "/servers/{entry_id}",
    response_model=CatalogServerAnswer,
    operation_id="get_catalog_server",
    responses=errors(404),
)
async def get_catalog_server(request: Request, user: Reader, entry_id: EntryId) -> Response:
    """Return everything about a server of the catalog."""
    return _answer(await _service(request).get(entry_id, user))


@router.patch(
    "/servers/{entry_id}",
    response_model=CatalogServerAnswer,
    operation_id="update_catalog_server",
    responses=errors(404, 408, 409, 415),
)
async def update_catalog_server(
    request: Request,
    user: Writer,
    entry_id: EntryId,
    body: CatalogServerPatch,
    if_match: IfMatch = None,
) -> Response:
    """Change the given members only. Registered servers that are linked follow a new name."""
    seen = await _service(request).update(entry_id, body, user, expected_etag=etag_in(if_match))
    return _answer(seen)


@router.delete(
    "/servers/{entry_id}",
    status_code=204,
    operation_id="delete_catalog_server",
    responses=errors(404, 409),
)
async def delete_catalog_server(
    request: Request, user: Writer, entry_id: EntryId, if_match: IfMatch = None
) -> Response:
    """Remove a server of the catalog; registered servers stay, and are unlinked."""
    await _service(request).delete(entry_id, user, expected_etag=etag_in(if_match))
    return Response(status_code=204)


@router.get(
    "/servers/{entry_id}/versions",
    response_model=CatalogVersionList,
    operation_id="list_catalog_versions",
    responses=errors(404),
)
async def list_catalog_versions(request: Request, _user: Reader, entry_id: EntryId) -> Response:
    """Return the versions of a server of the catalog, the latest first."""
    versions = await _service(request).versions(entry_id)
    return JsonAnswer({"versions": [present_version(one) for one in versions]})


@router.post(
    "/servers/{entry_id}/register",
    status_code=201,
    response_model=ServerDetail,
    operation_id="register_catalog_server",
    responses=errors(404, 408, 409, 415, 502),
)
async def register_catalog_server(
    request: Request,
    user: ServerWriter,
    entry_id: EntryId,
    body: RegisterBody,
    *,
    strict: Annotated[
        bool, Query(description="Refuse a server that cannot be read instead of storing it.")
    ] = False,
) -> Response:
    """Register a remote of a server of the catalog, with the values it asks for, or a package."""
    server = await _service(request).register(entry_id, body, user, strict=strict)
    return await detail_answer(request, server, user, 201)


@router.get(
    "/sources",
    response_model=CatalogSourceList,
    operation_id="list_catalog_sources",
    responses=errors(),
)
async def list_catalog_sources(request: Request, _user: Reader) -> Response:
    """Return where servers of the catalog were imported from."""
    sources = await _service(request).sources()
    return JsonAnswer({"sources": [present_source(one) for one in sources]})


@router.post(
    "/match",
    response_model=MatchAnswer,
    operation_id="match_catalog",
    responses=errors(408, 415),
)
async def match_catalog(
    request: Request, user: ServerWriter, body: MatchBody | None = None
) -> Response:
    """Match registered servers that the caller may change to the catalog anew."""
    ids = None if body is None or body.server_ids is None else frozenset(body.server_ids)
    return JsonAnswer(present_match(await _service(request).match(ids, user)))


@router.post(
    "/imports",
    status_code=202,
    response_model=ImportAccepted,
    operation_id="import_into_catalog",
    responses=errors(408, 409, 415),
)
async def import_into_catalog(request: Request, user: Writer, body: ImportBody) -> Response:
    """Import a registry or a file in the background; `GET /catalog/imports/{id}` shows how far."""
    job, was_open = await _service(request).open_import(body.asked(), user)
    return JsonAnswer({**present_import(job), "alreadyOpen": was_open}, 202)


@router.get(
    "/imports",
    response_model=ImportList,
    operation_id="list_catalog_imports",
    responses=errors(),
)
async def list_catalog_imports(request: Request, _user: Writer) -> Response:
    """Return the latest imports, newest first."""
    jobs = await _service(request).import_jobs()
    return JsonAnswer({"imports": [present_import(job) for job in jobs]})


@router.get(
    "/imports/{import_id}",
    response_model=ImportAnswer,
    operation_id="get_catalog_import",
    responses=errors(404),
)
async def get_catalog_import(
    request: Request,
    _user: Writer,
    import_id: Annotated[ObjectIdText, Path(description="ObjectId of the import.")],
) -> Response:
    """Return how far an import is, and which entries it could not take."""
    return JsonAnswer(present_import(await _service(request).import_job(import_id)))


def _answer(seen: CatalogSeen, status: int = 200) -> Response:
    return JsonAnswer(present_seen(seen), status, headers={"ETag": f'"{seen.entry.etag}"'})
