"""Signatures of webhook calls, as the Standard Webhooks specification has them. Pure.

A sender proves that it knows the secret by an HMAC (SHA-256) of the message's id, its time and its
body, joined by dots. The time bounds how long a call can be repeated, and the id is remembered for
longer than that.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.sync.errors import WebhookRefusedError

ID_HEADER = "webhook-id"
TIME_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

PREFIX = "whsec_"
SECRET_BYTES = 32
MESSAGE_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")
"""No dot: it divides the id from the time in what is signed."""
TIMESTAMP = re.compile(r"[0-9]{1,12}")
TOLERANCE = timedelta(minutes=5)
"""How far a call's time may be from ours."""

REMEMBERED = timedelta(hours=1)
"""How long ids are kept: longer than a call can be repeated, whatever the clocks say."""

MOST_SIGNATURES = 8
"""A sender that changes its secret signs with both; more are not looked at."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A call as it came."""

    message_id: str
    timestamp: str
    signatures: tuple[str, ...]
    body: bytes


def secret_text(random_bytes: bytes) -> str:
    """Return a secret as senders are given it."""
    return PREFIX + base64.b64encode(random_bytes).decode()


def delivery(headers: Mapping[str, str], body: bytes) -> Delivery:
    """Return what a call says of itself.

    Raises:
        WebhookRefusedError: A header is missing or malformed.
    """
    message_id = headers.get(ID_HEADER, "")
    timestamp = headers.get(TIME_HEADER, "")
    signatures = tuple(headers.get(SIGNATURE_HEADER, "").split())
    if not MESSAGE_ID.fullmatch(message_id):
        raise WebhookRefusedError(f"The header {ID_HEADER} is missing or malformed.")
    if not TIMESTAMP.fullmatch(timestamp):
        raise WebhookRefusedError(f"The header {TIME_HEADER} must be a time in whole seconds.")
    if not signatures:
        raise WebhookRefusedError(f"The header {SIGNATURE_HEADER} is missing.")
    return Delivery(message_id, timestamp, signatures[:MOST_SIGNATURES], body)


def require_genuine(call: Delivery, secret: str, now: datetime) -> None:
    """Check that the sender of *call* knows *secret*, and that it is not an old one.

    Raises:
        WebhookRefusedError: It does not, or it is.
    """
    wanted = signature(call.message_id, call.timestamp, call.body, secret)
    # All of them, so that the time it takes does not tell which one came close.
    fits = [hmac.compare_digest(given.encode(), wanted.encode()) for given in call.signatures]
    if not any(fits):
        raise WebhookRefusedError
    if abs(now.timestamp() - int(call.timestamp)) > TOLERANCE.total_seconds():
        raise WebhookRefusedError(f"The header {TIME_HEADER} is not of now.")


def signature(message_id: str, timestamp: str, body: bytes, secret: str) -> str:
    """Return what a sender that knows *secret* puts in the header."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
