"""Reads dumps of the two-table layout: a SQLite database, or a folder of JSON lines.

A SQLite file is opened read-only and as immutable, so that a running program that holds it is not
disturbed and no file appears beside it. Nothing is read of other tables.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from registry.migration.errors import DumpError
from registry.migration.values import SERVERS, TOOLS, Dump, Row, read_rows

SQLITE_MAGIC = b"SQLite format 3\x00"
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_ROWS = 1_000_000
SPLIT_LAYOUT = "mcpservers_registry"


def read_dump(path: Path) -> Dump:
    """Return what a dump holds.

    Args:
        path: A SQLite database, or the folder with `mcpserver.jsonl` and `tool.jsonl`.

    Raises:
        DumpError: It is neither, or cannot be read.
    """
    if path.is_dir():
        return read_rows(
            list(_lines(path / f"{SERVERS}.jsonl")), list(_lines(path / f"{TOOLS}.jsonl"))
        )
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError as exc:
        raise DumpError(str(path), f"cannot be read ({exc.strerror})") from exc
    if not is_sqlite:
        raise DumpError(
            str(path),
            f"is no SQLite database; give one, or a folder with {SERVERS}.jsonl and {TOOLS}.jsonl",
        )
    return _sqlite(path)


def _sqlite(path: Path) -> Dump:
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.row_factory = sqlite3.Row
            database.text_factory = _decoded
            # Both tables as they were at one moment.
            database.execute("BEGIN")
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in found}
            missing = {SERVERS, TOOLS} - tables
            if missing:
                hint = " (it has the later layout of four tables)" * (SPLIT_LAYOUT in tables)
                raise DumpError(str(path), f"has no table {' and '.join(sorted(missing))}{hint}")
            return read_rows(_table(database, SERVERS), _table(database, TOOLS))
    except sqlite3.Error as exc:
        raise DumpError(str(path), f"cannot be read ({exc})") from exc


def _table(database: sqlite3.Connection, name: str) -> list[Row]:
    # The two names are constants of this package.
    found = database.execute(f'SELECT * FROM "{name}" LIMIT {MAX_ROWS}')  # noqa: S608
    return [dict(row) for row in found]


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _lines(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if len(line) > MAX_LINE_BYTES or number > MAX_ROWS:
                    raise DumpError(f"{path}:{number}", "is too long")
                yield _row(line)
    except OSError as exc:
        raise DumpError(str(path), f"cannot be read ({exc.strerror})") from exc


def _row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    # What is no object has no id, which is what is reported of it.
    return row if isinstance(row, dict) else {}
