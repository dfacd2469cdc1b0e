"""Writes and reads `usage_records`. The only module that writes them; it inserts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pymongo
from bson import ObjectId

from packages.database.client import Database, Doc
from packages.database.errors import translates_driver_errors
from packages.models.usage import UsageLog
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
        """Write records, as one document, and return how many the database refused.

        The same records may be given again when it is not known whether they were written.

        Raises:
            DatabaseUnavailable: Perhaps none, perhaps all were written.
        """
        if not await self._write([_batch(documents)]):
            return 0
        if len(documents) == 1:
            return 1
        # One of them is not as it must be; the others are.
        return await self._write([_batch([document]) for document in documents])

    async def _write(self, batches: Sequence[Doc]) -> int:
        with pymongo.timeout(INSERT_SECONDS):
            # The driver's insert_many looks at each document and keeps a list of its own.
            # Retries are the caller's, with the same ids.
            answer = await self._database.command(
                "insert",
                UsageLog.Settings.name,
                documents=batches,
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
        found: list[UsageRecord] = []
        pending: list[UsageRecord] = []
        batches = self._rows.find(_query(narrowed, before), sort=[("last_at", pymongo.DESCENDING)])
        async for batch in batches:
            # What is newer than all that is still to come has its place.
            while pending and pending[-1].started_at > batch["last_at"]:
                found.append(pending.pop())
            if len(found) >= limit:
                return found[:limit]
            pending += [
                record
                for record in map(_record, batch["records"])
                if _matches(record, narrowed, before)
            ]
            pending.sort(key=_age)
        return [*found, *reversed(pending)][:limit]


def _batch(documents: Sequence[Doc]) -> Doc:
    """Return the one document for records as the writer makes them."""
    times = [document["started_at"] for document in documents]
    servers = {document["server_id"] for document in documents if "server_id" in document}
    return {
        # The same records make the same document, so that they are not written twice.
        "_id": documents[0]["_id"],
        "first_at": min(times, key=int),
        "last_at": max(times, key=int),
        "user_ids": list({document["user_id"] for document in documents}),
        "server_ids": list(servers),
        "expires_at": max((document["expires_at"] for document in documents), key=int),
        "records": list(documents),
    }


def _age(record: UsageRecord) -> tuple[datetime, str]:
    return record.started_at, record.id


def _query(narrowed: UsageFilter, before: tuple[datetime, str] | None) -> Doc:
    """Return which documents may hold such records."""
    query: Doc = {}
    entry: Doc = {}
    for name in ("tool", "method", "outcome", "trace_id"):
        value = getattr(narrowed, name)
        if value is not None:
            entry[name] = value
    if entry:
        query["records"] = {"$elemMatch": entry}
    if narrowed.server_id is not None:
        query["server_ids"] = ObjectId(narrowed.server_id)
    if narrowed.user_id is not None:
        query["user_ids"] = ObjectId(narrowed.user_id)
    if narrowed.since is not None:
        query["last_at"] = {"$gte": narrowed.since}
    ends = [end for end in (narrowed.until, before[0] if before else None) if end is not None]
    if ends:
        query["first_at"] = {"$lte": min(ends)}
    return query


def _matches(
    record: UsageRecord, narrowed: UsageFilter, before: tuple[datetime, str] | None
) -> bool:
    for name in ("tool", "method", "outcome", "trace_id"):
        wanted = getattr(narrowed, name)
        if wanted is not None and getattr(record, name) != wanted:
            return False
    for name in ("server_id", "user_id"):
        wanted = getattr(narrowed, name)
        if wanted is not None and getattr(record, name) != wanted.lower():
            return False
    if narrowed.since is not None and record.started_at < narrowed.since:
        return False
    if narrowed.until is not None and record.started_at >= narrowed.until:
        return False
    return before is None or _age(record) < before


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
