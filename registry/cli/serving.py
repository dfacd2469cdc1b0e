"""Commands `serve`, `worker` and `doctor`."""

import sys
from typing import Annotated

import typer

from registry.cli.output import AsJson, show_json
from registry.cli.running import NOT_STARTED, read_settings, run


def serve(
    *,
    local: Annotated[bool, typer.Option("--local", help="Bring an own database along.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Processes that serve; default: REGISTRY_WORKERS, or 1."
        ),
    ] = None,
) -> None:
    """Serve the API and the gateway.

    With --local everything that is needed is started and kept in REGISTRY_HOME; without it
    MONGO_URI, CREDS_KEY, CREDS_IV and a JWT key pair must be set.

    SIGTERM and Ctrl-C end it once requests in flight are answered; a second one at once.
    """

    async def work() -> None:
        if local and sys.stderr.isatty():
            typer.echo("Starting: database, demo server, API and gateway ...", err=True)
        from registry.processes.serving import serve_local, serve_settings  # noqa: PLC0415 - heavy imports
        from registry.processes.supervisor import StartFailedError  # noqa: PLC0415

        try:
            await (serve_local(workers) if local else serve_settings(workers))
        except StartFailedError:
            # The worker has said why.
            raise typer.Exit(1) from None

    run(work)


def worker(orders: str) -> None:
    """Serve as one of several processes; `serve --workers` starts these."""

    async def work() -> None:
        from registry.processes.serving import serve_worker  # noqa: PLC0415 - heavy imports

        await serve_worker(orders)

    run(work)


def doctor(
    *,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Remove what is left of deleted servers; restore lost tools."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the database, indexes, schema version, keys and stored credentials.

    Before the first start there is nothing to check, which is nothing wrong.
    """

    async def work() -> None:
        from registry.operations.doctor import DoctorFinding, examine  # noqa: PLC0415 - heavy imports
        from registry.processes.local.home import is_untouched  # noqa: PLC0415

        if is_untouched():
            findings = [DoctorFinding("start", good=True, message=NOT_STARTED)]
        else:
            findings = await examine(read_settings(), repair=repair)
        if as_json:
            show_json(
                [
                    {"check": one.check, "good": one.good, "message": one.message}
                    for one in findings
                ]
            )
        for finding in () if as_json else findings:
            typer.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.check}: {finding.message}")
        if not all(finding.good for finding in findings):
            raise typer.Exit(1)

    run(work)
