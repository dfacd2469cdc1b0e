"""Cursor pagination of lists sorted by time: a cursor names a document, not an offset.

Documents written between two requests do not shift pages.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from registry.core.errors import ValidationFailedError

DOCUMENT = frozenset({24})
"""Characters of an ObjectId."""

PLACE = frozenset({24, 28})
"""Characters of an ObjectId, also followed by a position within that document."""

HEXADECIMAL = frozenset("0123456789abcdef")

T = TypeVar("T")


class BadCursorError(ValidationFailedError):
    """The cursor was not issued by this API."""

    def __init__(self, name: str = "cursor") -> None:
        super().__init__(name, "is not a cursor that this API returned")


class MomentOutOfRangeError(ValidationFailedError):
    """A time cannot be represented in UTC."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is out of range")


def time_cursor(moment: datetime, document_id: str) -> str:
    """Return the cursor that names the document *document_id* of that *moment*."""
    milliseconds = round(moment.timestamp() * 1000)
    return base64.urlsafe_b64encode(f"{milliseconds}.{document_id}".encode()).rstrip(b"=").decode()


def read_time_cursor(
    cursor: str, id_characters: Collection[int], name: str = "cursor"
) -> tuple[datetime, str]:
    """Return the time and the id in *cursor*; *id_characters* are the allowed lengths of ids.

    Raises:
        BadCursorError: It is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
        milliseconds, _, document_id = text.partition(".")
        moment = datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
        # `bytes.fromhex` would take spaces, of which no id is made.
        if len(document_id) not in id_characters or set(document_id) - HEXADECIMAL:
            raise BadCursorError(name)
    except (ValueError, OverflowError, OSError, binascii.Error):
        raise BadCursorError(name) from None
    return moment, document_id


@dataclass(frozen=True, slots=True)
class CursorPage(Generic[T]):
    """Records, and the cursor of the next, older page; None on the last page."""

    records: tuple[T, ...]
    next_cursor: str | None


async def newest_page(
    read: Callable[[tuple[datetime, str] | None, int], Awaitable[Sequence[T]]],
    place: Callable[[T], tuple[datetime, str]],
    cursor: str | None,
    limit: int,
    *,
    id_characters: Collection[int] = DOCUMENT,
    name: str = "cursor",
) -> CursorPage[T]:
    """Return up to *limit* records that are older than *cursor*.

    Args:
        read: Returns so many records that are older than a place, newest first.
        place: Returns a record's.
        cursor: Of the page before; None for the first.
        limit: At most so many.
        id_characters: How many the ids of places have.
        name: Of the parameter that the cursor came in.

    Raises:
        BadCursorError: *cursor* was not issued by this API.
    """
    before = None if cursor is None else read_time_cursor(cursor, id_characters, name)
    # One more than requested shows whether there are older ones.
    found = await read(before, limit + 1)
    records = tuple(found[:limit])
    return CursorPage(records, time_cursor(*place(records[-1])) if len(found) > limit else None)


def in_utc(field: str, moment: datetime | None) -> datetime | None:
    """Return *moment* in UTC.

    Raises:
        MomentOutOfRangeError: It lies outside of the calendar there.
    """
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        raise MomentOutOfRangeError(field) from None
