"""Commands that list servers and register them, one or from files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.running import components, run

servers = typer.Typer(help="Registered servers.", no_args_is_help=True)


@servers.command("list")
def servers_list(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List all registered servers."""

    async def work() -> None:
        from registry.core.paging import PageRequest  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_summary  # noqa: PLC0415
        from registry.servers.values import ServerFilter  # noqa: PLC0415

        async with components() as parts:
            rows: list[dict[str, Any]] = []
            number = 1
            while True:
                request = PageRequest(number, 100)
                page = await parts.servers.list_page(OPERATOR, ServerFilter(), request)
                rows += [present_summary(server) for server in page.items]
                if number >= page.total_pages:
                    break
                number += 1
        if as_json:
            typer.echo(json.dumps(rows, indent=2, default=str))
            return
        for row in rows:
            typer.echo(
                f"{row['id']}  {row['status']:<8}  {row['numTools']:>4} tools  "
                f"{row['scope']:<12}  {row['path']:<32}  {row.get('url', '')}"
            )
        typer.echo(f"{len(rows)} servers", err=True)

    run(work)


@servers.command("add")
def servers_add(
    name: Annotated[str, typer.Argument(help="Unique name.")],
    url: Annotated[str, typer.Argument(help="Address of the MCP endpoint.")],
    *,
    kind: Annotated[
        str, typer.Option("--type", help="streamable-http or sse.")
    ] = "streamable-http",
    scope: Annotated[
        str, typer.Option(help="shared_app, shared_user or private_user.")
    ] = "shared_app",
    author: Annotated[str, typer.Option(help="ObjectId of the owner.")] = OPERATOR.user_id,
    strict: Annotated[bool, typer.Option(help="Refuse a server that cannot be read.")] = False,
) -> None:
    """Register a server."""
    body = {"serverName": name, "url": url, "type": kind, "scope": scope}
    _import(
        lambda: [("the command line", body)],
        author,
        dry_run=False,
        strict=strict,
        must_be_new=True,
    )


@servers.command("import")
def servers_import(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, or folders of them without their subfolders.")
    ],
    *,
    author: Annotated[str, typer.Option(help="ObjectId of the owner.")] = OPERATOR.user_id,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files; contact and store nothing.")
    ] = False,
) -> None:
    """Import server files: the API's create body, or the older file store's form.

    A server that exists is left alone. One whose file names no scope is for everybody, that is
    shared_app.
    """

    def read() -> "list[tuple[str, Any]]":
        from registry.servers.seeding import read_files  # noqa: PLC0415 - heavy imports

        return read_files(files)

    _import(read, author, dry_run=dry_run, strict=False)


def _import(
    read: "Callable[[], list[tuple[str, Any]]]",
    author: str,
    *,
    dry_run: bool,
    strict: bool,
    must_be_new: bool = False,
) -> None:
    async def work() -> None:
        from registry.servers.seeding import Outcome, import_servers  # noqa: PLC0415 - heavy

        items = read()
        if not items:
            typer.echo("There is nothing to import.", err=True)
        failed = 0
        async with components() as parts:
            async for report in import_servers(
                parts.servers, items, author, dry_run=dry_run, strict=strict
            ):
                exists = report.outcome is Outcome.EXISTS
                failed += report.outcome.is_failure or (exists and must_be_new)
                typer.echo(f"{report.outcome.value:<9} {report.source}: {report.message}")
        if failed:
            raise typer.Exit(1)

    run(work)
