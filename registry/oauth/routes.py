"""The OAuth API: `/api/v1/mcp`, and the pages that browsers open below it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from pydantic import JsonValue
from starlette.responses import RedirectResponse, Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.oauth.errors import FlowNotFoundError, OtherPageError
from registry.oauth.links import (
    CALLBACK_PATH,
    METADATA_PATH,
    SIGNING_METADATA_PATH,
    START_PATH,
)
from registry.oauth.pages import HEADERS, confirm_page, done_page, failed_page
from registry.oauth.presenter import present_flow, present_link
from registry.oauth.schemas import FlowAnswer, InitiateAnswer, RevokeAnswer
from registry.oauth.service import (
    AuthorizationResponse,
    AuthorizationService,
    BegunFlow,
    cookie_name,
)
from registry.web.bodies import ServerId, StrictJsonRoute
from registry.web.errors import STATUS, JsonAnswer, error_answers, expected_error

PREFIX = "/api/v1/mcp"

Reader = Annotated[UserContext, needs(Scope.READ_TOKENS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_TOKENS)]
"""A flow ends with a token of the caller's own, so it takes the scopes of tokens."""

FlowId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Id of the flow.")]
Parameter = Annotated[str | None, Query()]
"""Of any length and form: what is wrong with it is said on a page."""

errors = error_answers(
    {
        404: "There is no such server, flow or token.",
        409: "The server needs no OAuth by users, or the flow has ended.",
        502: "The authorization server cannot be used.",
    }
)


def _service(request: Request) -> AuthorizationService:
    return cast("AuthorizationService", request.app.state.authorizations)


router = APIRouter(prefix=PREFIX, tags=["oauth"], route_class=StrictJsonRoute)
pages = APIRouter(prefix=PREFIX, tags=["oauth"])
"""What others than API clients open: authorization servers add parameters of their own."""


def _below(path: str) -> str:
    return path.removeprefix(PREFIX)


@router.get(
    "/{server_id}/oauth/initiate",
    response_model=InitiateAnswer,
    operation_id="initiate_authorization",
    responses=errors(404, 409, 502),
)
async def initiate(
    request: Request, user: Writer, server_id: ServerId, *, redirect: bool = False
) -> Response:
    """Begin to authorise the registry at a server, on behalf of the caller.

    The answer contains a URL to open in the caller's browser; with *redirect* it is a redirect
    to the authorization server itself, for callers that are the browser.
    """
    service = _service(request)
    if redirect:
        return _redirected(service, await service.begin_for(server_id, user))
    return JsonAnswer(present_link(await service.initiate(server_id, user), server_id))


@router.get(
    "/oauth/status/{flow_id}",
    response_model=FlowAnswer,
    operation_id="get_authorization",
    responses=errors(404),
)
async def status(request: Request, user: Reader, flow_id: FlowId) -> Response:
    """Return the state of a flow of the caller's own."""
    service = _service(request)
    return JsonAnswer(present_flow(await service.status(flow_id, user), service.now()))


@router.post(
    "/oauth/cancel/{flow_id}",
    response_model=FlowAnswer,
    operation_id="cancel_authorization",
    responses=errors(404),
)
async def cancel(request: Request, user: Writer, flow_id: FlowId) -> Response:
    """Cancel a flow of the caller's own; one that has ended stays as it is."""
    service = _service(request)
    return JsonAnswer(present_flow(await service.cancel(flow_id, user), service.now()))


@router.delete(
    "/{server_id}/oauth/token",
    response_model=RevokeAnswer,
    operation_id="revoke_authorization",
    responses=errors(404),
)
async def revoke(request: Request, user: Writer, server_id: ServerId) -> Response:
    """Remove the caller's tokens for a server, and revoke them at its authorization server."""
    is_confirmed = await _service(request).revoke(server_id, user)
    return JsonAnswer({"success": True, "serverId": server_id, "revokedAtProvider": is_confirmed})


@pages.get(_below(START_PATH), include_in_schema=False)
async def start_page(request: Request, ticket: Parameter = None) -> Response:
    """Show a person who opened a link what it is about. Changes nothing."""

    async def answer() -> Response:
        page = await _service(request).page(ticket or "")
        return confirm_page(page.server_title, page.host, page.username, page.scopes)

    return await _page(answer)


@pages.post(_below(START_PATH), include_in_schema=False)
async def start(request: Request, ticket: Parameter = None) -> Response:
    """Send a person who pressed the button to the authorization server."""

    async def answer() -> Response:
        service = _service(request)
        _require_own_page(request, service.origin)
        return _redirected(service, await service.begin(ticket or ""))

    return await _page(answer)


@pages.get(_below(CALLBACK_PATH), include_in_schema=False)
async def callback(
    request: Request,
    state: Parameter = None,
    code: Parameter = None,
    iss: Parameter = None,
    error: Parameter = None,
    error_description: Parameter = None,
) -> Response:
    """Take the response of an authorization server, and show what came of it."""
    response = AuthorizationResponse(state, code, iss, error, error_description)

    async def answer() -> Response:
        if len(request.query_params.multi_items()) != len(request.query_params):
            # Which of two counts would be decided by whoever parses them (RFC 6749, 3.1).
            raise FlowNotFoundError
        server = await _service(request).finish(response, request.cookies)
        return done_page(server.title)

    return await _page(answer)


@pages.get(
    _below(METADATA_PATH),
    response_model=dict[str, JsonValue],
    operation_id="get_client_metadata",
    responses=error_answers({404: "The registry has no public address."})(404),
)
async def client_metadata(request: Request) -> Response:
    """Return the metadata of the registry as an OAuth client; its URL is the client id."""
    return _metadata(request, METADATA_PATH)


@pages.get(
    _below(SIGNING_METADATA_PATH),
    response_model=dict[str, JsonValue],
    operation_id="get_signing_client_metadata",
    responses=error_answers({404: "The registry has no public address."})(404),
)
async def signing_client_metadata(request: Request) -> Response:
    """Return them for authorization servers that want clients to authenticate by a key."""
    return _metadata(request, SIGNING_METADATA_PATH)


def _metadata(request: Request, path: str) -> Response:
    document = _service(request).client_metadata(path)
    return JsonAnswer(document, headers={"Cache-Control": "max-age=3600"})


def _redirected(service: AuthorizationService, begun: BegunFlow) -> Response:
    answer = RedirectResponse(begun.url, 303, headers=HEADERS)
    answer.set_cookie(
        cookie_name(begun.flow_id),
        begun.cookie,
        expires=begun.expires_at,
        path=service.cookie_path,
        secure=service.is_https,
        httponly=True,
        samesite="lax",
    )
    return answer


def _require_own_page(request: Request, origin: str) -> None:
    """Refuse what another site made a browser send.

    It would skip the page that says whose account gets access, and an authorization server that
    remembers a consent asks for nothing. Browsers send `Sec-Fetch-Site` to trustworthy origins
    and `Origin` to all; what sends neither is no browser.

    Raises:
        OtherPageError: It was not sent by a page of the registry.
    """
    site = request.headers.get("sec-fetch-site")
    sender = request.headers.get("origin")
    if site not in {None, "same-origin"} or (site is None and sender not in {None, origin}):
        raise OtherPageError


async def _page(answer: Callable[[], Awaitable[Response]]) -> Response:
    """Return an answer for a browser; errors are pages too."""
    try:
        return await answer()
    except Exception as exc:
        error = expected_error(exc)
        if error is None:
            raise
        return failed_page(error.message, STATUS[error.kind])
