"""JSON answers of the usage API: snake_case, as stored. Pure."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import StringIO

import orjson

from registry.core.json import JsonObject
from registry.core.text import timestamp
from registry.usage.totals import percentile
from registry.usage.values import MILLION, GroupBy, UsageGroup, UsageRecord

NO_ERRORS = ("ok", "awaiting_approval")
"""Outcomes of calls that went well, or that wait for people."""


def present_record(record: UsageRecord) -> JsonObject:
    """Return one call."""
    moment = timestamp(record.started_at)
    said = asdict(record)
    # One name for all paths, as in the totals, and what the client named.
    del said["own_tool"]
    return {
        **said,
        "tool": record.name,
        "called_as": record.tool,
        "started_at": moment,
        "billing_tags": [*record.billing_tags],
        "cost": present_cost(record.cost),
    }


def present_group(group: UsageGroup, group_by: Sequence[GroupBy]) -> JsonObject:
    """Return one group: what it is of, and its sums."""
    named: JsonObject = {}
    if GroupBy.DAY in group_by:
        named["day"] = None if group.day is None else group.day.date().isoformat()
    if GroupBy.CALLER in group_by:
        named |= {"user_id": group.user_id, "username": group.username}
    if GroupBy.SERVER in group_by or GroupBy.TOOL in group_by:
        named |= {"server_id": group.server_id, "server": group.server}
    if GroupBy.TOOL in group_by:
        named["tool"] = group.tool
    if GroupBy.TAG in group_by:
        named["billing_tags"] = [*(group.billing_tags or ())]
    calls = group.calls
    latency = {
        f"p{rank}_ms": _milliseconds(percentile(group.latency, rank / 100))
        for rank in (50, 95, 99)
    }
    return {
        **named,
        "calls": calls,
        "sent": group.sent,
        "errors": calls - sum(group.outcomes.get(one, 0) for one in NO_ERRORS),
        "outcomes": dict(sorted(group.outcomes.items())),
        "request_bytes": group.request_bytes,
        "response_bytes": group.response_bytes,
        "cost": present_cost(group.cost),
        "mean_ms": _milliseconds(group.duration_us / calls if calls else None),
        **latency,
    }


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 3)


FORMULA = re.compile(
    # The text begins with one, or with a control character before which one may be hidden.
    r"^(?=[\t\r\n])"
    # After each character that some spreadsheet splits at, whatever the file's own delimiter is.
    # Quotes and spaces between the two may be gone then.
    r"|(^|[,;|\t\r\n])(?=[\s\"']*[-=+@\uff1d\uff0b\uff0d\uff20])"
)
"""Where a cell that a spreadsheet computes begins; full-width forms count there too."""


def csv_lines(rows: Iterable[JsonObject], *, has_header: bool) -> bytes:
    """Return rows as CSV (RFC 4180). Objects are left out; lists are joined by semicolons.

    What a spreadsheet would run as a formula begins with an apostrophe; so does what would be one
    if the spreadsheet split the line at semicolons, tabs, bars or every comma.
    """
    text = StringIO()
    writer = csv.writer(text)
    for row in rows:
        cells = {name: value for name, value in row.items() if not isinstance(value, dict)}
        if has_header:
            writer.writerow(cells)
            has_header = False
        writer.writerow([_cell(value) for value in cells.values()])
    return text.getvalue().encode(errors="replace")


def ndjson_lines(rows: Iterable[JsonObject]) -> bytes:
    """Return rows as JSON texts, one a line."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = ";".join(map(str, value))
    return FORMULA.sub(r"\g<0>'", value) if isinstance(value, str) else value


def present_cost(millionths: int) -> float:
    """Return a cost in the currency unit. Its six decimals are exact up to a billion units."""
    return millionths / MILLION
