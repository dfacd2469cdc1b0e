"""Commands about registered servers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import acting_for, group_of, owner_of, server_of, user_of
from registry.cli.output import (
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    Yes,
    one_of,
    read_pages,
    require_agreed,
    show_fields,
    show_json,
    show_removed,
    show_rows,
    text,
    validated,
)
from registry.cli.references import answering, pairs, resolve
from registry.cli.running import FAILED, NOT_FOUND, fail, run, services
from registry.cli.setup import export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.servers.values import ServerRecord
    from registry.tools.reported_changes import ReportedChange
    from registry.wiring.commands import CommandServices

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

servers.command("export")(export)

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
    limit: Limit = MAX_ROWS,
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
        async with services(lists="servers") as built:
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
        str | None,
        typer.Option(help="API key of the server: env:NAME, file:PATH, - to type or pipe it."),
    ] = None,
    key_type: Annotated[str, typer.Option(help="bearer, basic or custom.")] = "bearer",
    key_header: Annotated[
        str | None, typer.Option(help="Header that carries a custom key.")
    ] = None,
    user_key: Annotated[
        bool, typer.Option("--user-key", help="Each user gives a key of their own.")
    ] = False,
    oauth: Annotated[
        bool,
        typer.Option("--oauth", help="Users authorise the registry there: `registry connect`."),
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
        "apiKey": api_key_input(key, key_type, key_header, is_users=user_key),
        "requiresOAuth": oauth or None,
    }

    async def work() -> None:
        from registry.servers.presenter import present_detail  # noqa: PLC0415 - heavy imports
        from registry.servers.schemas import ServerCreate  # noqa: PLC0415

        request = validated(ServerCreate, body)
        async with services(changes=True) as built:
            user = acting_for(await owner_of(built, owner))
            server = await built.servers.register(request, user, strict=strict)
        if as_json:
            show_json(present_detail(server))
        else:
            print_state(server)

    run(work)


@servers.command("import")
def servers_import(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, or folders of them without their subfolders.")
    ],
    *,
    owner: Owner = None,
    scope: Annotated[
        str | None, typer.Option(help="Of those that name none: shared_app, private_user, ...")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE of what a file leaves open, the value as for servers add --key.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files; contact and store nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import mcp.json of Claude, Cursor and VS Code, server.json, and files of our own forms.

    A server that exists is left alone, and a bad entry costs only itself. Programs (stdio) are
    named and left out. Values that a file leaves open, ${input:key} or ${KEY}, are taken from
    --set, from the environment, or asked for.

    What names no scope is private in the forms of clients and of registries, and for everyone
    (shared_app) in our own. Where there is no administrator yet, imported servers have no owner.
    """
    answer = answering(values)

    async def work() -> None:
        from registry.servers.files.seeding import import_servers, read_files  # noqa: PLC0415 - heavy

        items = read_files(files)
        if not items:
            typer.echo("There is nothing to import.", err=True)
        reports: list[dict[str, str]] = []
        failed = False
        async with services(changes=not dry_run) as built:
            is_nobodys = owner is None and not await built.directory.administrators()
            user = OPERATOR if is_nobodys else acting_for(await owner_of(built, owner))
            async for report in import_servers(
                built.servers, items, user, dry_run=dry_run, answer=answer, scope=scope
            ):
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


async def mcp_server_of(built: "CommandServices", reference: str) -> "ServerRecord":
    """Return the MCP server of a reference; end the command where there is none."""
    found = await server_of(built, reference)
    if found.is_api:
        fail(f"{found.server_name} is a REST API; see `registry apis --help`", code=NOT_FOUND)
    return found


def api_key_input(
    key: str | None, kind: str | None, header: str | None, *, is_users: bool
) -> dict[str, str] | None:
    """Return `apiKey` of a body, from the options of a command; None if there is none."""
    if is_users and key is not None:
        fail("give either --key or --user-key")
    if key is None and not is_users:
        return None
    described = {"source": "user" if is_users else "admin"}
    if kind is not None:
        described["authorization_type"] = kind
    if key is not None:
        described["key"] = resolve(key, "--key", is_secret=True)
    if header is not None:
        described["custom_header"] = header
    return described


Server = Annotated[str, typer.Argument(metavar="SERVER", help="Id, name or gateway path.")]


@servers.command("show")
def servers_show(server: Server, *, as_json: AsJson = False) -> None:
    """Show everything about a server but its secrets."""

    async def work() -> None:
        from registry.servers.presenter import present_detail  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found = await mcp_server_of(built, server)
            detail = present_detail(await built.servers.read(found.id, OPERATOR))
        functions = detail.pop("toolFunctions")
        show_fields({**detail, "toolFunctions": functions} if as_json else detail, as_json=as_json)

    run(work)


@servers.command("update")
def servers_update(  # noqa: PLR0913 - options
    server: Server,
    *,
    url: Annotated[str | None, typer.Option(help="Address of the MCP endpoint.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="streamable-http or sse.")] = None,
    title: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="All tags it shall have; repeat for several.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="shared_app, shared_user or private_user.")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Gateway path.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="API key of the server: env:NAME, file:PATH, - to type or pipe it."),
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
        typer.Option(help="All headers it shall have: NAME=VALUE, the value as for --key."),
    ] = None,
    on_change: Annotated[str | None, typer.Option(help="accept, hold or block.")] = None,
    default_effect: Annotated[
        str | None, typer.Option(help="For tools that no policy allows: allow or deny.")
    ] = None,
    sync_mode: Annotated[str | None, typer.Option(help="manual, scheduled or webhook.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the fields of a server that are given, and no others."""
    body: dict[str, Any] = {
        "url": url,
        "type": kind,
        "title": title,
        "description": description,
        "tags": tag or None,
        "scope": scope,
        "path": path,
        "headers": pairs(header, "--header") or None,
        "apiKey": api_key_input(key, key_type, key_header, is_users=user_key),
        "onChange": on_change,
        "defaultEffect": default_effect,
        "syncMode": sync_mode,
    }

    async def work() -> None:
        from registry.servers.presenter import present_detail  # noqa: PLC0415 - heavy imports
        from registry.servers.schemas import ServerUpdate  # noqa: PLC0415

        request = validated(ServerUpdate, body)
        if not request.model_fields_set:
            fail("say what to change")
        async with services(changes=True) as built:
            found = await mcp_server_of(built, server)
            changed = await built.servers.update(found.id, request, OPERATOR)
            said = None
            if default_effect is not None:
                said = await built.policies.default_consequence(
                    found.id, found.default_effect, OPERATOR
                )
        if as_json:
            told = {} if default_effect is None else {"consequence": said}
            show_json({**present_detail(changed), **told})
        else:
            print_state(changed)
            if said is not None:
                typer.echo(text(said))

    run(work)


@servers.command("remove")
def servers_remove(
    server: Server,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a server with its tools and the credentials stored for it."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = await mcp_server_of(built, server)
            require_agreed(f"Remove {found.server_name} with all its tools?", yes=yes)
            await built.servers.delete(found.id, OPERATOR)
        removed = {"id": found.id, "serverName": found.server_name}
        show_removed(removed, found.server_name, as_json=as_json)

    run(work)


@servers.command("toggle")
def servers_toggle(
    server: Server,
    *,
    enabled: Annotated[
        bool | None,
        typer.Option("--on/--off", help="Which; default: the other than it is."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a server on or off."""

    async def work() -> None:
        from registry.servers.presenter import present_detail  # noqa: PLC0415 - heavy imports
        from registry.servers.values import ServerStatus  # noqa: PLC0415

        async with services(changes=True) as built:
            found = await mcp_server_of(built, server)
            is_off = found.effective_status is ServerStatus.INACTIVE
            wanted = is_off if enabled is None else enabled
            changed = await built.servers.toggle(found.id, OPERATOR, enabled=wanted)
        if as_json:
            show_json(present_detail(changed))
        else:
            print_state(changed)

    run(work)


@servers.command("refresh")
def servers_refresh(
    server: Server,
    *,
    accept: Annotated[
        bool, typer.Option("--accept", help="Serve new and changed tools at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read a server again and take over what changed; exit code 1 when it cannot be read."""

    async def work() -> None:
        from registry.servers.presenter import (  # noqa: PLC0415 - heavy imports
            present_changes,
            present_detail,
        )

        async with services(changes=True) as built:
            found = await mcp_server_of(built, server)
            refreshed = await built.servers.refresh(found.id, OPERATOR, accept=accept)
        problem = refreshed.failure or refreshed.unread
        if as_json:
            detail = present_detail(refreshed.server)
            held = list(refreshed.held)
            changes = present_changes(refreshed.changes)
            show_json({**detail, "failure": problem, "heldTools": held, "changes": changes})
        elif problem is None:
            waiting = f"; {len(refreshed.held)} wait for review" if refreshed.held else ""
            print_state(refreshed.server, waiting)
            print_changes(refreshed.changes)
        if problem is not None:
            fail(f"{found.server_name} cannot be read: {problem}")

    run(work)


ENTRY_COLUMNS = [
    Column("Type", "type"),
    Column("Name", "name"),
    Column("Role", lambda row: row["role"] or row["permBits"]),
    Column("Until", "expiresAt"),
    Column("Id", "id"),
]


@servers.command("share")
def servers_share(
    server: Server,
    *,
    user: Annotated[
        list[str] | None, typer.Option(help="NAME=viewer, editor or owner; repeat for several.")
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help="NAME=ROLE of a group.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ROLE of a role: ADMIN, USER or one that is stored."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="user:NAME, group:NAME or role:NAME to take out.")
    ] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--no-public", help="Whether everybody may see it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who has access to a server; with options, change that first."""
    principals = [("user", user), ("group", group), ("role", role)]

    async def work() -> None:
        from registry.access.presenter import present_sharing  # noqa: PLC0415 - heavy imports
        from registry.access.schemas import PermissionsUpdate  # noqa: PLC0415

        is_change = bool(user or group or role or remove) or public is not None
        async with services(changes=is_change) as built:
            found = await mcp_server_of(built, server)
            updated = []
            for kind, texts in principals:
                for text in texts or []:
                    name, _, wanted = text.rpartition("=")
                    principal = await _principal(built, kind, name)
                    updated.append({**principal, "role": wanted})
            removed = []
            for text in remove or []:
                kind, _, name = text.partition(":")
                removed.append(await _principal(built, kind, name))
            if is_change:
                change = {"updated": updated, "removed": removed, "public": public}
                request = validated(PermissionsUpdate, change).request()
                sharing = await built.permissions.change(found.id, request, OPERATOR)
            else:
                sharing = await built.permissions.get(found.id, OPERATOR)
        presented = present_sharing(sharing, with_email=True)
        if as_json:
            show_json(presented)
            return
        rows: Any = presented["principals"]
        if presented["public"]:
            everybody = {"type": "public", "name": "everybody", "role": "viewer"}
            rows = [*rows, {**everybody, "expiresAt": None, "id": None}]
        show_rows(rows, ENTRY_COLUMNS, as_json=False)

    run(work)


async def _principal(built: "CommandServices", kind: str, name: str) -> dict[str, str]:
    if not name or kind not in {"user", "group", "role"}:
        fail("write --user NAME=viewer, and --remove user:NAME, group:NAME or role:NAME")
    if kind == "user":
        name = (await user_of(built, name)).id
    elif kind == "group":
        name = (await group_of(built, name)).id
    return {"type": kind, "id": name}


def print_changes(changes: "Sequence[ReportedChange]") -> None:
    """Print what a reading changed, a line for each tool."""
    for change in changes:
        word = f"{change.kind.value} ({change.compatibility.value})"
        typer.echo(text(f"{word} {change.name}: {'; '.join(change.reasons)}"))


def print_state(server: "ServerRecord", more: str = "") -> None:
    """Print the state of a server in one line."""
    from registry.servers.presenter import present_summary  # noqa: PLC0415 - heavy imports

    row = present_summary(server)
    why = f": {server.error_message}" if server.error_message else ""
    state = f"{row['serverName']} is {row['status']}{why}; {row['numTools']} tools"
    typer.echo(text(f"{state} at {row['path']}{more}"))
