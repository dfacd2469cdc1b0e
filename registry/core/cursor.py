"""Cursors of lists that are sorted by time: each names a document, not a number. Pure.

What is written meanwhile moves nothing.
"""

import base64
import binascii
from datetime import UTC, datetime

from registry.core.errors import ValidationFailedError

OBJECT_ID_CHARACTERS = 24


class BadCursorError(ValidationFailedError):
    """The cursor is none that this API gave out."""

    def __init__(self) -> None:
        super().__init__("cursor", "is not one that this API gave out")


class MomentOutOfRangeError(ValidationFailedError):
    """A time cannot be said in UTC."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is out of range")


def time_cursor(moment: datetime, document_id: str) -> str:
    """Return the cursor that names the document *document_id* of that *moment*."""
    milliseconds = round(moment.timestamp() * 1000)
    return base64.urlsafe_b64encode(f"{milliseconds}.{document_id}".encode()).rstrip(b"=").decode()


def read_time_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the moment and the id that *cursor* names.

    Raises:
        BadCursorError: It is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
        milliseconds, _, document_id = text.partition(".")
        moment = datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
        if len(document_id) != OBJECT_ID_CHARACTERS:
            raise BadCursorError
        bytes.fromhex(document_id)
    except (ValueError, OverflowError, OSError, binascii.Error):
        raise BadCursorError from None
    return moment, document_id


def in_utc(field: str, moment: datetime | None) -> datetime | None:
    """Return *moment* in UTC.

    Raises:
        MomentOutOfRangeError: It lies outside of the calendar there.
    """
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        raise MomentOutOfRangeError(field) from None
