"""Renders every error as the one envelope: `{"error": code, "message": text, ...facts}`."""

import http
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from typing_extensions import override

from packages.database.errors import DatabaseUnavailable, ReplicaSetNeeded
from registry.core.errors import (
    DatabaseUnavailableError,
    ErrorKind,
    RegistryError,
    ReplicaSetNeededError,
    ValidationFailedError,
    problem_of,
)

log = structlog.get_logger()

STATUS = {
    ErrorKind.UNAUTHORIZED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.INSUFFICIENT_SCOPE: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.PRECONDITION_FAILED: 412,
    ErrorKind.INVALID: 422,
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.UPSTREAM: 502,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.INTERNAL: 500,
}

RETRY_AFTER_SECONDS = 2
"""Sent when the database is unavailable: drivers find a new primary in about that time."""


PARSED_BODY = "registry.parsed_body"
"""Key in a request's ASGI scope that holds its parsed JSON body."""

SHOWN_CHARACTERS = 200
"""Maximum length of a quoted field name: unknown ones may have any length."""

SHOWN_DETAILS = 50
"""Maximum number of problems reported for one request; a body may have thousands."""


class ErrorDetail(BaseModel):
    """One violated rule."""

    field: str = Field(description="Name of the member, query parameter or header.")
    message: str


class ErrorEnvelope(BaseModel):
    """The body of every answer of status 400 and above. Some errors carry further members."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="Code, for programs.", examples=["not_found"])
    message: str = Field(description="Text, for people.", examples=["Server not found"])
    details: list[ErrorDetail] | None = None


USUAL_ERRORS = {
    400: "The request cannot be read.",
    401: "No acceptable bearer token.",
    403: "Not allowed, or the token lacks a scope.",
    408: "The request body did not arrive in time.",
    412: "`If-Match` is not an ETag of this API.",
    413: "The request body is too large.",
    415: "The request body is not JSON.",
    422: "A field or parameter has an invalid value.",
    503: "The database is not available.",
}
EVERY_ROUTE = (400, 401, 403, 413, 422, 503)

ErrorAnswers = Callable[..., dict[int | str, dict[str, Any]]]


def error_answers(meanings: Mapping[int, str]) -> ErrorAnswers:
    """Return a factory of OpenAPI entries for the error answers of an API's routes.

    Args:
        meanings: By status, where they differ from the usual ones or are no usual ones.
    """
    descriptions = {**USUAL_ERRORS, **meanings}

    def entries(*codes: int) -> dict[int | str, dict[str, Any]]:
        return {
            code: {"model": ErrorEnvelope, "description": descriptions[code]}
            for code in sorted({*EVERY_ROUTE, *codes})
        }

    return entries


NO_STORE = {"Cache-Control": "no-store"}
"""Headers of every answer that holds a secret."""


class JsonAnswer(Response):
    """A JSON body written by orjson, without validating our own data again."""

    media_type = "application/json"

    @override
    def render(self, content: object) -> bytes:
        """Return the body's bytes."""
        try:
            return orjson.dumps(content, default=str)
        except orjson.JSONEncodeError:
            # A JSON schema may contain numbers beyond 64 bits, which orjson does not write.
            text = json.dumps(content, default=str, separators=(",", ":"), ensure_ascii=False)
            return text.encode(errors="replace")


def envelope(error: RegistryError, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    """Return the answer for an expected error."""
    merged = dict(headers or {})
    if "retry_after_seconds" in error.facts:
        merged["Retry-After"] = str(error.facts["retry_after_seconds"])
    elif error.kind is ErrorKind.UNAVAILABLE:
        merged["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JsonAnswer(
        {"error": error.kind.value, "message": error.message, **error.facts},
        STATUS[error.kind],
        merged,
    )


def expected_error(error: Exception) -> RegistryError | None:
    """Return an expected failure as the error that callers see; None for an unexpected one."""
    if isinstance(error, RegistryError):
        return error
    if isinstance(error, ReplicaSetNeeded):
        return ReplicaSetNeededError()
    return DatabaseUnavailableError() if isinstance(error, DatabaseUnavailable) else None


ChallengeFor = Callable[[RegistryError, Request], Mapping[str, str]]
NoteRefusal = Callable[[Request, ErrorKind, str], Awaitable[None]]


def install_error_handlers(app: FastAPI, challenge: ChallengeFor, refused: NoteRefusal) -> None:
    """Install the handlers that render every error of *app*.

    Args:
        app: The application.
        challenge: Returns the `WWW-Authenticate` header for an error, or nothing.
        refused: Takes note of what callers were refused, with kind and message of the error.
    """

    async def expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, RegistryError)  # noqa: S101 - registered for this type only
        if isinstance(error, ValidationFailedError):
            field = as_written(error.field, request.scope.get(PARSED_BODY))
            error = ValidationFailedError(field, error.problem)
        await refused(request, error.kind, error.message)
        return envelope(error, challenge(error, request))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
        details = [_detail(item) for item in error.errors()[:SHOWN_DETAILS]]
        summary = "; ".join(f"{item['field']}: {item['message']}" for item in details[:3])
        await refused(request, ErrorKind.INVALID, summary)
        return JsonAnswer(
            {"error": ErrorKind.INVALID.value, "message": summary, "details": details}, 422
        )

    async def unavailable(_request: Request, error: Exception) -> Response:
        log.warning("database_unavailable", error=type(error.__cause__ or error).__name__)
        return envelope(expected_error(error) or DatabaseUnavailableError())

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        RegistryError: expected,
        DatabaseUnavailable: unavailable,
        RequestValidationError: invalid,
        HTTPException: _http,
        Exception: _unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def as_written(field: str, body: object) -> str:
    """Return the path *field* with each name spelled as in *body*, of the accepted spellings."""
    written: list[str] = []
    for name in field.split("."):
        known = body if isinstance(body, dict) else {}
        alike = [name] if name in known else [key for key in known if _bare(key) == _bare(name)]
        written.append(alike[0] if alike else name)
        body = known.get(written[-1])
    return ".".join(written)


def _bare(name: str) -> str:
    return name.replace("_", "").casefold()


def _detail(item: Mapping[str, Any]) -> dict[str, str]:
    # The first part of the location is body, query or path; callers know only the name after it.
    location = [str(part) for part in item["loc"][1:]]
    if item["type"] == "json_invalid":
        return {"field": "body", "message": f"is not valid JSON: {item['ctx']['error']}"}
    field = ".".join(location)[:SHOWN_CHARACTERS] or "body"
    return {"field": field, "message": problem_of(item)}


async def _unexpected(_request: Request, _error: Exception) -> Response:
    # The exception propagates to the outermost middleware, which logs it.
    return JsonAnswer(
        {
            "error": ErrorKind.INTERNAL.value,
            "message": "Internal server error; the log has details under this X-Request-ID.",
        },
        500,
    )


METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

CODES = {
    400: "validation_error",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "validation_error",
}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    message = {
        404: "No route matches this path.",
        405: "This path does not support that method.",
        408: "The request body did not arrive in time.",
        413: "The request body is too large.",
        415: "The body must be JSON; send it with Content-Type: application/json.",
        400: "The request body cannot be read.",
    }.get(error.status_code, http.HTTPStatus(error.status_code).phrase)
    code = CODES.get(error.status_code, "validation_error")
    headers = dict(error.headers or {})
    if error.status_code == 405:  # noqa: PLR2004 - HTTP
        # The router names the methods of the first route with that path alone.
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return JsonAnswer({"error": code, "message": message}, error.status_code, headers)


def _methods_at(request: Request) -> set[str]:
    """Return the methods that the path of a request has."""
    return {
        method
        for method in METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
