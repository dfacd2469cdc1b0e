"""Command `usage`: lists calls at the gateway."""

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


def usage(
    *,
    server: Annotated[str | None, typer.Option(help="Id, name or gateway path.")] = None,
    user: Annotated[str | None, typer.Option(help="Id, name or address of who called.")] = None,
    tool: Annotated[str | None, typer.Option(help="Name of a tool or prompt.")] = None,
    outcome: Annotated[str | None, typer.Option(help="How it ended, such as ok.")] = None,
    since: Annotated[str | None, typer.Option(help="Time with a zone, 2030-01-31T18:00Z.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Before this time, such as 2030-01-31T18:00Z.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List calls at the gateway, newest first: who called what, and how it ended."""

    async def work() -> None:
        from registry.usage.presenter import present_record  # noqa: PLC0415 - heavy imports
        from registry.usage.schemas import UsageQuery  # noqa: PLC0415

        async with services() as built:
            query = {
                "server_id": None if server is None else (await server_of(built, server)).id,
                "user_id": None if user is None else await user_id_of(built, user),
                "tool": tool,
                "outcome": outcome,
                "since": since,
                "until": until,
            }
            record_filter = validated(UsageQuery, query).record_filter()
            found, has_more = await read_cursor(
                lambda cursor, count: built.usage.page(OPERATOR, record_filter, cursor, count),
                limit,
            )
        rows = [present_record(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, has_more=has_more)

    run(work)
