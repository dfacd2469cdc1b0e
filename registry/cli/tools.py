"""Commands about registered tools."""

import json
from typing import Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.names import server_of, tool_of
from registry.cli.output import (
    CONTROL,
    MAX_ROWS,
    AsJson,
    Column,
    Limit,
    read_pages,
    show_fields,
    show_json,
    show_rows,
    text,
    validated,
)
from registry.cli.references import caller_token, resolve
from registry.cli.running import FAILED, fail, read_settings, run, services

tools = typer.Typer(help="Registered tools.", no_args_is_help=True)


COLUMNS = [
    Column("Tool", lambda row: f"{row['owner_name'] or row['owner_id']}/{row['name']}"),
    Column("Served", "is_exposed"),
    Column("Review", "review"),
    Column("Change", lambda row: (row["pending_change"] or {}).get("compatibility")),
    Column("State", lambda row: f"{row['registration_state']} {row['exposure_state']}"),
    Column("Version", "served_version"),
    Column("Id", "id"),
]

DOCUMENTS = [
    *("input_schema", "output_schema", "annotations", "definition"),
    *("pending_definition", "offered_definition", "pending_change", "drift"),
]
"""Members of a tool that are JSON, shown after the others."""

Tool = Annotated[
    str, typer.Argument(metavar="TOOL", help="Id, SERVER/TOOL, or SERVER__TOOL as clients see it.")
]


@tools.command("list")
def tools_list(
    *,
    server: Annotated[str | None, typer.Option(help="Id, name or gateway path.")] = None,
    query: Annotated[str | None, typer.Option(help="Text to look for.")] = None,
    review: Annotated[
        str | None, typer.Option(help="Only what waits: pending, new, change or drift.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is stale, disabled or deleted.")
    ] = False,
    limit: Limit = MAX_ROWS,
    as_json: AsJson = False,
) -> None:
    """List tools."""

    async def work() -> None:
        from registry.tools.governance.presenter import present_summary  # noqa: PLC0415 - heavy imports
        from registry.tools.governance.schemas import ToolQuery  # noqa: PLC0415

        async with services(lists="tools") as built:
            query_members = {
                "owner_id": None if server is None else (await server_of(built, server)).id,
                "query": query,
                "review": review,
                "include_stale": everything,
                "include_disabled": everything,
            }
            narrowed = validated(ToolQuery, query_members).narrowed()
            found, total = await read_pages(
                lambda page: built.tools.page(OPERATOR, narrowed, page), limit
            )
        rows = [present_summary(one) for one in found]
        show_rows(rows, COLUMNS, as_json=as_json, total=total)

    run(work)


@tools.command("show")
def tools_show(tool: Tool, *, as_json: AsJson = False) -> None:
    """Show all that is known of a tool."""

    async def work() -> None:
        from registry.tools.governance.presenter import present_detail  # noqa: PLC0415 - heavy imports

        async with services() as built:
            found = await tool_of(built, tool)
        show_fields(present_detail(found), as_json=as_json, documents=DOCUMENTS)

    run(work)


Hash = Annotated[
    str | None,
    typer.Option(
        "--hash", help="Of the definition that was reviewed; refused when another one waits."
    ),
]


@tools.command("accept")
def tools_accept(tool: Tool, *, seen: Hash = None, as_json: AsJson = False) -> None:
    """Serve what waits for review."""
    _decide(tool, seen, accept=True, as_json=as_json)


@tools.command("reject")
def tools_reject(tool: Tool, *, seen: Hash = None, as_json: AsJson = False) -> None:
    """Do not serve what waits for review."""
    _decide(tool, seen, accept=False, as_json=as_json)


def _decide(tool: str, seen: str | None, *, accept: bool, as_json: bool) -> None:
    async def work() -> None:
        from registry.tools.governance.presenter import present_detail  # noqa: PLC0415 - heavy imports

        async with services(changes=True) as built:
            found = await tool_of(built, tool)
            decide = built.tools.accept if accept else built.tools.reject
            decided = await decide(found.id, seen or found.decision_hash, OPERATOR)
        presented = present_detail(decided)
        if as_json:
            show_json(presented)
        else:
            show_rows([presented], COLUMNS, as_json=False)

    run(work)


@tools.command("call")
def tools_call(
    tool: Tool,
    arguments: Annotated[
        str, typer.Argument(help="JSON object, or @FILE to read it from one.")
    ] = "{}",
    *,
    token: Annotated[
        str | None,
        typer.Option(
            help="Whose call it is: env:NAME, file:PATH, - to be asked; "
            "default: the administrator of local mode."
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the registry; default: PUBLIC_URL.")
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Confirm the call, if its tool demands that of its user."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Call a tool through the running gateway, with a token, as any client does.

    Policies, states and limits count, and the call is in the records. Exit code 1 when the tool
    fails.
    """
    call_arguments = _arguments(arguments)

    async def work() -> None:
        from registry.cli.calling import call_tool  # noqa: PLC0415 - heavy imports

        settings = read_settings()
        async with services() as built:
            found = await tool_of(built, tool)
            server = await server_of(built, found.owner_id)
        bearer = caller_token(settings, token)
        address = f"{(url or settings.base_url).rstrip('/')}{server.effective_path}"
        result = await call_tool(address, bearer, found.name, call_arguments, is_confirmed=confirm)
        if as_json:
            show_json(result)
        else:
            for line in spoken(result):
                typer.echo(line)
        if result.get("isError"):
            raise typer.Exit(FAILED)

    run(work)


def _arguments(text: str) -> dict[str, Any]:
    what = "the arguments"
    read = resolve(f"file:{text[1:]}", what) if text.startswith("@") else text
    try:
        parsed = json.loads(read)
    except (ValueError, RecursionError):
        fail(f"{what} are not JSON")
    if not isinstance(parsed, dict):
        fail(f"{what} are no JSON object")
    return parsed


def spoken(result: dict[str, Any]) -> list[str]:
    """Return what a tool answered as lines for people; what is no text is named."""
    lines: list[str] = []
    for block in result.get("content") or []:
        if block.get("type") == "text":
            lines += [CONTROL.sub(" ", line) for line in str(block.get("text")).split("\n")]
        else:
            lines.append(f"[{text(block.get('type'))} {text(block.get('mimeType'))}]")
    return lines


@tools.command("verify")
def tools_verify(*, as_json: AsJson = False) -> None:
    """Look for tools in states that must not be; exit code 1 when there are any.

    Checks each tool's states, definition and hash, what clients get of it, and what the other
    application reads of its server. Run it while nothing is being changed: a change that comes
    between two readings looks like a difference.
    """

    async def work() -> None:
        from registry.wiring.commands import tool_verifier  # noqa: PLC0415 - heavy imports

        count = 0
        problems: list[dict[str, str]] = []
        async with tool_verifier(read_settings()) as verifier:
            async for problem in verifier.problems():
                count += 1
                if as_json:
                    problems.append({"subject": problem.subject, "problem": problem.reason})
                else:
                    typer.echo(f"{problem.subject} {problem.reason}")
        if as_json:
            counts = {"tools": verifier.tools, "servers": verifier.servers}
            show_json({**counts, "problems": problems})
        else:
            typer.echo(f"{verifier.tools} tools, {verifier.servers} servers, problems: {count}")
        if count:
            raise typer.Exit(1)

    run(work)
