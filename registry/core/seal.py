"""Texts that only this deployment can make and read: encrypted, with an expiry. Nothing is stored.

Format: base64url of nonce (12 bytes) and AES-256-GCM over (expiry, 4 bytes; content).
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
EXPIRY_BYTES = 4
MAX_SEALED_CHARACTERS = 8192


class Seal:
    """Seals and opens texts of one purpose.

    Args:
        keys: 32 bytes each, used for nothing else. The first seals, all open.
        purpose: Texts that were sealed for another purpose are not opened.
    """

    def __init__(self, keys: Sequence[bytes], purpose: str) -> None:
        self._sealers = [AESGCM(key) for key in keys]
        self._purpose = purpose.encode()

    def seal(self, content: bytes, expires_at: datetime) -> str:
        """Return *content* as a text that can be part of a URL."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        plain = int(expires_at.timestamp()).to_bytes(EXPIRY_BYTES, "big") + content
        return _text(nonce + self._sealers[0].encrypt(nonce, plain, self._purpose))

    def open(self, sealed: str, now: datetime) -> bytes | None:
        """Return the content; None if it was not sealed here, is modified, or has expired."""
        if len(sealed) > MAX_SEALED_CHARACTERS:
            return None
        try:
            raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        except (ValueError, binascii.Error):
            return None
        if _text(raw) != sealed:
            # Base64 has several spellings of the same bytes; only one is accepted.
            return None
        for sealer in self._sealers:
            with suppress(ValueError, InvalidTag):
                plain = sealer.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._purpose)
                expires_at = int.from_bytes(plain[:EXPIRY_BYTES], "big")
                return plain[EXPIRY_BYTES:] if expires_at > now.timestamp() else None
        return None


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
