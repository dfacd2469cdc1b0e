"""The access API: `/api/v1/access`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.access.policies.presenter import present_policy, present_written
from registry.access.policies.schemas import (
    ExplainAnswer,
    ExplainRequest,
    PolicyAnswer,
    PolicyCreate,
    PolicyList,
    PolicyQuery,
    PolicyRemoved,
    PolicyUpdate,
    PolicyWithWarnings,
)
from registry.access.policies.service import ExplainQuestion, PolicyService, WrittenPolicy
from registry.access.policies.values import PolicyRecord
from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.json import JsonObject
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.web.bodies import IfMatch, StrictJsonRoute, etag_in
from registry.web.errors import JsonAnswer, error_answers
from registry.web.pages import present_page

Asker = Annotated[UserContext, needs(Scope.READ_TOOLS)]
Sharer = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
PolicyId = Annotated[ObjectIdText, Path(description="ObjectId of the policy.")]

errors = error_answers(
    {
        404: "There is no such policy, or no such server.",
        409: "The name is taken, or the policy was modified since it was read.",
        422: "A field or parameter cannot take that value, or a subject does not exist.",
    }
)

router = APIRouter(prefix="/api/v1/access", tags=["access"], route_class=StrictJsonRoute)


def _service(request: Request) -> PolicyService:
    return cast("PolicyService", request.app.state.policies)


@router.get(
    "/policies", response_model=PolicyList, operation_id="list_policies", responses=errors()
)
async def list_policies(
    request: Request, user: Sharer, asked: Annotated[PolicyQuery, Query()]
) -> Response:
    """List policies by name: all for administrators, for others those for their servers."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.narrowed(), wanted)
    return JsonAnswer(present_page("policies", page, present_policy))


@router.post(
    "/policies",
    status_code=201,
    response_model=PolicyWithWarnings,
    operation_id="create_policy",
    responses=errors(408, 409, 415),
)
async def create_policy(request: Request, user: Sharer, body: PolicyCreate) -> Response:
    """Create a policy; it is in force on every replica within a second."""
    return _written(await _service(request).create(body.change(), user), 201)


@router.get(
    "/policies/{policy_id}",
    response_model=PolicyAnswer,
    operation_id="get_policy",
    responses=errors(404),
)
async def get_policy(request: Request, user: Sharer, policy_id: PolicyId) -> Response:
    """Return one policy."""
    record = await _service(request).get(policy_id, user)
    return _answer(present_policy(record), record)


@router.patch(
    "/policies/{policy_id}",
    response_model=PolicyWithWarnings,
    operation_id="update_policy",
    responses=errors(404, 408, 409, 415),
)
async def update_policy(
    request: Request,
    user: Sharer,
    policy_id: PolicyId,
    body: PolicyUpdate,
    if_match: IfMatch = None,
) -> Response:
    """Change the given members only."""
    written = await _service(request).update(
        policy_id, body.change(), user, expected_etag=etag_in(if_match)
    )
    return _written(written)


@router.delete(
    "/policies/{policy_id}",
    response_model=PolicyRemoved,
    operation_id="delete_policy",
    responses=errors(404, 409),
)
async def delete_policy(
    request: Request, user: Sharer, policy_id: PolicyId, if_match: IfMatch = None
) -> Response:
    """Remove a policy; the answer says what that does."""
    said = await _service(request).delete(policy_id, user, expected_etag=etag_in(if_match))
    return JsonAnswer({"id": policy_id, "consequence": said})


@router.post(
    "/explain",
    response_model=ExplainAnswer,
    operation_id="explain_access",
    responses=errors(404, 408, 415),
)
async def explain_access(request: Request, user: Asker, body: ExplainRequest) -> Response:
    """Explain whether a user may use a tool, and why; by default the caller."""
    asked = ExplainQuestion(
        tool=body.tool,
        owner_id=body.server_id,
        path=body.path,
        is_self=body.is_about_the_caller,
        user_id=body.user_id,
        groups=None if body.groups is None else frozenset(body.groups),
        role=body.roles[0] if body.roles else None,
        scopes=None if body.scopes is None else frozenset(body.scopes),
        toolset=body.toolset,
        client=body.client_name,
    )
    explained = await _service(request).explain(asked, user)
    explanation = explained.explanation
    return JsonAnswer(
        {
            "allowed": explanation.allowed,
            "message": explanation.message,
            "server_id": explained.server_id,
            "tool": explained.tool,
            "reasons": [
                {
                    "step": reason.step,
                    "passed": reason.passed,
                    "message": reason.message,
                    "retry_after_ms": reason.retry_after_ms,
                }
                for reason in explanation.reasons
            ],
            "policies": [
                {
                    "id": item.policy.id,
                    "name": item.policy.name,
                    "effect": item.policy.effect.value,
                    "matched": bool(item.matched_by),
                    "matched_by": list(item.matched_by),
                    "decisive": item.is_decisive,
                }
                for item in explanation.policies
            ],
            "warnings": list(explanation.warnings),
        }
    )


def _answer(body: JsonObject, record: PolicyRecord, status: int = 200) -> Response:
    return JsonAnswer(body, status, headers={"ETag": f'"{record.etag}"'})


def _written(written: WrittenPolicy, status: int = 200) -> Response:
    body = present_written(written.record, written.consequence, written.warnings)
    return _answer(body, written.record, status)
