"""Writes and reads `usage_records`. The only module that writes them; it inserts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pymongo
from bson import ObjectId

from packages.database.client import Database, Doc
from packages.database.errors import translates_driver_errors
from packages.models.usage import NEWEST_FIRST, UsageLog
from registry.usage.values import UsageFilter, UsageRecord

DUPLICATE_KEY = 11000
INSERT_SECONDS = 5.0
"""Longest time for one batch; what waits longer is held back for the next one."""


@translates_driver_errors
class UsageRepository:
    """Records of calls."""

    def __init__(self, database: Database) -> None:
        self._database = database.db
        self._rows = database.collection(UsageLog.Settings.name)

    async def insert(self, documents: Sequence[Doc]) -> int:
        """Write records and return how many of them the database refused.

        The same documents may be given again when it is not known whether they were written.

        Raises:
            DatabaseUnavailable: Perhaps none, perhaps all were written.
        """
        with pymongo.timeout(INSERT_SECONDS):
            # The driver's insert_many looks at each document and keeps a list of its own, which
            # costs as much as all the rest. Retries are the caller's, with the same ids.
            answer = await self._database.command(
                "insert",
                UsageLog.Settings.name,
                documents=documents,
                ordered=False,
                # No call waits for it: a record that a step-down of the primary loses is worth
                # less than the majority's round trips.
                writeConcern={"w": 1},
            )
        errors = answer.get("writeErrors", [])
        return sum(1 for error in errors if error.get("code") != DUPLICATE_KEY)

    async def page(
        self, narrowed: UsageFilter, before: tuple[datetime, str] | None, limit: int
    ) -> list[UsageRecord]:
        """Return up to *limit* records, newest first, older than the place *before*."""
        rows = self._rows.find(_query(narrowed, before), sort=[*NEWEST_FIRST], limit=limit)
        return [_record(row) async for row in rows]


def _query(narrowed: UsageFilter, before: tuple[datetime, str] | None) -> Doc:
    query: Doc = {}
    for name in ("tool", "method", "outcome", "trace_id"):
        value = getattr(narrowed, name)
        if value is not None:
            query[name] = value
    for name in ("server_id", "user_id"):
        value = getattr(narrowed, name)
        if value is not None:
            query[name] = ObjectId(value)
    times: Doc = {}
    if narrowed.since is not None:
        times["$gte"] = narrowed.since
    if narrowed.until is not None:
        times["$lt"] = narrowed.until
    if times:
        query["started_at"] = times
    if before is None:
        return query
    moment, record_id = before
    older: Doc = {
        "$or": [
            {"started_at": {"$lt": moment}},
            {"started_at": moment, "_id": {"$lt": ObjectId(record_id)}},
        ]
    }
    # Said twice, because an index is entered by the plain condition only.
    return {"$and": [{"started_at": {"$lte": moment}}, older, query]}


def _record(row: dict[str, Any]) -> UsageRecord:
    server_id = row.get("server_id")
    return UsageRecord(
        id=str(row["_id"]),
        started_at=row["started_at"],
        user_id=str(row["user_id"]),
        username=str(row.get("username") or ""),
        token_id=row.get("token_id"),
        server_id=None if server_id is None else str(server_id),
        server=row.get("server"),
        method=str(row["method"]),
        tool=row.get("tool"),
        era=str(row["era"]),
        outcome=str(row["outcome"]),
        error_code=row.get("error_code"),
        duration_ms=row["duration_ms"],
        admission_ms=row.get("admission_ms"),
        upstream_ms=row.get("upstream_ms"),
        relay_ms=row.get("relay_ms"),
        request_bytes=row.get("request_bytes", 0),
        response_bytes=row.get("response_bytes", 0),
        trace_id=row.get("trace_id"),
        worker=str(row.get("worker") or ""),
    )
