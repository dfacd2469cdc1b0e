"""Commands about the generated models."""

import typer

from registry.cli.output import AsJson, show_json
from registry.cli.running import run

schemas = typer.Typer(help="The generated models.", no_args_is_help=True)


@schemas.command("check")
def schemas_check(*, as_json: AsJson = False) -> None:
    """Check that the generated models are of the expected release and have what is written."""

    async def work() -> None:
        from packages.models import SCHEMA_VERSION, check_schema_version  # noqa: PLC0415

        check_schema_version()
        if as_json:
            show_json({"schema_version": SCHEMA_VERSION})
        else:
            typer.echo(
                f"The models are generated from {SCHEMA_VERSION} and have all that is written."
            )

    run(work)
