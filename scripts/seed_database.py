"""Import server files into the database: `seed-database [--dry-run] FILE_OR_FOLDER...`.

The same as `registry servers import`, for deployments that call scripts.
"""

import sys

from registry.cli import app


def main() -> None:
    """Run the import."""
    app(["servers", "import", *sys.argv[1:]])


if __name__ == "__main__":
    main()
