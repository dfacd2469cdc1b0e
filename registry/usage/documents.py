"""Make documents of noted calls, in batches and off the hot path.

Off the path, but on its processor: what a record costs is a part of what a call costs. So ids and
times are made here in ways that the driver writes quickly.
"""

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import count

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidId

from packages.database.client import Doc
from registry.core.logs import without_secrets
from registry.usage.values import CallNote, clean_name


class DocumentMaker:
    """Turns notes into documents.

    Args:
        worker: Names this process.
        retention: How long a record is kept.
    """

    def __init__(self, *, worker: str, retention: timedelta) -> None:
        self._worker = worker
        self._retention_ms = int(retention.total_seconds() * 1000)
        self._source = secrets.token_bytes(5)
        self._numbers = count(secrets.randbits(24))

    def documents(self, notes: Iterable[CallNote], now: datetime, monotonic: float) -> list[Doc]:
        """Return a document for each note.

        Args:
            notes: In this process's monotonic time.
            now: The present moment, UTC.
            monotonic: The same moment by the monotonic clock.
        """
        seconds = now.timestamp()
        # Time and source of an ObjectId. The driver's own takes a system call and a lock for each.
        source = int(seconds).to_bytes(4, "big") + self._source
        origin_ms = (seconds - monotonic) * 1000
        ids = _Ids()
        return [self._document(note, origin_ms, source, ids) for note in notes]

    def _document(self, note: CallNote, origin_ms: float, source: bytes, ids: "_Ids") -> Doc:
        began_at, ended_at, user = note.began_at, note.ended_at, note.user
        started_ms = round(origin_ms + began_at * 1000)
        number = next(self._numbers) & 0xFFFFFF
        document: Doc = {
            "_id": ObjectId(source + number.to_bytes(3, "big")),
            "started_at": DatetimeMS(started_ms),
            "user_id": ids[user.user_id],
            "username": clean_name(user.username),
            "method": note.method,
            "era": "modern" if note.is_modern else "legacy",
            "outcome": note.outcome,
            "duration_ms": _milliseconds(ended_at - began_at),
            "request_bytes": note.request_bytes,
            "response_bytes": note.response_bytes,
            "worker": self._worker,
            "expires_at": DatetimeMS(started_ms + self._retention_ms),
        }
        if user.token_id is not None:
            document["token_id"] = user.token_id
        if note.server_id is not None:
            document["server_id"] = ids[note.server_id]
            document["server"] = note.slug
        target = note.target
        if target is not None:
            # The address of a resource may carry a key.
            document["tool"] = clean_name(without_secrets(target) if "://" in target else target)
        if note.error_code:
            document["error_code"] = note.error_code
        if note.trace_id is not None:
            document["trace_id"] = note.trace_id
        decided_at = note.decided_at
        if decided_at:
            head_at = note.head_at or ended_at
            document["admission_ms"] = _milliseconds(decided_at - began_at)
            document["upstream_ms"] = _milliseconds(head_at - decided_at)
            document["relay_ms"] = _milliseconds(ended_at - head_at)
        return document


def _milliseconds(seconds: float) -> float:
    """Return whole microseconds as milliseconds; `round` would take three times as long."""
    return int(seconds * 1_000_000 + 0.5) / 1000


class _Ids(dict[str, ObjectId | str]):
    """Ids as they are stored, made once for a batch."""

    def __missing__(self, text: str) -> ObjectId | str:
        try:
            found: ObjectId | str = ObjectId(text)
        except InvalidId:
            found = text
        self[text] = found
        return found
