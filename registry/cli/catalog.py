"""Commands about the catalog: which MCP servers exist elsewhere."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import acting_for, is_id, owner_of, server_of
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
from registry.cli.references import pairs
from registry.cli.running import FAILED, NOT_FOUND, fail, run, services
from registry.cli.servers import Owner, print_state

if TYPE_CHECKING:
    from pydantic import JsonValue

    from registry.catalog.importing import ImportResult
    from registry.catalog.values import CatalogEntry
    from registry.core.json import JsonObject
    from registry.wiring.commands import CommandServices

catalog = typer.Typer(help="Which MCP servers exist elsewhere.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Version", "version"),
    Column("Status", "status"),
    Column("Kind", "kind"),
    Column("Tools", "numTools"),
    Column("Source", "source"),
    Column("Description", "description", wraps=True),
    Column("Id", "id"),
]
SCHEMES = ("http://", "https://")

Entry = Annotated[str, typer.Argument(metavar="ENTRY", help="Id or name in the catalog.")]


@catalog.command("import")
def catalog_import(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION",
            help="URL of a registry or of a file, or a file: server.json, Docker's, ToolHive's.",
        ),
    ],
    *,
    source: Annotated[
        str | None,
        typer.Option(
            help="Name of the source, by which its entries are known again; default: LOCATION, "
            "of a file its name."
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Ask a registry for all entries, not what changed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the entries; store nothing.")
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE of a header for the registry's origin, the value as env:NAME, "
            "file:PATH or -; it is not stored. Repeat for several."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add the servers of another registry or of a file to the catalog, and update those there.

    It can be interrupted and repeated: what is stored already is left alone. Exit code 1 when
    entries cannot be read.
    """
    is_url = location.lower().startswith(SCHEMES)
    if header and not is_url:
        fail("--header is for the URL of a registry or file")
    headers = pairs(header, "--header")

    async def work() -> None:
        from registry.catalog.schemas import ImportCommand  # noqa: PLC0415 - heavy imports
        from registry.catalog.values import ImportRequest  # noqa: PLC0415

        document = None if is_url else _read(Path(location))
        name = source or (location if is_url else Path(location).name)
        body = {"source": name, "url": location if is_url else None, "headers": headers}
        asked = validated(ImportCommand, body)
        request = ImportRequest(asked.source, asked.url, document, full, dry_run, asked.headers)
        async with services(changes=not dry_run) as built:
            result = await built.catalog.import_now(request, OPERATOR, progress=_note)
        if sys.stderr.isatty():
            sys.stderr.write("\r")
        if as_json:
            show_json({"counts": dict(result.counts), "problems": result.problems})
        else:
            counted = [f"{count} {one}" for one, count in result.counts.items() if count]
            told = ", ".join(counted) or "no servers"
            typer.echo(f"{told}; nothing was stored" if dry_run else told)
            for problem in result.problems:
                typer.echo(text(f"{problem['place']}: {problem['reason']}"), err=True)
        if result.counts["broken"]:
            raise typer.Exit(FAILED)

    run(work)


async def _note(so_far: "ImportResult", _resume: str | None) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{sum(so_far.counts.values())} entries")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        fail(f"{path} cannot be read ({exc.strerror})")


@catalog.command("list")
def catalog_list(
    *,
    query: Annotated[str | None, typer.Option(help="Text to look for.")] = None,
    kind: Annotated[str | None, typer.Option(help="remote or container.")] = None,
    status: Annotated[
        str | None, typer.Option(help="active, deprecated, or deleted, which is not listed else.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List the servers of the catalog by name, or best match first."""

    async def work() -> None:
        from packages.models.states import CatalogKind, CatalogStatus  # noqa: PLC0415 - heavy
        from registry.catalog.presenter import present_entry  # noqa: PLC0415
        from registry.catalog.values import CatalogFilter  # noqa: PLC0415

        narrowed = CatalogFilter(
            query,
            one_of(CatalogKind, kind, "--kind"),
            one_of(CatalogStatus, status, "--status"),
            source,
            tag,
        )
        async with services(lists="catalog") as built:

            async def page(asked: Any) -> Any:
                return built.catalog.page(narrowed, asked)

            found, total = await read_pages(page, limit)
        show_rows([present_entry(one) for one in found], COLUMNS, as_json=as_json, total=total)

    run(work)


@catalog.command("show")
def catalog_show(entry: Entry, *, as_json: AsJson = False) -> None:
    """Show everything about a server of the catalog."""

    async def work() -> None:
        from registry.catalog.presenter import present_seen  # noqa: PLC0415 - heavy imports

        # The lists count the linked servers.
        async with services(lists="servers") as built:
            found = await _entry_of(built, entry)
            seen = await built.catalog.get(found.id, OPERATOR)
        shown = present_seen(seen)
        if not as_json:
            # Schemas and documents are for programs.
            shown.pop("server")
            shown["tools"] = [tool.name for tool in seen.tools]
            shown |= _how_to_register(seen.entry)
        show_fields(shown, as_json=as_json)

    run(work)


@catalog.command("register")
def catalog_register(  # noqa: PLR0913 - options
    entry: Entry,
    *,
    name: Annotated[
        str | None, typer.Option(help="Name of the server; default: the last part of ENTRY's.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="shared_app, shared_user or private_user, which is the default."),
    ] = None,
    remote: Annotated[
        int | None, typer.Option(help="Which of its remotes, from 0; default: the best one.")
    ] = None,
    package: Annotated[
        int | None,
        typer.Option(help="Record this of its packages, from 0, which is not started here."),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE of a variable that ENTRY asks for, the value as env:NAME, file:PATH "
            "or -; repeat for several.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of a header, the value as for --set; repeat for several."),
    ] = None,
    owner: Owner = None,
    strict: Annotated[bool, typer.Option(help="Refuse a server that cannot be read.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a server of the catalog, which is linked to its entry."""
    body = {
        "serverName": name,
        "scope": scope,
        "remote": remote,
        "package": package,
        "variables": pairs(variable, "--set"),
        "headers": pairs(header, "--header"),
    }

    async def work() -> None:
        from registry.catalog.schemas import RegisterBody  # noqa: PLC0415 - heavy imports
        from registry.servers.presenter import present_detail  # noqa: PLC0415

        asked = validated(RegisterBody, body)
        async with services(changes=True) as built:
            found = await _entry_of(built, entry)
            user = acting_for(await owner_of(built, owner))
            server = await built.catalog.register(found.id, asked, user, strict=strict)
        if as_json:
            show_json(present_detail(server))
        else:
            print_state(server)

    run(work)


@catalog.command("match")
def catalog_match(
    servers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVER]...", help="Id, name or path; default: all."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Match registered servers to the catalog again. Exit code 1 when one cannot be matched."""

    async def work() -> None:
        from registry.catalog.presenter import present_match  # noqa: PLC0415 - heavy imports

        async with services(changes=True) as built:
            ids = frozenset([(await server_of(built, one)).id for one in servers or []])
            report = await built.catalog.match(ids or None, OPERATOR)
        shown = present_match(report)
        if as_json:
            show_json(shown)
        else:
            shown.pop("problems")
            show_fields(shown, as_json=False)
            for name, message in report.problems:
                typer.echo(text(f"{name}: {message}"), err=True)
        if report.problems:
            raise typer.Exit(FAILED)

    run(work)


@catalog.command("remove")
def catalog_remove(entry: Entry, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a server of the catalog; registered servers stay, and are unlinked."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = await _entry_of(built, entry)
            require_agreed(f"Remove {found.name} from the catalog?", yes=yes)
            await built.catalog.delete(found.id, OPERATOR)
        show_removed({"id": found.id, "name": found.name}, found.name, as_json=as_json)

    run(work)


@catalog.command("remove-source")
def catalog_remove_source(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Name of the source, as `list` shows it.")
    ],
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove all servers that were imported from a source; registered servers stay.

    It can be interrupted and repeated.
    """

    async def work() -> None:
        from registry.catalog.errors import CatalogSourceNotFoundError  # noqa: PLC0415 - heavy

        require_agreed(f"Remove everything that was imported from {source}?", yes=yes)
        async with services(changes=True) as built:
            try:
                removed = await built.catalog.remove_source(source, OPERATOR)
            except CatalogSourceNotFoundError:
                fail(f"nothing was imported from {source!r}", code=NOT_FOUND)
        if as_json:
            show_json({"source": source, "removed": removed})
        else:
            typer.echo(f"{removed} servers are removed")

    run(work)


def _how_to_register(entry: "CatalogEntry") -> "JsonObject":
    """Return what an entry asks for, and the command that registers it."""
    from registry.catalog.registering import asked_for  # noqa: PLC0415 - heavy imports
    from registry.core.errors import RegistryError  # noqa: PLC0415

    command = f"registry catalog register {entry.name}"
    try:
        asked = asked_for(entry)
    except RegistryError:
        if entry.package is None:
            return {"asksFor": [], "register": None}
        return {"asksFor": [], "register": f"{command} --package 0"}
    for place, need in asked.items():
        if need is not None:
            kind, _, name = place.partition(".")
            option = "--set" if kind == "variables" else "--header"
            command += f" {option} {name}=VALUE"
    told = [f"{place} ({need or 'optional'})" for place, need in asked.items()]
    return {"asksFor": cast("JsonValue", told), "register": command}


async def _entry_of(built: "CommandServices", reference: str) -> "CatalogEntry":
    from registry.catalog.errors import CatalogServerNotFoundError  # noqa: PLC0415 - heavy imports

    try:
        if is_id(reference):
            return await built.catalog.entry(reference.lower())
        return await built.catalog.named(reference)
    except CatalogServerNotFoundError:
        fail(f"there is no server {reference!r} in the catalog", code=NOT_FOUND)
