"""The usage API: `/api/v1/usage`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.json import JsonObject
from registry.usage.presenter import csv_lines, ndjson_lines, present_group, present_record
from registry.usage.schemas import UsageAnswer, UsageQuery, UsageSummaryAnswer
from registry.usage.service import UsageService
from registry.web.bodies import StrictJsonRoute
from registry.web.errors import JsonAnswer, error_answers

Auditor = Annotated[UserContext, needs(Scope.READ_AUDIT)]

errors = error_answers(
    {
        403: "The token lacks the scope read:audit.",
        422: "A parameter has an invalid value.",
    }
)

ROWS_OF_CHUNK = 200

router = APIRouter(prefix="/api/v1/usage", tags=["usage"], route_class=StrictJsonRoute)


@router.get(
    "",
    response_model=UsageAnswer | UsageSummaryAnswer,
    operation_id="list_usage",
    responses=errors(),
)
async def list_usage(
    request: Request,
    user: Auditor,
    asked: Annotated[UsageQuery, Query()],
) -> Response:
    """List calls at the gateway, newest first, or with `group_by` their daily totals.

    Of servers that the caller may see, and the caller's own. Totals are of one moment and add up:
    they have the same sum however they are grouped.
    """
    service = cast("UsageService", request.app.state.usage)
    wanted = asked.record_filter()
    group_by = asked.groups()
    if asked.format != "json":
        rows = (
            (present_group(one, group_by) async for one in service.groups(user, wanted, group_by))
            if group_by
            else (present_record(one) async for one in service.records(user, wanted))
        )
        return await _export(rows, asked.format)
    if group_by:
        summary = await service.summary(user, wanted, group_by)
        return JsonAnswer(
            {
                "groups": [present_group(group, group_by) for group in summary.groups],
                "total": present_group(summary.whole, ()),
                "has_more": summary.has_more,
            }
        )
    page = await service.page(user, wanted, asked.cursor, asked.limit)
    return JsonAnswer(
        {
            "records": [present_record(record) for record in page.records],
            "next_cursor": page.next_cursor,
        }
    )


async def _export(rows: AsyncGenerator[JsonObject], kind: Literal["csv", "ndjson"]) -> Response:
    """Return a streamed answer. What fails before the first rows fails with an error."""
    chunks = _chunks(rows, kind)
    first = await anext(chunks, b"")

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return StreamingResponse(
        body(),
        media_type="text/csv; charset=utf-8" if kind == "csv" else "application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="usage.{kind}"'},
    )


async def _chunks(
    rows: AsyncGenerator[JsonObject], kind: Literal["csv", "ndjson"]
) -> AsyncGenerator[bytes]:
    some: list[JsonObject] = []
    is_first = True
    async with aclosing(rows):
        async for row in rows:
            some.append(row)
            if len(some) == ROWS_OF_CHUNK:
                yield csv_lines(some, has_header=is_first) if kind == "csv" else ndjson_lines(some)
                some, is_first = [], False
    if some:
        yield csv_lines(some, has_header=is_first) if kind == "csv" else ndjson_lines(some)
