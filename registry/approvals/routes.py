"""The approvals API: `/api/v1/approvals`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.approvals.presenter import present_approval, present_detail
from registry.approvals.reading import ApprovalReader
from registry.approvals.schemas import (
    ApprovalAnswer,
    ApprovalDecision,
    ApprovalDetailAnswer,
    ApprovalList,
    ApprovalQuery,
)
from registry.approvals.service import ApprovalService
from registry.approvals.values import Approval, Verdict
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.json import JsonObject
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers

Reader = Annotated[UserContext, needs(Scope.READ_TOOLS)]
Approver = Annotated[UserContext, needs(Scope.APPROVE_TOOLS)]
Invoker = Annotated[UserContext, needs(Scope.INVOKE_TOOLS)]
ApprovalId = Annotated[ObjectIdText, Path(description="ObjectId of the request.")]

errors = error_answers(
    {
        403: "The token lacks a scope, or the caller may not approve this call.",
        404: "There is no such request, or not for this caller.",
        409: "The request has ended, was decided by the caller, or changed since it was read.",
        422: "A field or parameter cannot take that value.",
    }
)

router = APIRouter(prefix="/api/v1/approvals", tags=["approvals"], route_class=StrictJsonRoute)


def _reader(request: Request) -> ApprovalReader:
    return cast("ApprovalReader", request.app.state.approval_reader)


def _service(request: Request) -> ApprovalService:
    return cast("ApprovalService", request.app.state.approvals)


@router.get("", response_model=ApprovalList, operation_id="list_approvals", responses=errors())
async def list_approvals(
    request: Request, user: Reader, asked: Annotated[ApprovalQuery, Query()]
) -> Response:
    """List requests for approval, newest first: the caller's own.

    With the scope `approve:tools`, those for tools of all servers that the caller sees.
    """
    page = await _reader(request).page(
        user, asked.narrowed(), asked.server_id, asked.cursor, asked.limit
    )
    return JsonAnswer(
        {
            "approvals": [present_approval(one) for one in page.records],
            "next_cursor": page.next_cursor,
        }
    )


@router.get(
    "/{approval_id}",
    response_model=ApprovalDetailAnswer,
    operation_id="get_approval",
    responses=errors(404),
)
async def get_approval(request: Request, user: Reader, approval_id: ApprovalId) -> Response:
    """Return a request with its arguments, secrets hidden, and the tool's definition."""
    detail = await _reader(request).detail(approval_id, user)
    return _answer(present_detail(detail), detail.approval)


@router.post(
    "/{approval_id}/approve",
    response_model=ApprovalAnswer,
    operation_id="approve_call",
    responses=errors(404, 408, 409, 415),
)
async def approve_call(
    request: Request,
    user: Approver,
    approval_id: ApprovalId,
    body: ApprovalDecision | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Approve a call: it is made once, with exactly these arguments, when enough have approved."""
    return await _decided(request, user, approval_id, Verdict.APPROVE, body, if_match)


@router.post(
    "/{approval_id}/deny",
    response_model=ApprovalAnswer,
    operation_id="deny_call",
    responses=errors(404, 408, 409, 415),
)
async def deny_call(
    request: Request,
    user: Approver,
    approval_id: ApprovalId,
    body: ApprovalDecision | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Deny a call: it is not made, whoever has approved it."""
    return await _decided(request, user, approval_id, Verdict.DENY, body, if_match)


@router.post(
    "/{approval_id}/cancel",
    response_model=ApprovalAnswer,
    operation_id="cancel_call",
    responses=errors(404, 409),
)
async def cancel_call(
    request: Request, user: Invoker, approval_id: ApprovalId, if_match: IfMatch = None
) -> Response:
    """Withdraw a request of the caller that is not being executed."""
    ended = await _service(request).cancel(approval_id, user, expected_etag=etag_in(if_match))
    return _answer(present_approval(ended), ended)


async def _decided(
    request: Request,
    user: UserContext,
    approval_id: str,
    verdict: Verdict,
    body: ApprovalDecision | None,
    if_match: str | None,
) -> Response:
    decided = await _service(request).decide(
        approval_id,
        user,
        verdict,
        None if body is None else body.comment or None,
        expected_etag=etag_in(if_match),
    )
    return _answer(present_approval(decided), decided)


def _answer(body: JsonObject, approval: Approval) -> Response:
    return JsonAnswer(body, headers={"ETag": f'"{approval.etag}"'})
