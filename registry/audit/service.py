"""Answer who did what, newest first."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.audit.errors import BadCursorError
from registry.audit.repository import AuditRepository
from registry.audit.values import AuditFilter, AuditRecord

OBJECT_ID_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some records, and where the older ones begin; None when there are none."""

    records: tuple[AuditRecord, ...]
    next_cursor: str | None


class AuditService:
    """Reads the audit trail. Whoever may call it sees all of it."""

    def __init__(self, repository: AuditRepository) -> None:
        self._repository = repository

    async def page(self, narrowed: AuditFilter, cursor: str | None, limit: int) -> AuditPage:
        """Return up to *limit* records that are older than *cursor*.

        Records that are written meanwhile move nothing: a cursor names a record, not a number.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """
        before = None if cursor is None else _place(cursor)
        # One more than asked for tells whether there are older ones.
        found = await self._repository.page(narrowed, before, limit + 1)
        records = tuple(found[:limit])
        return AuditPage(records, _cursor(records[-1]) if len(found) > limit else None)


def _cursor(record: AuditRecord) -> str:
    milliseconds = round(record.timestamp.timestamp() * 1000)
    return base64.urlsafe_b64encode(f"{milliseconds}.{record.id}".encode()).rstrip(b"=").decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
        milliseconds, _, record_id = text.partition(".")
        moment = datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
        if len(record_id) != OBJECT_ID_CHARACTERS:
            raise BadCursorError
        bytes.fromhex(record_id)
    except (ValueError, OverflowError, OSError, binascii.Error):
        raise BadCursorError from None
    return moment, record_id
