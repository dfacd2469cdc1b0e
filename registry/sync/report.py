"""Report of a bulk synchronisation, as a table for people or JSON for programs. Pure."""

import json
from collections.abc import Iterator

from registry.core.clock import Clock
from registry.sync.bulk_sync import BulkSyncResult

LINE_SECONDS = 5.0
"""Time between two progress lines, where no progress bar can be drawn."""

COLUMNS = ("added", "changed", "held", "stale", "returned", "rejected")
"""Kinds of changes, in the order of the table."""

NAME_CHARACTERS = 40

UNCHANGED = "unchanged"
"""The result of a server whose tools have not changed."""


class BulkSyncReport:
    """Collects results. The table leaves out unchanged servers; JSON lists all.

    Attributes:
        asked: The number of servers to read.
        failed: The number that could not be read.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._rows: list[BulkSyncResult] = []
        self._totals = dict.fromkeys(COLUMNS, 0)
        self._offered = 0
        self._unread = 0
        self.failed = 0

    def add(self, result: BulkSyncResult) -> None:
        """Add one result."""
        counts = result.counts
        self._offered += counts.get("offered", 0)
        for name in COLUMNS:
            self._totals[name] += counts.get(name, 0)
        if result.has_failed:
            self.failed += 1
        elif result.note is not None:
            self._unread += 1
        self._rows.append(result)

    def lines(self, *, as_json: bool) -> Iterator[str]:
        """Yield the lines of the table, or one JSON text."""
        rows = sorted(self._rows, key=lambda row: row.server_name)
        if as_json:
            yield json.dumps(
                {"servers": [_facts(row) for row in rows], "totals": self._sums()}, indent=2
            )
            return
        shown = [row for row in rows if _result(row) != UNCHANGED]
        if shown:
            yield _row("server", "result", *COLUMNS)
        for row in shown:
            cells = [str(row.counts.get(name) or "") for name in COLUMNS]
            reason = _reason(row)
            line = _row(_shown(row.server_name), _result(row), *cells)
            yield f"{line}{reason}".rstrip()
        sums = self._sums()
        yield ", ".join(f"{count} {name}" for name, count in sums.items())

    def _sums(self) -> dict[str, int]:
        return {
            "read": len(self._rows) - self.failed - self._unread,
            "failed": self.failed,
            "not read": self._unread,
            "tools offered": self._offered,
            **{f"tools {name}": count for name, count in self._totals.items() if count},
            # Only after an interrupt.
            **({"not reached": self.unreached} if self.unreached else {}),
        }

    @property
    def unreached(self) -> int:
        """Return the number of servers without a result."""
        return max(0, self.asked - len(self._rows))


class ProgressLines:
    """Periodic progress lines, where no progress bar can be drawn."""

    def __init__(self, report: BulkSyncReport, clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._written_at = clock.monotonic()

    def line(self) -> str | None:
        """Return the next line if it is due."""
        if self._clock.monotonic() - self._written_at < LINE_SECONDS:
            return None
        self._written_at = self._clock.monotonic()
        report = self._report
        done = report.asked - report.unreached
        return f"{done} of {report.asked} servers, {report.failed} failed"


def _shown(name: str) -> str:
    cut = name[:NAME_CHARACTERS]
    return "".join(char if char.isprintable() else "?" for char in cut)


def _result(row: BulkSyncResult) -> str:
    if row.has_failed:
        return "failed"
    if row.note is not None:
        return "not read"
    return "read" if any(row.counts.get(name) for name in COLUMNS) else UNCHANGED


def _reason(row: BulkSyncResult) -> str:
    if row.has_failed:
        return row.error or str(row.state)
    return row.note or ""


def _row(name: str, result: str, *counts: str) -> str:
    cells = "".join(f"{count:>10}" for count in counts)
    return f"{name:<{NAME_CHARACTERS}}  {result:<9}{cells}  "


def _facts(row: BulkSyncResult) -> dict[str, object]:
    facts: dict[str, object] = {"server": row.server_name, "result": _result(row)}
    if row.job_id is not None and row.state is not None:
        facts |= {"job_id": row.job_id, "state": str(row.state), "counts": {**row.counts}}
    reason = _reason(row)
    return {**facts, "reason": reason} if reason else facts
