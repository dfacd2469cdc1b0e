"""Webhook calls of servers' owners, signed as the Standard Webhooks specification says. Pure.

The timestamp bounds how long a call can be replayed; the id is remembered for longer than that.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.core.webhook_signatures import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    signature,
)
from registry.sync.errors import WebhookRefusedError

SECRET_BYTES = 32
MESSAGE_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")
"""No dot: it separates the id from the timestamp in the signed content."""
TIMESTAMP = re.compile(r"[0-9]{1,12}")
TOLERANCE = timedelta(minutes=5)
"""Maximum difference between a call's timestamp and the current time."""

REMEMBERED = timedelta(hours=1)
"""How long ids are kept: longer than a call can be replayed, even with skewed clocks."""

MAX_SIGNATURES = 8
"""Signatures that are checked. A sender that rotates its secret signs with both."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call as received."""

    message_id: str
    timestamp: str
    signatures: tuple[str, ...]
    body: bytes


def delivery(headers: Mapping[str, str], body: bytes) -> Delivery:
    """Parse the headers of a call.

    Raises:
        WebhookRefusedError: A header is missing or malformed.
    """
    message_id = headers.get(ID_HEADER, "")
    timestamp = headers.get(TIME_HEADER, "")
    signatures = tuple(headers.get(SIGNATURE_HEADER, "").split())
    if not MESSAGE_ID.fullmatch(message_id):
        raise WebhookRefusedError(f"The header {ID_HEADER} is missing or malformed.")
    if not TIMESTAMP.fullmatch(timestamp):
        raise WebhookRefusedError(
            f"The header {TIME_HEADER} must be a Unix time in whole seconds."
        )
    if not signatures:
        raise WebhookRefusedError(f"The header {SIGNATURE_HEADER} is missing.")
    return Delivery(message_id, timestamp, signatures[:MAX_SIGNATURES], body)


def require_genuine(call: Delivery, secret: str, now: datetime) -> None:
    """Verify the signature of *call* and its timestamp.

    Raises:
        WebhookRefusedError: The signature does not match, or the call is too old or too new.
    """
    wanted = signature(call.message_id, call.timestamp, call.body, secret)
    # All of them are compared, so that the duration does not reveal which one came close.
    fits = [hmac.compare_digest(given.encode(), wanted.encode()) for given in call.signatures]
    if not any(fits):
        raise WebhookRefusedError
    if abs(now.timestamp() - int(call.timestamp)) > TOLERANCE.total_seconds():
        raise WebhookRefusedError(
            f"Timestamp outside the tolerance: {TIME_HEADER} is more than 5 minutes off."
        )
