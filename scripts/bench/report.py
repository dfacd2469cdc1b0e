"""What was measured, as lines on the way and as a table of the bars at the end."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = "| what | bar | aim | median [least .. greatest] | |\n|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach.

    Attributes:
        limit: The worst that will do.
        aim: What is hoped for.
        is_least: Whether more is better.
    """

    limit: float
    aim: float | None = None
    is_least: bool = False

    def verdict(self, value: float) -> str:
        """Return in a word or two whether *value* is good enough."""
        if not self._reaches(value, self.limit):
            return "MISSED"
        if self.aim is not None and self._reaches(value, self.aim):
            return "aim met"
        return "met"

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.is_least else value <= bound

    def described(self, bound: float | None, unit: str) -> str:
        """Return a bound in words."""
        if bound is None:
            return ""
        return f"{'at least' if self.is_least else 'at most'} {bound:g} {unit}".rstrip()


class Report:
    """Prints figures as they come, and those that have a bar once more in the end."""

    def __init__(self) -> None:
        self._table: list[str] = []
        self._errors = 0

    def section(self, title: str) -> None:
        """Begin a group of figures."""
        print(title, flush=True)

    def row(
        self, label: str, values: Sequence[float], unit: str = "", bar: Bar | None = None
    ) -> None:
        """Report a figure that was measured in several rounds.

        Args:
            label: What it is; in the table it stands alone.
            values: One for each round.
            unit: Of the values; none for ratios.
            bar: What it has to reach.
        """
        middle = statistics.median(values)
        shown = f"{_number(middle)} [{_number(min(values))} .. {_number(max(values))}] {unit}"
        shown = shown.rstrip()
        if bar is None:
            print(f"  {label}: {shown}", flush=True)
            return
        limit, verdict = bar.described(bar.limit, unit), bar.verdict(middle)
        print(f"  {label} ({limit}): {shown}, {verdict}", flush=True)
        aim = bar.described(bar.aim, unit)
        self._table.append(f"| {label} | {limit} | {aim} | {shown} | {verdict} |")

    def fact(self, text: str) -> None:
        """Report what is no figure of several rounds."""
        print(f"  {text}", flush=True)

    def errors(self, count: int) -> None:
        """Report how many answers were wrong."""
        self.fact(f"errors: {count}")
        self._errors += count

    def table(self) -> None:
        """Print all figures that have a bar."""
        if self._table:
            print("\n".join(["", HEAD, *self._table]))
        print(f"\nerrors in all: {self._errors}", flush=True)


def _number(value: float) -> str:
    if abs(value) >= 100:  # noqa: PLR2004 - three figures are enough
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"  # noqa: PLR2004 - the same
