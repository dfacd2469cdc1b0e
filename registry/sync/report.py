"""What a reading of many servers came to, as text for people or for programs. Pure."""

import json
from collections.abc import Iterator

from registry.sync.rounds import RoundResult

COLUMNS = ("added", "changed", "held", "stale", "returned", "rejected")
"""Kinds of changes, in the order of the table."""

NAME_CHARACTERS = 40


class RoundReport:
    """Collects results and prints those that say something."""

    def __init__(self) -> None:
        self._rows: list[RoundResult] = []
        self._totals = dict.fromkeys(COLUMNS, 0)
        self._offered = 0
        self._unchanged = 0
        self._unread = 0
        self.failed = 0

    def add(self, result: RoundResult) -> None:
        """Take one result in; what says nothing is only counted."""
        counts = {} if result.job is None else result.job.counts
        self._offered += counts.get("offered", 0)
        for name in COLUMNS:
            self._totals[name] += counts.get(name, 0)
        if result.has_failed:
            self.failed += 1
        elif result.job is None or result.note is not None:
            self._unread += 1
        elif not any(counts.get(name) for name in COLUMNS):
            self._unchanged += 1
            return
        self._rows.append(result)

    def lines(self, *, as_json: bool) -> Iterator[str]:
        """Yield the table, or one JSON text."""
        rows = sorted(self._rows, key=lambda row: row.server_name)
        if as_json:
            yield json.dumps(
                {"servers": [_facts(row) for row in rows], "totals": self._sums()}, indent=2
            )
            return
        if rows:
            yield _row("server", "result", *COLUMNS)
        for row in rows:
            counts = {} if row.job is None else row.job.counts
            told = [str(counts.get(name) or "") for name in COLUMNS]
            reason = _reason(row)
            line = _row(row.server_name[:NAME_CHARACTERS], _result(row), *told)
            yield f"{line}{reason}".rstrip()
        sums = self._sums()
        yield ", ".join(f"{count} {name}" for name, count in sums.items())

    def _sums(self) -> dict[str, int]:
        read = self._unchanged + sum(_result(row) == "read" for row in self._rows)
        return {
            "read": read,
            "failed": self.failed,
            "not read": self._unread,
            "tools offered": self._offered,
            **{f"tools {name}": count for name, count in self._totals.items() if count},
        }


def _result(row: RoundResult) -> str:
    if row.has_failed:
        return "failed"
    return "not read" if row.job is None or row.note is not None else "read"


def _reason(row: RoundResult) -> str:
    if row.has_failed and row.job is not None:
        return row.job.error or row.job.state.value
    return row.note or ""


def _row(name: str, result: str, *counts: str) -> str:
    cells = "".join(f"{count:>10}" for count in counts)
    return f"{name:<{NAME_CHARACTERS}}  {result:<9}{cells}  "


def _facts(row: RoundResult) -> dict[str, object]:
    facts: dict[str, object] = {"server": row.server_name, "result": _result(row)}
    if row.job is not None:
        facts |= {"job_id": row.job.id, "state": row.job.state.value, "counts": {**row.job.counts}}
    reason = _reason(row)
    return {**facts, "reason": reason} if reason else facts
