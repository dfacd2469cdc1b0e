"""The command line put together, in the order of `registry --help`."""

import os
from typing import Annotated

import typer

from registry.cli.access import access
from registry.cli.apis import apis
from registry.cli.approvals import approvals
from registry.cli.audit import audit
from registry.cli.budgets import budgets
from registry.cli.catalog import catalog
from registry.cli.clients import client_config
from registry.cli.connections import connect, connections, disconnect
from registry.cli.creds import creds
from registry.cli.limits import limits
from registry.cli.migrate import migrate
from registry.cli.policies import policies
from registry.cli.quarantine import quarantine
from registry.cli.schemas import schemas
from registry.cli.searching import search
from registry.cli.servers import servers
from registry.cli.serving import doctor, serve, worker
from registry.cli.setup import apply, export
from registry.cli.sync import sync
from registry.cli.tokens import token
from registry.cli.tools import tools
from registry.cli.toolsets import toolsets
from registry.cli.usage import usage
from registry.cli.users import groups, users

app = typer.Typer(
    name="registry",
    help="A registry and gateway for MCP servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from registry import __version__  # noqa: PLC0415 - looked up

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def registry_command(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and end.",
            is_eager=True,
            callback=lambda value: _print_version(wanted=value),
        ),
    ] = False,
) -> None:
    """Hold the options that belong to no command."""


app.command()(serve)
app.command(hidden=True)(worker)
app.command()(doctor)
app.command()(usage)
app.command()(client_config)
app.command()(connect)
app.command()(connections)
app.command()(disconnect)
app.command()(search)
app.command()(export)
app.command()(apply)
app.command()(migrate)
app.add_typer(creds, name="creds")
app.add_typer(tools, name="tools")
app.add_typer(sync, name="sync")
app.add_typer(audit, name="audit")
app.add_typer(token, name="token")
app.add_typer(schemas, name="schemas")
app.add_typer(servers, name="servers")
app.add_typer(apis, name="apis")
app.add_typer(catalog, name="catalog")
app.add_typer(policies, name="policies")
app.add_typer(access, name="access")
app.add_typer(limits, name="limits")
app.add_typer(budgets, name="budgets")
app.add_typer(toolsets, name="toolsets")
app.add_typer(approvals, name="approvals")
app.add_typer(quarantine, name="quarantine")
app.add_typer(users, name="users")
app.add_typer(groups, name="groups")


def main() -> None:
    """Run the command line."""
    # A file or socket that took the place of one that was closed would get what is printed.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    app(prog_name="registry")
