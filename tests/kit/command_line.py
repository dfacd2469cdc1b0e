"""Commands, run in this process."""

from typer.testing import CliRunner, Result

from registry.cli import app


def run(*arguments: str) -> Result:
    """Run `registry` with *arguments*."""
    return CliRunner().invoke(app, list(arguments))
