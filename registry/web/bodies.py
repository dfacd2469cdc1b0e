"""Strict request parsing: ambiguous JSON and undeclared parameters are refused."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import orjson
from fastapi import Header, Path
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from typing_extensions import override

from registry.core.json import MAX_VALUES, holds_more_values, parsing
from registry.core.text import ObjectIdText
from registry.web.errors import PARSED_BODY

SMALL_BODY_BYTES = 8 * 1024

ServerId = Annotated[ObjectIdText, Path(description="ObjectId of the server.")]


class StrictJsonRequest(Request):
    """A request whose JSON body must be plain RFC 8259 with unique names."""

    @override
    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            json.JSONDecodeError: It is not JSON; contains NaN, an infinity or half a surrogate
                pair; is nested too deeply; has two members with the same name in an object; or
                has more values than any request needs.
        """
        body = await self.body()
        if holds_more_values(body, MAX_VALUES):
            raise json.JSONDecodeError(f"it holds more than {MAX_VALUES} values", "", 0)
        # Refuses what the standard library accepts: NaN, infinities, lone surrogates, UTF-16.
        try:
            with parsing(body):
                orjson.loads(body)
                parsed = json.loads(body, object_pairs_hook=_unique)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
        except ValueError:
            raise json.JSONDecodeError("a number is too long", "", 0) from None
        self.scope[PARSED_BODY] = parsed
        return parsed


class StrictJsonRoute(APIRoute):
    """A route that accepts only what it declares, and checks that after authentication.

    This covers JSON bodies, which are parsed strictly, and query parameters.
    """

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls for each request."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        may_be_left_out = (
            self.body_field is not None and not self.body_field.field_info.is_required()
        )
        guards = list(_guards(self.dependant))
        parameters = dict(_parameters(self.dependant))

        async def strict(request: Request) -> Response:
            has_body = _has_body(request)
            refused = _refused(request.query_params, parameters)
            if takes_body or has_body or refused:
                # FastAPI would parse the body first, and explain its errors to unknown callers.
                for guard in guards:
                    await guard(request)
            strict_request = StrictJsonRequest(request.scope, request.receive)
            if refused:
                raise RequestValidationError(refused)
            if takes_body:
                is_left_out = may_be_left_out and not has_body
                if not is_left_out and not _is_json(request.headers.get("content-type")):
                    raise HTTPException(415)
            elif has_body:
                await _require_nothing(strict_request)
            return await handle(strict_request)

        return strict


class SmallJsonRoute(StrictJsonRoute):
    """The same for unauthenticated callers, whose bodies are limited to a few kilobytes."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls for each request."""
        handle = super().get_route_handler()

        async def small(request: Request) -> Response:
            taken = 0

            async def receive() -> Message:
                nonlocal taken
                message = await request.receive()
                taken += len(message.get("body", b""))
                if taken > SMALL_BODY_BYTES:
                    raise HTTPException(413)
                return message

            return await handle(Request(request.scope, receive))

        return small


async def small_body(request: Request, max_bytes: int) -> bytes:
    """Return the raw body of an unauthenticated request.

    Raises:
        HTTPException: 413, if the body is longer.
    """
    taken = bytearray()
    async for chunk in request.stream():
        taken += chunk
        if len(taken) > max_bytes:
            raise HTTPException(413)
    return bytes(taken)


def _guards(dependant: Dependant) -> Iterator[Callable[[Request], Awaitable[object]]]:
    """Yield the dependencies of a route that authenticate its caller."""
    if dependant.call is not None and hasattr(dependant.call, "needed_scopes"):
        yield dependant.call
    for dependency in dependant.dependencies:
        yield from _guards(dependency)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the names of a route's query parameters, and whether each may be repeated."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, member in kind.model_fields.items():
                yield member.alias or name, _may_repeat(member.annotation)
        else:
            yield field.alias, _may_repeat(kind)
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)


def _may_repeat(annotation: object) -> bool:
    """Whether a type, or a member of a union, is a collection."""
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Collection):
        return True
    return any(_may_repeat(inner) for inner in get_args(annotation))


def _refused(query: QueryParams, parameters: Mapping[str, bool]) -> list[dict[str, object]]:
    """Return the problems of query parameter names, in the form of validation errors."""
    times = Counter(name for name, _ in query.multi_items())
    unknown = [_extra("query", name) for name in times if name not in parameters]
    twice: list[dict[str, object]] = [
        {"type": "value_error", "loc": ("query", name), "msg": "is given more than once"}
        for name, count in times.items()
        if count > 1 and parameters.get(name) is False
    ]
    return [*unknown, *twice]


async def _require_nothing(request: StrictJsonRequest) -> None:
    """Check that a body is empty or `{}`, which many clients send with every POST.

    Raises:
        RequestValidationError: It says something, of which nothing would be heeded.
    """
    if not await request.body():
        return
    try:
        parsed = await request.json()
    except ValueError:
        parsed = ""
    if isinstance(parsed, dict):
        if parsed:
            raise RequestValidationError([_extra("body", name) for name in parsed])
    elif parsed is not None:
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("body",), "msg": "takes no members"}]
        )


def _extra(where: str, name: str) -> dict[str, object]:
    return {"type": "extra_forbidden", "loc": (where, name), "msg": ""}


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(members)
    if len(parsed) != len(members):
        counts = Counter(name for name, _ in members)
        twice = next(name for name, times in counts.items() if times > 1)
        raise json.JSONDecodeError(f"it has two members named {twice[:64]!r}", "", 0)
    return parsed


IfMatch = Annotated[
    str | None, Header(description="The ETag that was read; 409 when it changed since.")
]
"""The `If-Match` header (RFC 9110, 13.1.1)."""


def etag_in(header: str | None) -> str | None:
    """Return the ETag in an `If-Match` header; None if it is absent or `*`."""
    if header is None or header.strip() == "*":
        return None
    return header.strip().removeprefix("W/").strip('"')
