"""Signatures of webhook messages according to the Standard Webhooks specification. Pure.

A signature is an HMAC-SHA256 of message id, timestamp and body, joined by dots.
"""

import base64
import binascii
import hashlib
import hmac

ID_HEADER = "webhook-id"
TIME_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

PREFIX = "whsec_"
SECRET_LENGTHS = range(24, 65)
"""Bytes of a secret, which follow the prefix in base64."""


def secret_text(random_bytes: bytes) -> str:
    """Return a secret in the form that senders and receivers get."""
    return PREFIX + base64.b64encode(random_bytes).decode()


def is_secret(text: str) -> bool:
    """Whether *text* is a secret as the specification demands."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return False
    return text.startswith(PREFIX) and len(secret) in SECRET_LENGTHS


def signature(message_id: str, timestamp: str, body: bytes, secret: str) -> str:
    """Return the header value that a sender with *secret* sends."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
