"""The command that searches, through the running registry: its index is in memory there."""

from typing import Annotated, Any

import typer

from registry.cli.connections import Token, Url, registry_api
from registry.cli.output import AsJson, Column, show_json, show_rows
from registry.cli.running import run

MAX_SHOWN = 100


def _server(row: Any) -> str | None:
    owner = row.get("catalog") if row["kind"] == "catalog_tool" else row.get("server")
    return None if owner is None or row["kind"] == "server" else owner["name"]


COLUMNS = [
    Column("Kind", "kind"),
    Column("Name", "name"),
    Column("Server", _server),
    Column("Score", lambda row: f"{row['score']:.2f}"),
    Column("Description", "description", wraps=True),
    Column("Id", "id"),
]


def search(  # noqa: PLR0913 - options
    query: Annotated[str, typer.Argument(help="What is needed, in words.")],
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="tool, server, catalog or catalog_tool; repeat for several."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Only of this server, by its id or name.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    read_only: Annotated[
        bool | None,
        typer.Option("--read-only/--changing", help="Tools that change nothing, or something."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="active or error of the server; active or deprecated of a catalog entry."
        ),
    ] = None,
    source_type: Annotated[str | None, typer.Option(help="mcp or openapi.")] = None,
    catalog: Annotated[
        str | None, typer.Option(help="Only of this catalog entry, by its id or name.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_SHOWN, help="Most hits.")] = 10,
    token: Token = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Find tools, servers and catalog entries for a description."""

    async def work() -> None:
        filters = {
            "server": server,
            "tag": tag,
            "read_only": read_only,
            "status": status,
            "source_type": source_type,
            "catalog": catalog,
        }
        asked = {
            "query": query,
            "kinds": kind or [],
            "filters": {name: value for name, value in filters.items() if value is not None},
            "limit": limit,
            # Programs that read the answer can leave it out.
            "explain": as_json,
        }
        answer = await registry_api(token, url).ask("POST", "/search", asked)
        if as_json:
            show_json(answer)
        else:
            show_rows(answer["hits"], COLUMNS, as_json=False)

    run(work)
