"""Commands of synchronisation, with progress."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.running import fail, read_settings, run
from registry.core.clock import SystemClock

if TYPE_CHECKING:
    from registry.sync.bulk_sync import BulkSyncResult
    from registry.sync.report import BulkSyncReport

sync = typer.Typer(help="Read servers again.", no_args_is_help=True)


@sync.command("run")
def sync_run(
    names: Annotated[list[str] | None, typer.Argument(help="Names of servers.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Read all servers.")] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Most servers read side by side.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read servers again and store what changed; exit code 1 when one cannot be read.

    Changed and new tools wait for review where the server's settings say so. A server that
    cannot be read keeps its tools, and is tried again later by `registry serve`. If interrupted,
    it reports the servers that it has read.
    """
    if everything == bool(names):
        fail("say which servers, or --all")

    async def work() -> None:
        from registry.sync.bulk_sync import unknown_server  # noqa: PLC0415 - heavy imports
        from registry.sync.report import BulkSyncReport  # noqa: PLC0415 - heavy imports
        from registry.wiring.bulk_sync import sync_round  # noqa: PLC0415 - heavy imports

        report = BulkSyncReport()
        try:
            async with sync_round(read_settings(), concurrency) as reading:
                if everything:
                    ids, unknown = await reading.all_ids(), list[str]()
                else:
                    ids, unknown = await reading.ids_of(names or [])
                report.asked = len(ids) + len(unknown)
                for name in unknown:
                    report.add(unknown_server(name))
                with _showing(report, len(ids)) as step:

                    def on_result(result: "BulkSyncResult") -> None:
                        report.add(result)
                        step()

                    await reading.run(ids, on_result)
        finally:
            if report.asked:
                for line in report.lines(as_json=as_json):
                    typer.echo(line)
        if report.failed:
            raise typer.Exit(1)

    # What comes of each server is in the table, its failures too.
    run(work)


@contextmanager
def _showing(report: "BulkSyncReport", servers: int) -> "Iterator[Callable[[], None]]":
    """Show how far a reading is: as a bar, or in a line now and then where none can be drawn."""
    from registry.sync.report import ProgressLines  # noqa: PLC0415 - heavy imports

    if sys.stderr.isatty():
        with typer.progressbar(length=servers, label="Reading servers", file=sys.stderr) as bar:
            yield lambda: bar.update(1)
        return
    progress_lines = ProgressLines(report, SystemClock())

    def step() -> None:
        line = progress_lines.line()
        if line is not None:
            sys.stderr.write(f"{line}\n")

    yield step
