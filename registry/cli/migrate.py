"""The command `migrate`: servers and tools of mcp-optimizer's older layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.names import acting_for, owner_of
from registry.cli.output import AsJson, show_json, text
from registry.cli.running import FAILED, run, services
from registry.cli.servers import Owner

if TYPE_CHECKING:
    from registry.migration.values import Dump


def migrate(
    dump: Annotated[
        Path,
        typer.Argument(
            help="The SQLite database, or a folder with mcpserver.jsonl and tool.jsonl."
        ),
    ],
    *,
    owner: Owner = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Of the servers: shared_app, shared_user or private_user (default)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; store nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take over what mcp-optimizer kept in two tables, `mcpserver` and `tool`.

    Workloads become servers with their tools, turned off and not contacted. A server that exists
    is compared with its row and left alone: repeated, or continued after an interruption, the
    command stores only what is missing. Rows that came from a registry become entries of the
    catalog, to which the servers are linked. Exit code 1 when a row needs attention.
    """

    async def work() -> None:
        from registry.migration.dump import read_dump  # noqa: PLC0415 - heavy imports
        from registry.migration.service import Migration  # noqa: PLC0415

        found = read_dump(dump)
        reports: list[dict[str, object]] = []
        failed = False
        async with services(changes=not dry_run) as built:
            user = acting_for(await owner_of(built, owner))
            migration = Migration(built.servers, built.legacy_entries)
            async for report in migration.run(found, user, scope=scope, dry_run=dry_run):
                failed |= report.outcome.is_failure
                if as_json:
                    reports.append(report.members())
                else:
                    line = f"{report.outcome.value:<12} {report.row}: {report.name}"
                    typer.echo(text(f"{line}: {report.message}" if report.message else line))
        if as_json:
            show_json(
                {"rows": dict(found.rows), "digests": dict(found.digests), "reports": reports}
            )
        else:
            _print_totals(found)
        if failed:
            raise typer.Exit(FAILED)

    run(work)


def _print_totals(found: "Dump") -> None:
    for table, count in found.rows.items():
        typer.echo(f"{table}: {count} rows, SHA-256 {found.digests[table]}", err=True)
