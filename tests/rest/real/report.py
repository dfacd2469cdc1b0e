"""Calls every tool of every real description, and writes what came of it into the documentation.

python -m tests.rest.real.report
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.rest.real.fetched import REAL, fetched
from tests.rest.real.measured import Measured, loaded, measured

PAGE: Final = Path(__file__).parents[3] / "docs" / "rest-apis.md"
BEGIN, END = "<!-- real descriptions: begin -->\n", "<!-- real descriptions: end -->\n"
HEAD: Final = (
    "| Description | Version | Operations | Tools | Accepted | Not accepted |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def described_names(page: str) -> list[str]:
    """Return the names of the descriptions in the table of the documentation."""
    table = page.partition(BEGIN)[2].partition(END)[0].removeprefix(HEAD)
    return [line.split("|")[1].strip() for line in table.splitlines()][:-1]


def _measured() -> Iterator[Measured]:
    files = fetched()
    for one in REAL:
        found = loaded(files[one.name], files.get(f"{one.name} (twin)"))
        yield measured(one.name, found, found.converted.tools)


def table(found: Sequence[Measured]) -> str:
    """Return the table: a row for each description, and one for all."""
    rows = [_row(one) for one in found]
    operations, tools = sum(one.operations for one in found), sum(one.tools for one in found)
    tried, accepted = sum(one.tried for one in found), sum(one.accepted for one in found)
    rows.append(
        f"| all {len(found)} | | {operations:,} | {tools:,} ({_share(tools, operations)}) "
        f"| {accepted:,} ({_share(accepted, tried)}) | {tried - accepted} |\n"
    )
    return HEAD + "".join(rows)


def _row(one: Measured) -> str:
    reasons = "; ".join(f"{count}: {reason}" for reason, count in one.reasons.most_common())
    tools = f"{one.tools:,} ({_share(one.tools, one.operations)})"
    accepted = f"{one.accepted:,} ({_share(one.accepted, one.tried)})"
    return (
        f"| {one.name} | {one.openapi} | {one.operations:,} | {tools} | {accepted} | {reasons} |\n"
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"


def main() -> None:
    """Measure, and write the table."""
    written = table([*_measured()])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{written}{END}{after}", encoding="utf-8")
    print(written)  # noqa: T201 - a program for people


if __name__ == "__main__":
    main()
