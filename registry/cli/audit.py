"""Commands that read the audit trail."""

from typing import Annotated

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import user_id_of
from registry.cli.output import AsJson, Column, Limit, read_cursor, show_json, show_rows, validated
from registry.cli.running import FAILED, fail, is_hex, read_settings, run, services

audit = typer.Typer(help="The audit trail.", no_args_is_help=True)

HASH_CHARACTERS = 64


COLUMNS = [
    Column("Time", "timestamp"),
    Column("Who", lambda row: row["username"] or row["user_id"]),
    Column("Action", "action"),
    Column("What", lambda row: f"{row['entity_type']} {row['entity_id'] or ''}"),
    Column("Outcome", "outcome"),
    Column("Reason", "reason", wraps=True),
]


@audit.command("list")
def audit_list(
    *,
    action: Annotated[str | None, typer.Option(help="For example create or delete.")] = None,
    entity_type: Annotated[str | None, typer.Option("--type", help="Such as server.")] = None,
    entity: Annotated[str | None, typer.Option("--id", help="Id of what it is about.")] = None,
    user: Annotated[str | None, typer.Option(help="Id, name or address of who did it.")] = None,
    outcome: Annotated[str | None, typer.Option(help="success, denied or failed.")] = None,
    since: Annotated[str | None, typer.Option(help="Time with a zone, 2030-01-31T18:00Z.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Before this time, such as 2030-01-31T18:00Z.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, newest first."""

    async def work() -> None:
        from registry.audit.presenter import present_record  # noqa: PLC0415 - heavy imports
        from registry.audit.schemas import AuditQuery  # noqa: PLC0415

        async with services() as built:
            query = {
                "action": action,
                "entity_type": entity_type,
                "entity_id": entity,
                "user_id": None if user is None else await user_id_of(built, user),
                "outcome": outcome,
                "since": since,
                "until": until,
            }
            record_filter = validated(AuditQuery, query).record_filter()
            found, has_more = await read_cursor(
                lambda cursor, count: built.audit.page(OPERATOR, record_filter, cursor, count),
                limit,
            )
        rows = [present_record(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, has_more=has_more)

    run(work)


@audit.command("verify")
def audit_verify(
    expect: Annotated[
        str | None,
        typer.Option(help="SEQ:HASH of a seal noted earlier, which must still be there."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Look for records that were removed, altered or slipped in; exit code 1 when there are any.

    Each seal's number and hash are logged as `audit_sealed`. Without one of them, noted outside of
    the database, nothing shows that the newest records and their seals were not cut off together.
    """

    async def work() -> None:
        from registry.wiring.audit import audit_verifier  # noqa: PLC0415 - heavy imports

        expected = None if expect is None else _anchor(expect)
        async with audit_verifier(read_settings()) as verifier:
            report = await verifier.verify(expected)
        if as_json:
            show_json(
                {
                    "records": report.records,
                    "seals": report.seals,
                    "unsealed": report.waiting,
                    "problem_count": report.problem_count,
                    "problems": [
                        {"finding": problem.finding.value, "subject": problem.subject}
                        for problem in report.problems
                    ],
                    "head": None if report.head is None else f"{report.head[0]}:{report.head[1]}",
                }
            )
            raise typer.Exit(0 if report.is_good else FAILED)
        for problem in report.problems:
            typer.echo(f"{problem.finding.value}: {problem.subject}")
        more = report.problem_count - len(report.problems)
        if more:
            typer.echo(f"and {more} more")
        head = "none" if report.head is None else f"{report.head[0]}:{report.head[1]}"
        typer.echo(
            f"{report.records} records, {report.seals} seals, {report.waiting} unsealed, "
            f"problems: {report.problem_count}, head: {head}"
        )
        if not report.is_good:
            raise typer.Exit(1)

    run(work)


def _anchor(text: str) -> tuple[int, str]:
    number, _, hashed = text.partition(":")
    if not number.isdigit() or len(hashed) != HASH_CHARACTERS or not is_hex(hashed):
        fail("--expect must be SEQ:HASH, as `registry audit verify` prints it")
    return int(number), hashed.lower()
