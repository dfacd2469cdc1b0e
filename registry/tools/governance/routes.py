"""The tools API: `/api/v1/registry/tools`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.tools.call_rules import misspelt
from registry.tools.governance.presenter import (
    present_detail,
    present_event,
    present_summary,
    present_undecided,
    present_version,
)
from registry.tools.governance.schemas import (
    BulkAnswer,
    CatalogQuery,
    DecisionsAnswer,
    HistoryQuery,
    ToolBulk,
    ToolDecision,
    ToolDecisions,
    ToolDetail,
    ToolHistory,
    ToolList,
    ToolQuery,
    ToolRollback,
    ToolUpdate,
)
from registry.tools.governance.service import BulkResult, ToolService
from registry.tools.values import StoredTool
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.embedding import embedding_of
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import pagination, present_page

Reader = Annotated[UserContext, needs(Scope.READ_TOOLS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_TOOLS)]
ToolId = Annotated[ObjectIdText, Path(description="ObjectId of the tool.")]

errors = error_answers(
    {
        404: "There is no such tool, or no such version.",
        409: "The tool is in another state, or has another definition, than that.",
    }
)

router = APIRouter(prefix="/api/v1/registry/tools", tags=["tools"], route_class=StrictJsonRoute)


catalog_router = APIRouter(tags=["tools"], route_class=StrictJsonRoute)
CATALOG_PATH = "/mcp/openapi/catalog"
"""Below the gateway's prefix, where clients of other gateways look for it."""


def _detail(request: Request, tool: StoredTool) -> Response:
    body = {**present_detail(tool), **embedding_of(request, "tool", tool.id)}
    return JsonAnswer(body, headers={"ETag": f'"{tool.etag}"'})


def _service(request: Request) -> ToolService:
    return cast("ToolService", request.app.state.tools)


@router.get("", response_model=ToolList, operation_id="list_tools", responses=errors())
async def list_tools(
    request: Request, user: Reader, asked: Annotated[ToolQuery, Query()]
) -> Response:
    """List tools: all of servers that the caller may change, of others those that are served."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.narrowed(), wanted)
    return JsonAnswer(present_page("tools", page, present_summary))


@catalog_router.get(
    f"/api/v1{CATALOG_PATH}",
    response_model=ToolList,
    operation_id="list_openapi_tools",
    responses=errors(),
)
@catalog_router.get(CATALOG_PATH, include_in_schema=False)
async def list_openapi_tools(
    request: Request, user: Reader, asked: Annotated[CatalogQuery, Query()]
) -> Response:
    """List the tools that are operations of REST APIs, as the registry knows them."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.narrowed(), wanted)
    return JsonAnswer(present_page("tools", page, present_summary))


@router.post(
    "/bulk", response_model=BulkAnswer, operation_id="update_tools", responses=errors(408, 415)
)
async def update_tools(request: Request, user: Writer, body: ToolBulk) -> Response:
    """Select, expose or mark many tools; what fails for one changes nothing for the others."""
    ids = list(dict.fromkeys(body.ids))
    patch = body.patch()
    result = await _service(request).patch_many(ids, patch, user)
    return JsonAnswer(
        {
            "changed": list(result.changed),
            "unchanged": list(result.unchanged),
            "failed": [
                {"id": tool_id, "error": error.kind.value, "message": error.message}
                for tool_id, error in result.failed
            ],
            "warnings": misspelt(
                name for name, value in patch.metadata.items() if value is not None
            ),
        }
    )


@router.post(
    "/bulk/accept",
    response_model=DecisionsAnswer,
    operation_id="accept_tools",
    responses=errors(408, 415),
)
async def accept_tools(request: Request, user: Writer, body: ToolDecisions) -> Response:
    """Serve what waits of many tools; what fails for one changes nothing for the others."""
    return _decided(await _service(request).accept_many(body.seen(), user))


@router.post(
    "/bulk/reject",
    response_model=DecisionsAnswer,
    operation_id="reject_tools",
    responses=errors(408, 415),
)
async def reject_tools(request: Request, user: Writer, body: ToolDecisions) -> Response:
    """Go on with what is served of many tools; new ones are disabled."""
    return _decided(await _service(request).reject_many(body.seen(), user))


def _decided(result: BulkResult) -> Response:
    failed = [present_undecided(tool_id, error) for tool_id, error in result.failed]
    return JsonAnswer({"changed": list(result.changed), "failed": failed})


@router.get(
    "/{tool_id}", response_model=ToolDetail, operation_id="get_tool", responses=errors(404)
)
async def get_tool(request: Request, user: Reader, tool_id: ToolId) -> Response:
    """Return one tool with its definitions."""
    return _detail(request, await _service(request).get(tool_id, user))


@router.patch(
    "/{tool_id}",
    response_model=ToolDetail,
    operation_id="update_tool",
    responses=errors(404, 408, 409, 415),
)
async def update_tool(
    request: Request,
    user: Writer,
    tool_id: ToolId,
    body: ToolUpdate,
    if_match: IfMatch = None,
) -> Response:
    """Change what clients get of a tool, what is known of its effects, or its states."""
    expected = etag_in(if_match)
    tool = await _service(request).patch(tool_id, body.patch(), user, expected_etag=expected)
    return _detail(request, tool)


@router.get(
    "/{tool_id}/history",
    response_model=ToolHistory,
    operation_id="get_tool_history",
    responses=errors(404),
)
async def tool_history(
    request: Request, user: Reader, tool_id: ToolId, asked: Annotated[HistoryQuery, Query()]
) -> Response:
    """List a tool's definitions, and what happened to it by whose hand, each newest first."""
    wanted = PageRequest(asked.page, asked.per_page)
    found = await _service(request).history(tool_id, user, wanted, asked.events_cursor)
    tool, versions = found.tool, found.versions
    return JsonAnswer(
        {
            "id": tool.id,
            "name": tool.name,
            "served_version": tool.served_version,
            "pending_version": tool.pending_version,
            "versions": [present_version(version) for version in versions.items],
            "pagination": pagination(versions),
            "events": [present_event(event) for event in found.events.records],
            "next_events_cursor": found.events.next_cursor,
        }
    )


@router.post(
    "/{tool_id}/accept",
    response_model=ToolDetail,
    operation_id="accept_tool",
    responses=errors(404, 408, 409, 415),
)
async def accept_tool(
    request: Request, user: Writer, tool_id: ToolId, body: ToolDecision
) -> Response:
    """Serve a changed definition, or a new tool, that waits for review."""
    return _detail(request, await _service(request).accept(tool_id, body.hash, user))


@router.post(
    "/{tool_id}/reject",
    response_model=ToolDetail,
    operation_id="reject_tool",
    responses=errors(404, 408, 409, 415),
)
async def reject_tool(
    request: Request, user: Writer, tool_id: ToolId, body: ToolDecision
) -> Response:
    """Go on with what is served; a new tool is disabled."""
    return _detail(request, await _service(request).reject(tool_id, body.hash, user))


@router.post(
    "/{tool_id}/rollback",
    response_model=ToolDetail,
    operation_id="roll_back_tool",
    responses=errors(404, 408, 409, 415),
)
async def roll_back_tool(
    request: Request, user: Writer, tool_id: ToolId, body: ToolRollback
) -> Response:
    """Serve another version of the tool."""
    return _detail(request, await _service(request).roll_back(tool_id, body.version, user))
