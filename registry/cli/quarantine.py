"""Commands about quarantine: what is refused everywhere."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packages.models.states import QuarantineKind
from registry.auth.identity import OPERATOR
from registry.cli.names import server_of, tool_of, user_id_of
from registry.cli.output import AsJson, Column, show_fields, show_rows, text, validated
from registry.cli.running import run, services

if TYPE_CHECKING:
    from registry.access.quarantine.values import Quarantine

quarantine = typer.Typer(help="What is refused everywhere.", no_args_is_help=True)

COLUMNS = [
    Column("Kind", "kind"),
    Column("Name", "name"),
    Column("Reason", "reason", wraps=True),
    Column("Active", "is_active"),
    Column("Since", "created_at"),
    Column("Until", lambda row: row["lifted_at"] or row["expires_at"]),
    Column("Id", "id"),
]

REACHED = [
    Column("User", "username"),
    Column("Server", "server"),
    Column("Tool", "tool"),
    Column("Calls", "calls"),
    Column("Last", "last_at"),
]


@quarantine.command("list")
def quarantine_list(
    *,
    former: Annotated[bool, typer.Option("--all", help="Ended ones, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is in quarantine."""

    async def work() -> None:
        async with services() as built:
            found = await built.quarantine.listed(OPERATOR, active=None if former else True)
            rows = [_presented(one, built.quarantine.now()) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=len(rows))

    run(work)


@quarantine.command("add")
def quarantine_add(
    kind: Annotated[QuarantineKind, typer.Argument(help="What it is.")],
    subject: Annotated[
        str,
        typer.Argument(
            help="Server: id, name or path. Tool: id or SERVER/TOOL. User: id, name or "
            "address. Token: jti. Client: its name."
        ),
    ],
    *,
    reason: Annotated[str, typer.Option(help="For those who find it refused.")],
    hours: Annotated[
        float | None, typer.Option(help="Until it ends by itself; for ever if left out.", min=0.01)
    ] = None,
    end_calls: Annotated[
        bool, typer.Option("--end-calls", help="End calls under way, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Refuse a server, tool, user, token or application everywhere, within a second."""

    async def work() -> None:
        from registry.access.quarantine.presenter import present_radius  # noqa: PLC0415 - heavy
        from registry.access.quarantine.schemas import QuarantineRequest  # noqa: PLC0415

        async with services(changes=True) as built:
            named, tool = subject, None
            match kind:
                case QuarantineKind.SERVER:
                    named = (await server_of(built, subject)).id
                case QuarantineKind.TOOL:
                    stored = await tool_of(built, subject)
                    named, tool = stored.owner_id, stored.name
                case QuarantineKind.USER:
                    named = await user_id_of(built, subject)
                case QuarantineKind.TOKEN | QuarantineKind.CLIENT:
                    pass
            body: dict[str, Any] = {
                "kind": kind.value,
                "subject": named,
                "tool": tool,
                "reason": reason,
                "ends_calls": end_calls,
            }
            if hours is not None:
                ends_at = built.clock.now() + timedelta(hours=hours)
                body["expires_at"] = ends_at.isoformat()
            new = validated(QuarantineRequest, body).value()
            added, radius = await built.quarantine.add(new, OPERATOR)
            presented = _presented(added, built.quarantine.now())
        reached = present_radius(radius)
        if as_json:
            show_fields({**presented, "reached": reached}, as_json=True)
            return
        show_fields(presented, as_json=False)
        typer.echo(f"\n{radius.calls} calls in the last {radius.hours} hours:")
        groups: Any = reached["groups"]
        show_rows(groups, REACHED, as_json=False, total=len(groups))

    run(work)


@quarantine.command("lift")
def quarantine_lift(
    quarantine_id: Annotated[str, typer.Argument(metavar="ID", help="Of the quarantine.")],
    *,
    as_json: AsJson = False,
) -> None:
    """End a quarantine."""

    async def work() -> None:
        async with services(changes=True) as built:
            lifted, others = await built.quarantine.lift(quarantine_id.lower(), OPERATOR)
            presented = {**_presented(lifted, built.quarantine.now()), "others": list(others)}
        show_fields(presented, as_json=as_json)
        if others:
            still = f"{lifted.name} is still in quarantine, by {', '.join(others)}"
            typer.echo(text(still), err=True)

    run(work)


def _presented(found: "Quarantine", now: datetime) -> dict[str, Any]:
    from registry.access.quarantine.presenter import present_quarantine  # noqa: PLC0415 - heavy

    return {**present_quarantine(found, now)}
