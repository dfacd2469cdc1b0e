"""The tokens API: `/api/v1/tokens`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.tokens.presenter import (
    present_created,
    present_detail,
    present_family,
    present_issued,
    present_refreshed,
    present_summary,
)
from registry.tokens.schemas import (
    MAX_IDENTIFIER_CHARACTERS,
    ONE_LINE,
    IssuedList,
    IssuedTokenPair,
    RevokedAnswer,
    SessionRefresh,
    TokenCreate,
    TokenCreated,
    TokenDetail,
    TokenGenerate,
    TokenList,
    TokenRefresh,
    TokenRefreshed,
    TokenRevoke,
)
from registry.tokens.service import TokenService
from registry.tokens.sessions import SessionService
from registry.tokens.values import TokenFilter, TokenType
from registry.web.bodies import SmallJsonRoute, StrictJsonRoute
from registry.web.errors import NO_STORE, JsonAnswer, error_answers
from registry.web.pages import PageNumber, PerPage, present_page

Reader = Annotated[UserContext, needs(Scope.READ_TOKENS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_TOKENS)]
TokenId = Annotated[ObjectIdText, Path(description="ObjectId of the token.")]

errors = error_answers(
    {
        401: "No acceptable token.",
        404: "The caller has no such token.",
        409: "The stored token cannot be decrypted with the current keys.",
    }
)


def _sessions(request: Request) -> SessionService:
    return cast("SessionService", request.app.state.sessions)


def _tokens(request: Request) -> TokenService:
    return cast("TokenService", request.app.state.tokens)


router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"], route_class=StrictJsonRoute)


exchanges = APIRouter(prefix="/api/v1/tokens", tags=["tokens"], route_class=SmallJsonRoute)


@router.post(
    "/generate",
    response_model=IssuedTokenPair,
    operation_id="generate_token",
    responses=errors(408, 415),
)
async def generate_token(request: Request, user: Writer, body: TokenGenerate) -> Response:
    """Issue an access and a refresh token with some of the caller's scopes."""
    return JsonAnswer(
        present_issued(await _sessions(request).generate(body, user)), headers=NO_STORE
    )


@router.get(
    "/issued", response_model=IssuedList, operation_id="list_issued_tokens", responses=errors(403)
)
async def list_issued_tokens(
    request: Request,
    user: Reader,
    user_id: Annotated[
        ObjectIdText | None, Query(description="Whose; administrators alone ask others.")
    ] = None,
    page: PageNumber = 1,
    per_page: PerPage = 50,
) -> Response:
    """List tokens that were issued and have not expired, newest first, without their values.

    Users see their own, administrators all.
    """
    found = await _sessions(request).list_page(user, user_id, PageRequest(page, per_page))
    return JsonAnswer(present_page("tokens", found, present_family))


@exchanges.post(
    "/refresh-session",
    response_model=IssuedTokenPair,
    operation_id="refresh_session",
    responses=errors(408, 415),
    openapi_extra={"security": []},
)
async def refresh_session(request: Request, body: SessionRefresh) -> Response:
    """Exchange a refresh token, the only credential here, which is valid for one exchange."""
    return JsonAnswer(
        present_issued(await _sessions(request).exchange(body.refresh_token)), headers=NO_STORE
    )


@router.post(
    "/revoke",
    response_model=RevokedAnswer,
    response_model_exclude_none=True,
    operation_id="revoke_token",
    responses=errors(404, 408, 415),
)
async def revoke_token(request: Request, user: Writer, body: TokenRevoke) -> Response:
    """Revoke a token with its family and all descendants, or all tokens of a user.

    Users revoke their own, administrators those of all users.
    """
    revoked = await _sessions(request).revoke(body, user)
    body_members = body.model_dump(exclude_none=True, exclude={"unrecorded"})
    return JsonAnswer({"revoked": True, "already_revoked": revoked.already, **body_members})


@router.post(
    "",
    status_code=201,
    response_model=TokenCreated,
    operation_id="create_token",
    responses=errors(408, 415),
)
async def store_token(request: Request, user: Writer, body: TokenCreate) -> Response:
    """Store a token of the caller; one of the same type and identifier is replaced."""
    return JsonAnswer(present_created(await _tokens(request).store(body, user)), 201)


@router.get("", response_model=TokenList, operation_id="list_tokens", responses=errors())
async def list_tokens(
    request: Request,
    user: Reader,
    kind: Annotated[TokenType | None, Query(alias="type")] = None,
    identifier: Annotated[
        str | None, Query(max_length=MAX_IDENTIFIER_CHARACTERS + 8, pattern=ONE_LINE)
    ] = None,
    page: PageNumber = 1,
    per_page: PerPage = 50,
) -> Response:
    """List the caller's tokens that have not expired, newest first, without their values."""
    found = await _tokens(request).list_page(
        user, TokenFilter(kind, identifier), PageRequest(page, per_page)
    )
    return JsonAnswer(present_page("tokens", found, present_summary))


@router.get(
    "/{token_id}",
    response_model=TokenDetail,
    operation_id="get_token",
    responses=errors(404, 409),
)
async def get_token(request: Request, user: Reader, token_id: TokenId) -> Response:
    """Return a token of the caller with its value. The read is recorded."""
    token = await _tokens(request).read(token_id, user)
    return JsonAnswer(present_detail(token), headers=NO_STORE)


@router.put(
    "/{token_id}/refresh",
    response_model=TokenRefreshed,
    operation_id="refresh_token",
    responses=errors(404, 408, 415),
)
async def refresh_token(
    request: Request, user: Writer, token_id: TokenId, body: TokenRefresh
) -> Response:
    """Replace an access token, and the refresh token linked to it, atomically."""
    token = await _tokens(request).refresh(token_id, body, user)
    return JsonAnswer(present_refreshed(token, body.new_access_token), headers=NO_STORE)


@router.delete("/{token_id}", status_code=204, operation_id="delete_token", responses=errors(404))
async def delete_token(request: Request, user: Writer, token_id: TokenId) -> Response:
    """Remove a token of the caller."""
    await _tokens(request).delete(token_id, user)
    return Response(status_code=204)
