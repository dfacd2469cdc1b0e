"""Import server files into the database: `seed-database [--dry-run] FILE_OR_FOLDER...`.

The same as `registry servers import`, for deployments that call scripts.
"""

import typer

from registry.cli.servers import servers_import

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.command()(servers_import)


def main() -> None:
    """Run the import."""
    app(prog_name="seed-database")


if __name__ == "__main__":
    main()
