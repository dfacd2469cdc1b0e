"""Seal upstream session ids into ids that only their owner can use, so that none is stored.

Format: base64url of nonce (12 bytes) and AES-256-GCM over (expiry, 4 bytes; upstream id). The
principal and the server are authenticated but not contained: under another caller's name, or at
another server, a sealed id simply does not open.
"""

import base64
import binascii
import secrets
from datetime import timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.core.clock import Clock
from registry.gateway.errors import SessionUnknown

NONCE_BYTES = 12
EXPIRY_BYTES = 4
MAX_SEALED_CHARACTERS = 4096
"""Longer ones are refused unread: upstream ids are well under 1,000 characters."""

DOMAIN = b"mcp-session-id/1"


class SessionSeal:
    """Seals and opens session ids.

    Args:
        key: 32 bytes used for nothing else.
        lifetime: How long a sealed id stays valid.
    """

    def __init__(self, key: bytes, *, lifetime: timedelta, clock: Clock) -> None:
        self._cipher = AESGCM(key)
        self._lifetime_seconds = int(lifetime.total_seconds())
        self._clock = clock

    def seal(self, upstream_id: str, *, principal: str, server_id: str) -> str:
        """Return the id that *principal* may use at *server_id* for *upstream_id*."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        expires_at = int(self._clock.now().timestamp()) + self._lifetime_seconds
        plain = expires_at.to_bytes(EXPIRY_BYTES, "big") + upstream_id.encode()
        sealed = self._cipher.encrypt(nonce, plain, _bound_to(principal, server_id))
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, sealed_id: str, *, principal: str, server_id: str) -> str:
        """Return the upstream's id inside *sealed_id*.

        Raises:
            SessionUnknown: It is not ours, was changed, has expired, or is another's.
        """
        if len(sealed_id) > MAX_SEALED_CHARACTERS:
            raise SessionUnknown
        try:
            raw = base64.urlsafe_b64decode(sealed_id + "=" * (-len(sealed_id) % 4))
            plain = self._cipher.decrypt(
                raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound_to(principal, server_id)
            )
        except (ValueError, binascii.Error, InvalidTag):
            raise SessionUnknown from None
        if int.from_bytes(plain[:EXPIRY_BYTES], "big") <= self._clock.now().timestamp():
            raise SessionUnknown
        return plain[EXPIRY_BYTES:].decode()


def _bound_to(principal: str, server_id: str) -> bytes:
    return b"\0".join((DOMAIN, server_id.encode(), principal.encode()))
