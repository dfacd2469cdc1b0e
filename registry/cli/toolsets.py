"""Commands about toolsets: named subsets of the tools of any number of servers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import is_id, only_one, user_of
from registry.cli.output import (
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    Yes,
    read_pages,
    require_agreed,
    show_fields,
    show_removed,
    show_rows,
    validated,
)
from registry.cli.running import fail, run, services

if TYPE_CHECKING:
    from registry.access.toolsets.values import ToolsetSeen
    from registry.wiring.commands import CommandServices

toolsets = typer.Typer(help="Named subsets of tools.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Title", "title"),
    Column("Entries", lambda row: len(row["entries"])),
    Column("Scope", "scope"),
    Column("Default for", lambda row: _callers(row["default_for"]), wraps=True),
    Column("Id", "id"),
]

ToolsetArgument = Annotated[str, typer.Argument(metavar="TOOLSET", help="Id or name.")]
File = Annotated[Path, typer.Argument(help="JSON: the body of POST /api/v1/toolsets.")]


@toolsets.command("list")
def toolsets_list(*, limit: Limit = MAX_ROWS, as_json: AsJson = False) -> None:
    """List toolsets."""

    async def work() -> None:
        from registry.access.toolsets.presenter import present_toolset  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found, total = await read_pages(
                lambda page: built.toolsets.page(OPERATOR, None, page), limit
            )
        rows = [present_toolset(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@toolsets.command("show")
def toolsets_show(toolset: ToolsetArgument, *, as_json: AsJson = False) -> None:
    """Show a toolset; what it serves to a caller is told by the API."""

    async def work() -> None:
        async with services() as built:
            seen = await _toolset_of(built, toolset)
        _print_toolset(seen, as_json=as_json)

    run(work)


@toolsets.command("add")
def toolsets_add(
    file: File,
    *,
    user: Annotated[
        str | None,
        typer.Option(help="Id, name or address of the user whom it belongs to."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a toolset of a file; without --user, administrators alone may use it at first."""

    async def work() -> None:
        from dataclasses import replace  # noqa: PLC0415 - used here alone

        from registry.access.toolsets.schemas import ToolsetBody  # noqa: PLC0415 - heavy imports

        change = validated(ToolsetBody, _read(file)).change()
        async with services(changes=True) as built:
            owner = OPERATOR
            if user is not None:
                found = await user_of(built, user)
                entry = await built.directory.get(found.id)
                tenant_id = None if entry is None else entry.tenant_id
                owner = replace(OPERATOR, user_id=found.id, tenant_id=tenant_id)
            seen = await built.toolsets.create(change, owner)
        _print_toolset(seen, as_json=as_json)

    run(work)


@toolsets.command("remove")
def toolsets_remove(
    toolset: ToolsetArgument,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a toolset."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = (await _toolset_of(built, toolset)).record.toolset
            require_agreed(f"Remove the toolset {found.name}?", yes=yes)
            await built.toolsets.delete(found.id, OPERATOR)
        removed = {"id": found.id, "name": found.name}
        show_removed(removed, found.name, as_json=as_json)

    run(work)


async def _toolset_of(built: "CommandServices", reference: str) -> "ToolsetSeen":
    if is_id(reference):
        return await built.toolsets.get(reference.lower(), OPERATOR)
    found, _ = await read_pages(lambda page: built.toolsets.page(OPERATOR, reference, page), 0)
    called = {one.record.toolset.id: one for one in found if one.record.toolset.name == reference}
    return only_one("toolset", reference, called)


def _callers(default_for: dict[str, list[str]]) -> object:
    return [f"{kind}: {', '.join(names)}" for kind, names in default_for.items() if names]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        fail(f"{file} cannot be read ({exc.strerror})")
    except (ValueError, RecursionError):
        fail(f"{file} is not JSON")
    if not isinstance(content, dict):
        fail(f"{file} holds no JSON object")
    return content


def _print_toolset(seen: "ToolsetSeen", *, as_json: bool) -> None:
    from registry.access.toolsets.presenter import present_toolset  # noqa: PLC0415 - heavy imports

    presented = present_toolset(seen)
    unknown = ("tools", "problems")
    shown = {name: value for name, value in presented.items() if name not in unknown}
    show_fields(shown, as_json=as_json)
