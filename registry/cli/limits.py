"""Commands about limits: how often tools may be called."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import is_id, only_one, server_of, servers_of
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
from registry.cli.policies import File, read_body, who_of
from registry.cli.running import run, services

if TYPE_CHECKING:
    from registry.access.limits.values import LimitRecord
    from registry.wiring.commands import CommandServices

limits = typer.Typer(help="How often tools may be called.", no_args_is_help=True)

COLUMNS = [
    Column("Name", "name"),
    Column("Enabled", "is_enabled"),
    Column("Rates", lambda row: [f"{one['count']}/{one['per']}" for one in row["rates"]]),
    Column("At a time", "in_flight"),
    Column("Per", "per"),
    Column("Server", lambda row: servers_of(row["target"])),
    Column("Tools", lambda row: row["target"]["tools"] or "all"),
    Column("Who", lambda row: who_of(row["subjects"]), wraps=True),
    Column("Id", "id"),
]

LimitName = Annotated[str, typer.Argument(metavar="LIMIT", help="Id or name.")]


@limits.command("list")
def limits_list(
    *,
    server: Annotated[
        str | None, typer.Option(help="Only what is about this: id, name or path.")
    ] = None,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List limits."""

    async def work() -> None:
        from registry.access.limits.presenter import present_limit  # noqa: PLC0415 - heavy imports

        async with services() as built:
            about = None if server is None else (await server_of(built, server)).id
            found, total = await read_pages(
                lambda page: built.limits.page(OPERATOR, about, page), limit
            )
        rows = [present_limit(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@limits.command("show")
def limits_show(limit: LimitName, *, as_json: AsJson = False) -> None:
    """Show a limit."""

    async def work() -> None:
        async with services() as built:
            record = await _limit_of(built, limit)
        _print_limit(record, as_json=as_json)

    run(work)


@limits.command("add")
def limits_add(file: File, *, as_json: AsJson = False) -> None:
    """Make a limit of a file: the body of POST /api/v1/limits."""

    async def work() -> None:
        from registry.access.limits.schemas import LimitCreate  # noqa: PLC0415 - heavy imports

        change = validated(LimitCreate, read_body(file)).change()
        async with services(changes=True) as built:
            record = await built.limits.create(change, OPERATOR)
        _print_limit(record, as_json=as_json)

    run(work)


@limits.command("update")
def limits_update(limit: LimitName, file: File, *, as_json: AsJson = False) -> None:
    """Change the members of a limit that a file names, and no others."""

    async def work() -> None:
        from registry.access.limits.schemas import LimitUpdate  # noqa: PLC0415 - heavy imports

        change = validated(LimitUpdate, read_body(file)).change()
        async with services(changes=True) as built:
            found = await _limit_of(built, limit)
            record = await built.limits.update(found.limit.id, change, OPERATOR)
        _print_limit(record, as_json=as_json)

    run(work)


@limits.command("remove")
def limits_remove(
    limit: LimitName,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a limit."""

    async def work() -> None:
        async with services(changes=True) as built:
            found = (await _limit_of(built, limit)).limit
            require_agreed(f"Remove the limit {found.name}?", yes=yes)
            await built.limits.delete(found.id, OPERATOR)
        removed = {"id": found.id, "name": found.name}
        show_removed(removed, found.name, as_json=as_json)

    run(work)


async def _limit_of(built: "CommandServices", reference: str) -> "LimitRecord":
    if is_id(reference):
        return await built.limits.get(reference.lower(), OPERATOR)
    found, _ = await read_pages(lambda page: built.limits.page(OPERATOR, None, page), 0)
    called = {one.limit.id: one for one in found if one.limit.name == reference}
    return only_one("limit", reference, called)


def _print_limit(record: "LimitRecord", *, as_json: bool) -> None:
    from registry.access.limits.presenter import present_limit  # noqa: PLC0415 - heavy imports

    presented: dict[str, Any] = {**present_limit(record)}
    show_fields(presented, as_json=as_json)
