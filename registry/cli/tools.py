"""Commands about registered tools."""

import typer

from registry.cli.output import AsJson, show_json
from registry.cli.running import read_settings, run

tools = typer.Typer(help="Registered tools.", no_args_is_help=True)


@tools.command("verify")
def tools_verify(*, as_json: AsJson = False) -> None:
    """Look for tools in states that must not be; exit code 1 when there are any.

    Checks each tool's states, definition and hash, what clients get of it, and what the other
    application reads of its server. Run it while nothing is being changed: a change that comes
    between two readings looks like a difference.
    """

    async def work() -> None:
        from registry.wiring.tools import tool_verifier  # noqa: PLC0415 - heavy imports

        count = 0
        problems: list[dict[str, str]] = []
        async with tool_verifier(read_settings()) as verifier:
            async for problem in verifier.problems():
                count += 1
                if as_json:
                    problems.append({"subject": problem.subject, "problem": problem.told})
                else:
                    typer.echo(f"{problem.subject} {problem.told}")
        if as_json:
            counts = {"tools": verifier.tools, "servers": verifier.servers}
            show_json({**counts, "problems": problems})
        else:
            typer.echo(f"{verifier.tools} tools, {verifier.servers} servers, problems: {count}")
        if count:
            raise typer.Exit(1)

    run(work)
