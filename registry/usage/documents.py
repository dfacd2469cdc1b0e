"""Make documents of noted calls, in batches and off the hot path."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from bson import ObjectId
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
        self._retention = retention

    def documents(self, notes: Iterable[CallNote], now: datetime, monotonic: float) -> list[Doc]:
        """Return a document for each note.

        Args:
            notes: In this process's monotonic time.
            now: The present moment, UTC.
            monotonic: The same moment by the monotonic clock.
        """
        origin = now - timedelta(seconds=monotonic)
        ids = _Ids()
        return [self._document(note, origin, ids) for note in notes]

    def _document(self, note: CallNote, origin: datetime, ids: "_Ids") -> Doc:
        began_at, ended_at, user = note.began_at, note.ended_at, note.user
        started_at = origin + timedelta(seconds=began_at)
        document: Doc = {
            "_id": ObjectId(),
            "started_at": started_at,
            "user_id": ids[user.user_id],
            "username": clean_name(user.username),
            "method": note.method,
            "era": "modern" if note.is_modern else "legacy",
            "outcome": note.outcome,
            # Whole microseconds.
            "duration_ms": round((ended_at - began_at) * 1000, 3),
            "request_bytes": note.request_bytes,
            "response_bytes": note.response_bytes,
            "worker": self._worker,
            "expires_at": started_at + self._retention,
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
            document["admission_ms"] = round((decided_at - began_at) * 1000, 3)
            document["upstream_ms"] = round((head_at - decided_at) * 1000, 3)
            document["relay_ms"] = round((ended_at - head_at) * 1000, 3)
        return document


class _Ids(dict[str, ObjectId | str]):
    """Ids as they are stored, made once for a batch."""

    def __missing__(self, text: str) -> ObjectId | str:
        try:
            found: ObjectId | str = ObjectId(text)
        except InvalidId:
            found = text
        self[text] = found
        return found
