"""Commands about what rules do: a draft of one, tried on recorded calls."""

from typing import Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.output import AsJson, Column, show_json, show_rows, validated
from registry.cli.policies import File, read_body
from registry.cli.running import run, services

access = typer.Typer(help="What rules do.", no_args_is_help=True)

COLUMNS = [
    Column("Who", lambda row: row["username"] or row["user_id"]),
    Column("Server", lambda row: row["server"] or row["server_id"]),
    Column("Tool", "tool"),
    Column("Refused", "would_be_refused"),
    Column("Allowed", "newly_allowed"),
    Column("Undecided", "undecided"),
    Column("Unchanged", "unchanged"),
    Column("Last", "example_at"),
]


@access.callback()
def _access() -> None:
    """Hold the commands."""


@access.command("simulate")
def access_simulate(file: File, *, as_json: AsJson = False) -> None:
    """Tell which recorded calls a draft of a policy, limit or toolset would have changed."""

    async def work() -> None:
        from registry.access.simulation.presenter import present_simulation  # noqa: PLC0415 - heavy
        from registry.access.simulation.schemas import SimulateRequest  # noqa: PLC0415

        asked = validated(SimulateRequest, read_body(file)).question()
        async with services() as built:
            found = present_simulation(await built.simulation.simulate(asked, OPERATOR))
        if as_json:
            show_json(found)
            return
        totals: Any = found["totals"]
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in totals.items())
        typer.echo(f"{found['calls']} calls since {found['covered_since']}: {said}")
        groups: Any = found["groups"]
        if groups:
            show_rows(groups, COLUMNS, as_json=False, has_more=bool(found["has_more"]))
        if not found["is_complete"]:
            typer.echo(f"Earlier calls, since {found['since']}, were not looked at.", err=True)
        notes: Any = found["notes"]
        for note in notes:
            typer.echo(note, err=True)

    run(work)
