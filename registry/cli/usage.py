"""Command `usage`: lists calls at the gateway, adds them up, and exports both."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import server_of, user_id_of
from registry.cli.output import AsJson, Column, Limit, read_cursor, show_rows, validated
from registry.cli.running import run, services

COLUMNS = [
    Column("Time", "started_at"),
    Column("Who", lambda row: row["username"] or row["user_id"]),
    Column("Server", "server"),
    Column("Method", "method"),
    Column("Tool", "tool"),
    Column("Outcome", "outcome"),
    Column("ms", "duration_ms"),
]


SUMS = [
    Column("Calls", "calls"),
    Column("Errors", "errors"),
    Column("Bytes", lambda row: row["request_bytes"] + row["response_bytes"]),
    Column("Cost", "cost"),
    Column("p50 ms", "p50_ms"),
    Column("p95 ms", "p95_ms"),
    Column("p99 ms", "p99_ms"),
]

GROUPS = {
    "caller": [Column("Who", lambda row: row["username"] or row["user_id"])],
    "server": [Column("Server", "server")],
    "tool": [Column("Server", "server"), Column("Tool", "tool")],
    "tag": [Column("Tags", "billing_tags")],
    "day": [Column("Day", "day")],
}
"""The columns of what totals are grouped by."""


class OutputFormat(StrEnum):
    """How everything is written to standard output."""

    CSV = "csv"
    NDJSON = "ndjson"


def usage(  # noqa: PLR0913 - options
    *,
    server: Annotated[str | None, typer.Option(help="Id, name or gateway path.")] = None,
    user: Annotated[str | None, typer.Option(help="Id, name or address of who called.")] = None,
    tool: Annotated[str | None, typer.Option(help="Name of a tool or prompt.")] = None,
    outcome: Annotated[str | None, typer.Option(help="How it ended, such as ok.")] = None,
    tag: Annotated[str | None, typer.Option(help="One of the tool's billing tags.")] = None,
    since: Annotated[str | None, typer.Option(help="Time with a zone, 2030-01-31T18:00Z.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Before this time, such as 2030-01-31T18:00Z.")
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Daily totals instead of calls: some of caller, server, tool, tag, day, "
            "separated by commas or in options of their own.",
        ),
    ] = None,
    export: Annotated[
        OutputFormat | None, typer.Option(help="Write everything in this form.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List calls at the gateway, newest first, or add them up: who called what, at what cost."""

    async def work() -> None:
        from registry.usage.presenter import (  # noqa: PLC0415 - heavy imports
            csv_lines,
            ndjson_lines,
            present_group,
            present_record,
        )
        from registry.usage.schemas import UsageQuery  # noqa: PLC0415

        async with services() as built:
            query = {
                "server_id": None if server is None else (await server_of(built, server)).id,
                "user_id": None if user is None else await user_id_of(built, user),
                "tool": tool,
                "outcome": outcome,
                "tag": tag,
                "since": since,
                "until": until,
                "group_by": ",".join(group_by) if group_by else None,
            }
            asked = validated(UsageQuery, query)
            record_filter, groups = asked.record_filter(), asked.groups()
            if export is not None:
                rows = (
                    (
                        present_group(one, groups)
                        async for one in built.usage.groups(OPERATOR, record_filter, groups)
                    )
                    if groups
                    else (
                        present_record(one)
                        async for one in built.usage.records(OPERATOR, record_filter)
                    )
                )
                is_first = True
                async for row in rows:
                    lines = (
                        ndjson_lines([row])
                        if export is OutputFormat.NDJSON
                        else csv_lines([row], has_header=is_first)
                    )
                    sys.stdout.write(lines.decode())
                    is_first = False
                return
            if groups:
                summary = await built.usage.summary(OPERATOR, record_filter, groups)
                shown = summary.groups[: limit or None]
                columns = [column for one in groups for column in GROUPS[one]]
                show_rows(
                    [present_group(one, groups) for one in shown],
                    [*dict.fromkeys(columns), *SUMS],
                    as_json=as_json,
                    has_more=summary.has_more or len(shown) < len(summary.groups),
                )
                return
            found, has_more = await read_cursor(
                lambda cursor, count: built.usage.page(OPERATOR, record_filter, cursor, count),
                limit,
            )
        rows_shown = [present_record(one) for one in found]
        show_rows(rows_shown, COLUMNS, as_json=as_json, has_more=has_more)

    run(work)
