"""Commands about registered servers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext
from registry.cli.given import given, pairs
from registry.cli.names import owner_of
from registry.cli.output import (
    MOST_ROWS,
    AsJson,
    Column,
    Limit,
    one_of,
    read_pages,
    show_json,
    show_rows,
    validated,
)
from registry.cli.running import FAILED, fail, run, services

servers = typer.Typer(help="Registered servers.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "serverName"),
    Column("Status", "status"),
    Column("Tools", "numTools"),
    Column("Scope", "scope"),
    Column("Path", "path"),
    Column("URL", "url", wraps=True),
    Column("Id", "id"),
]

Owner = Annotated[
    str | None,
    typer.Option(
        "--owner",
        "--author",
        help="Whose it is: id, name or address of a user; default: the one administrator.",
    ),
]


@servers.command("list")
def servers_list(
    *,
    query: Annotated[str | None, typer.Option(help="Text to look for.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="shared_app, shared_user or private_user.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="active, inactive or error.")] = None,
    limit: Limit = MOST_ROWS,
    as_json: AsJson = False,
) -> None:
    """List registered servers, last changed first."""

    async def work() -> None:
        from registry.access.policy import ServerScope  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_summary  # noqa: PLC0415
        from registry.servers.values import ServerFilter, ServerStatus  # noqa: PLC0415

        narrowed = ServerFilter(
            query, one_of(ServerScope, scope, "--scope"), one_of(ServerStatus, status, "--status")
        )
        async with services() as built:
            found, total = await read_pages(
                lambda page: built.servers.list_page(OPERATOR, narrowed, page), limit
            )
        show_rows([present_summary(one) for one in found], COLUMNS, as_json=as_json, total=total)

    run(work)


@servers.command("add")
def servers_add(  # noqa: PLR0913 - options
    name: Annotated[str, typer.Argument(help="Unique name.")],
    url: Annotated[str, typer.Argument(help="Address of the MCP endpoint.")],
    *,
    kind: Annotated[
        str, typer.Option("--type", help="streamable-http or sse.")
    ] = "streamable-http",
    title: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="shared_app, shared_user or private_user, which is the default."),
    ] = None,
    path: Annotated[str | None, typer.Option(help="Gateway path; default /mcp/NAME.")] = None,
    key: Annotated[
        str | None, typer.Option(help="API key of the server: env:NAME, file:PATH, - to be asked.")
    ] = None,
    key_type: Annotated[str, typer.Option(help="bearer, basic or custom.")] = "bearer",
    key_header: Annotated[
        str | None, typer.Option(help="Header that carries a custom key.")
    ] = None,
    user_key: Annotated[
        bool, typer.Option("--user-key", help="Each user gives a key of their own.")
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, the value as for --key; repeat for several."),
    ] = None,
    owner: Owner = None,
    strict: Annotated[bool, typer.Option(help="Refuse a server that cannot be read.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a server, and read its tools."""
    body: dict[str, Any] = {
        "serverName": name,
        "url": url,
        "type": kind,
        "title": title,
        "description": description,
        "tags": tag or None,
        "scope": scope,
        "path": path,
        "headers": pairs(header, "--header") or None,
        "apiKey": _api_key(key, key_type, key_header, is_users=user_key),
    }

    async def work() -> None:
        from registry.servers.presenter import present_detail  # noqa: PLC0415 - heavy imports
        from registry.servers.schemas import ServerCreate  # noqa: PLC0415

        request = validated(ServerCreate, body)
        async with services(changes=True) as built:
            user = acting_for(await owner_of(built, owner))
            server = await built.servers.register(request, user, strict=strict)
        detail = present_detail(server)
        if as_json:
            show_json(detail)
            return
        why = f": {server.error_message}" if server.error_message else ""
        typer.echo(
            f"{name} is {detail['status']}{why}; {detail['numTools']} tools at {detail['path']}"
        )

    run(work)


@servers.command("import")
def servers_import(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, or folders of them without their subfolders.")
    ],
    *,
    owner: Owner = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files; contact and store nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import server files: the API's create body, or the older file store's form.

    A server that exists is left alone. One whose file names no scope is for everybody, that is
    shared_app. Where there is no administrator yet, what is imported is nobody's.
    """

    async def work() -> None:
        from registry.servers.seeding import import_servers, read_files  # noqa: PLC0415 - heavy

        items = read_files(files)
        if not items:
            typer.echo("There is nothing to import.", err=True)
        reports: list[dict[str, str]] = []
        failed = False
        async with services(changes=not dry_run) as built:
            is_nobodys = owner is None and not await built.directory.administrators()
            user = OPERATOR if is_nobodys else acting_for(await owner_of(built, owner))
            async for report in import_servers(built.servers, items, user, dry_run=dry_run):
                failed |= report.outcome.is_failure
                if as_json:
                    outcome = report.outcome.value
                    reports.append(
                        {"outcome": outcome, "source": report.source, "message": report.message}
                    )
                else:
                    typer.echo(f"{report.outcome.value:<9} {report.source}: {report.message}")
        if as_json:
            show_json(reports)
        if failed:
            raise typer.Exit(FAILED)

    run(work)


def acting_for(user_id: str) -> UserContext:
    """Return who registers what shall be this user's: the operator, in that user's name."""
    return UserContext(user_id, OPERATOR.username, Role.ADMIN, ALL_SCOPES)


def _api_key(
    key: str | None, kind: str, header: str | None, *, is_users: bool
) -> dict[str, str] | None:
    if is_users and key is not None:
        fail("give either --key or --user-key")
    if key is None and not is_users:
        return None
    described = {"source": "user" if is_users else "admin", "authorization_type": kind}
    if key is not None:
        described["key"] = given(key, "--key")
    if header is not None:
        described["custom_header"] = header
    return described
