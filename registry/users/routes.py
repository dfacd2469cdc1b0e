"""The users and groups APIs, for administrators: `/api/v1/users`, `/api/v1/groups`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.tokens.presenter import present_issued_for
from registry.tokens.schemas import IssuedUserToken, TokenIssue
from registry.tokens.sessions import SessionService
from registry.users.presenter import present_group, present_members, present_user
from registry.users.schemas import (
    ONE_LINE,
    GroupAnswer,
    GroupCreate,
    GroupList,
    GroupUpdate,
    UserAnswer,
    UserCreate,
    UserList,
    UserUpdate,
)
from registry.users.service import UserService
from registry.users.values import GroupChange, UserChange
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import NO_STORE, JsonAnswer, error_answers
from registry.web.pages import PageNumber, PerPage, present_page

Admin = Annotated[UserContext, needs(Scope.WRITE_ACCESS)]
TokenIssuing = Annotated[UserContext, needs(Scope.WRITE_ACCESS, Scope.WRITE_TOKENS)]
UserId = Annotated[ObjectIdText, Path(description="ObjectId of the user.")]
GroupId = Annotated[ObjectIdText, Path(description="ObjectId of the group.")]
Text = Annotated[
    str | None, Query(max_length=100, pattern=ONE_LINE, description="Part of a name or address.")
]

errors = error_answers(
    {
        403: "The caller is not an administrator, or jarvis-api manages users and groups.",
        404: "There is no user or group with that id.",
        409: "The name or email is taken, or no administrator would be left.",
    }
)


def _service(request: Request) -> UserService:
    return cast("UserService", request.app.state.users)


users_router = APIRouter(prefix="/api/v1/users", tags=["users"], route_class=StrictJsonRoute)
groups_router = APIRouter(prefix="/api/v1/groups", tags=["groups"], route_class=StrictJsonRoute)


@users_router.get("", response_model=UserList, operation_id="list_users", responses=errors())
async def list_users(
    request: Request,
    actor: Admin,
    query: Text = None,
    page: PageNumber = 1,
    per_page: PerPage = 20,
) -> Response:
    """List users by email. For administrators."""
    found = await _service(request).list_users(query, PageRequest(page, per_page), actor)
    return JsonAnswer(present_page("users", found, present_user))


@users_router.post(
    "",
    status_code=201,
    response_model=UserAnswer,
    operation_id="create_user",
    responses=errors(408, 409, 415),
)
async def add_user(request: Request, actor: Admin, body: UserCreate) -> Response:
    """Add a user, if jarvis-api does not manage users. For administrators."""
    return JsonAnswer(present_user(await _service(request).add_user(body, actor)), 201)


@users_router.get(
    "/{user_id}", response_model=UserAnswer, operation_id="get_user", responses=errors(404)
)
async def get_user(request: Request, actor: Admin, user_id: UserId) -> Response:
    """Return a user. For administrators."""
    return JsonAnswer(present_user(await _service(request).get_user(user_id, actor)))


@users_router.patch(
    "/{user_id}",
    response_model=UserAnswer,
    operation_id="update_user",
    responses=errors(404, 408, 409, 415),
)
async def update_user(
    request: Request, actor: Admin, user_id: UserId, body: UserUpdate
) -> Response:
    """Change the names or the role of a user, or disable them. For administrators."""
    change = UserChange(body.name, body.username, body.role, body.disabled)
    user = await _service(request).change_user(user_id, change, actor)
    return JsonAnswer(present_user(user))


@users_router.post(
    "/{user_id}/tokens",
    status_code=201,
    response_model=IssuedUserToken,
    operation_id="issue_user_token",
    responses=errors(404, 408, 415),
)
async def issue_user_token(
    request: Request, actor: TokenIssuing, user_id: UserId, body: TokenIssue
) -> Response:
    """Issue an access token for a user, with no more than the caller's own scopes. Recorded.

    For administrators.
    """
    sessions = cast("SessionService", request.app.state.sessions)
    order, issued = await sessions.issue_for(user_id, body, actor)
    return JsonAnswer(present_issued_for(order, issued), 201, NO_STORE)


@groups_router.get("", response_model=GroupList, operation_id="list_groups", responses=errors())
async def list_groups(
    request: Request,
    actor: Admin,
    query: Text = None,
    page: PageNumber = 1,
    per_page: PerPage = 20,
) -> Response:
    """List groups by name. For administrators."""
    found = await _service(request).list_groups(query, PageRequest(page, per_page), actor)
    return JsonAnswer(present_page("groups", found, present_group))


@groups_router.post(
    "",
    status_code=201,
    response_model=GroupAnswer,
    operation_id="create_group",
    responses=errors(408, 409, 415),
)
async def add_group(request: Request, actor: Admin, body: GroupCreate) -> Response:
    """Add a group, if jarvis-api does not manage groups. For administrators."""
    return JsonAnswer(present_members(await _service(request).add_group(body, actor)), 201)


@groups_router.get(
    "/{group_id}", response_model=GroupAnswer, operation_id="get_group", responses=errors(404)
)
async def get_group(request: Request, actor: Admin, group_id: GroupId) -> Response:
    """Return a group with its members. For administrators."""
    return JsonAnswer(present_members(await _service(request).get_group(group_id, actor)))


@groups_router.patch(
    "/{group_id}",
    response_model=GroupAnswer,
    operation_id="update_group",
    responses=errors(404, 408, 409, 415),
)
async def update_group(
    request: Request, actor: Admin, group_id: GroupId, body: GroupUpdate
) -> Response:
    """Rename a group, or change its members. For administrators."""
    change = GroupChange(
        body.name, body.description, frozenset(body.add_members), frozenset(body.remove_members)
    )
    group = await _service(request).change_group(group_id, change, actor)
    return JsonAnswer(present_members(group))
