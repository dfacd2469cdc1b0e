"""Output of commands: a table with headers for people, or JSON for programs; never both.

Output may contain text of registered servers, so control characters are removed: a terminal
would interpret them.
"""

import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from registry.cli.running import fail
from registry.core.paging import Page, PageRequest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from registry.core.cursor import CursorPage

T = TypeVar("T")

Row = Mapping[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=0, help="Most rows printed; 0 for all.")]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

MAX_ROWS = 1000
PER_PAGE = 100
FILE_WIDTH = 100_000
"""Columns where output is no terminal: what programs read is never cut or wrapped."""

CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+"
)
"""Characters that a terminal obeys, shows nowhere, or turns the direction of others by."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        value: Name of the member of a row, or what makes the cell of a row.
        wraps: Whether the text may go over several lines of a terminal that is too narrow.
    """

    title: str
    value: str | Callable[[Row], object]
    wraps: bool = False

    def cell(self, row: Row) -> str:
        """Return the text of one cell."""
        return text(row.get(self.value) if isinstance(self.value, str) else self.value(row))


def text(value: object) -> str:
    """Return a value as people read it, in one line and without control characters."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(text, value)) or "-"
        case dict():
            return ", ".join(f"{name}={text(item)}" for name, item in value.items()) or "-"
        case _:
            return CONTROL.sub(" ", str(value)).strip() or "-"


def show_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    as_json: bool,
    total: int | None = None,
    has_more: bool = False,
) -> None:
    """Print a list; how many rows there are goes to standard error.

    Args:
        rows: In the shape of the API's answers.
        columns: What of them a table has.
        as_json: All of each row, as one JSON array.
        total: How many there are altogether, if not all of them are printed.
        has_more: Whether there are more than these, if they were not counted.
    """
    if as_json:
        show_json(list(rows))
    elif rows:
        _print_table(columns, rows)
    if total is not None and total > len(rows):
        sys.stderr.write(f"{len(rows)} of {total}; --limit 0 shows all\n")
    elif has_more:
        sys.stderr.write(f"{len(rows)}, and there are more; --limit 0 shows all\n")
    elif not as_json:
        sys.stderr.write(f"{len(rows)} in all\n" if rows else "none\n")


def show_fields(fields: Row, *, as_json: bool, documents: Sequence[str] = ()) -> None:
    """Print one thing with its members, each in a line; as JSON, all of it.

    Args:
        fields: Its members.
        as_json: Print JSON.
        documents: Members that are read as what they are: they follow as indented JSON.
    """
    if as_json:
        show_json(fields)
        return
    below = [name for name in documents if fields.get(name)]
    rows = [{"name": name, "value": value} for name, value in fields.items() if name not in below]
    _print_table([Column("Field", "name"), Column("Value", "value", wraps=True)], rows)
    for name in below:
        typer.echo(f"\n{name}:")
        show_json(fields[name])


def show_json(value: object) -> None:
    """Print JSON in ASCII alone, so that no terminal obeys what is in it."""
    typer.echo(json.dumps(value, indent=2, default=str))


def _print_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not for JSON
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    is_terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        wraps = column.wraps and is_terminal
        # An address is one word: folded, not cut.
        table.add_column(column.title, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    console = Console(highlight=False) if is_terminal else Console(width=FILE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def require_agreed(question: str, *, yes: bool) -> None:
    """Ask at the terminal before something is removed, unless `--yes` was given.

    The command ends at a no, and where there is no terminal.
    """
    if not yes and not (sys.stdin.isatty() and typer.confirm(question)):
        fail("nothing was removed; --yes does not ask")


def show_removed(removed: Mapping[str, str], name: str, *, as_json: bool) -> None:
    """Print what was removed: its id and names, as JSON or in one line."""
    if as_json:
        show_json({**removed, "removed": True})
    else:
        typer.echo(f"{name} is removed")


async def read_pages(
    read: Callable[[PageRequest], Awaitable[Page[T]]], limit: int
) -> tuple[list[T], int]:
    """Return the first items of a list, all where *limit* is 0, and how many there are."""
    items: list[T] = []
    number = 1
    while True:
        page = await read(PageRequest(number, PER_PAGE))
        items += page.items
        if number >= page.total_pages or (limit and len(items) >= limit):
            return items[: limit or None], page.total
        number += 1


async def read_cursor(
    read: "Callable[[str | None, int], Awaitable[CursorPage[T]]]", limit: int
) -> tuple[list[T], bool]:
    """Return the first records of a list that goes on by cursors, and whether there are more.

    All are returned where *limit* is 0.
    """
    records: list[T] = []
    cursor = None
    while True:
        page = await read(cursor, min(PER_PAGE, limit - len(records)) if limit else PER_PAGE)
        records += page.records
        cursor = page.next_cursor
        if cursor is None or (limit and len(records) >= limit):
            return records, cursor is not None


E = TypeVar("E", bound=StrEnum)


def one_of(kind: type[E], value: str | None, option: str) -> E | None:
    """Return the member of *kind* that an option names; end the command where there is none."""
    try:
        return None if value is None else kind(value)
    except ValueError:
        fail(f"{option}: {value!r} is none of {', '.join(kind)}")


M = TypeVar("M", bound="BaseModel")


def validated(model: type[M], options: Mapping[str, Any]) -> M:
    """Return the options of a command that were given.

    The command ends with a line for each that cannot take its value.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - heavy imports

    from registry.core.errors import problems_of  # noqa: PLC0415

    try:
        return model.model_validate({k: v for k, v in options.items() if v is not None})
    except ValidationError as exc:
        fail(*problems_of(exc, whole=None))
