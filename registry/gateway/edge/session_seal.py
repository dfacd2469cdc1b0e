"""Session seal: encrypts upstream session ids so that only their owner can use them.

Nothing is stored. Format: base64url of nonce (12 bytes) and AES-256-GCM over (expiry, 4 bytes;
upstream id). Principal and server are authenticated but not contained: for another caller, or at
another server, decryption fails.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.core.clock import Clock
from registry.gateway.errors import SessionUnknown

NONCE_BYTES = 12
EXPIRY_BYTES = 4
MAX_SEALED_CHARACTERS = 4096
"""Longer ids are refused without decryption: upstream ids are well under 1,000 characters."""

REMEMBERED = 2_000
"""Maximum number of cached ids, 0.6 kB each: decrypting one takes 6 us, a look-up less than one.
Most sessions are never ended by their client, so most entries are of sessions that are over."""

MAX_ENDED = 50_000
"""Maximum number of ended sessions, 0.15 kB each; the oldest are dropped first."""

NAME_CHARACTERS = 32
HEXADECIMAL = frozenset("0123456789abcdef")

DOMAIN = b"mcp-session-id/1"


class SessionSeal:
    """Seals and opens session ids.

    Args:
        keys: 32 bytes each, used for nothing else. The first seals, all open: while the key is
            changed, replicas seal with different ones.
        lifetime: How long a sealed id stays valid.
    """

    def __init__(self, keys: Sequence[bytes], *, lifetime: timedelta, clock: Clock) -> None:
        self._sealers = [AESGCM(key) for key in keys]
        self._lifetime_seconds = int(lifetime.total_seconds())
        self._clock = clock
        self._opened: dict[tuple[str, str, str], tuple[str, float]] = {}
        # Cached ids, by the digest of the sealed id.
        self._opened_from: dict[bytes, tuple[str, str, str]] = {}
        self._ended: dict[bytes, None] = {}

    def seal(self, upstream_id: str, *, principal: str, server_id: str) -> str:
        """Return the id that *principal* may use at *server_id* for *upstream_id*."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        expires_at = int(self._clock.now().timestamp()) + self._lifetime_seconds
        plain = expires_at.to_bytes(EXPIRY_BYTES, "big") + upstream_id.encode()
        sealed = self._sealers[0].encrypt(nonce, plain, _bound_to(principal, server_id))
        return _text(nonce + sealed)

    def open(self, sealed_id: str, *, principal: str, server_id: str) -> str:
        """Return the upstream's id inside *sealed_id*.

        Raises:
            SessionUnknown: The id was not issued here, is modified, expired, or another caller's.
        """
        key = (sealed_id, principal, server_id)
        now = self._clock.monotonic()
        remembered = self._opened.get(key)
        if remembered is None:
            upstream_id, seconds_left = self._decrypt(sealed_id, principal, server_id)
            digest = _digest(sealed_id)
            if digest in self._ended:
                raise SessionUnknown
            if len(self._opened) >= REMEMBERED:
                self._opened.clear()
                self._opened_from.clear()
            self._opened_from[digest] = key
            remembered = self._opened[key] = (upstream_id, now + seconds_left)
        if remembered[1] <= now:
            del self._opened[key]
            self._opened_from.pop(_digest(sealed_id), None)
            raise SessionUnknown
        return remembered[0]

    def end(self, sealed_id: str) -> str:
        """Reject *sealed_id* from now on; return the argument for `end_named` in other workers."""
        name = session_name(sealed_id)
        self.end_named(name)
        return name

    def end_named(self, name: str) -> None:
        """Apply the `end` of the worker that returned *name*."""
        digest = bytes.fromhex(name)
        key = self._opened_from.pop(digest, None)
        if key is not None:
            self._opened.pop(key, None)
        if len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[digest] = None

    def _decrypt(self, sealed_id: str, principal: str, server_id: str) -> tuple[str, float]:
        if len(sealed_id) > MAX_SEALED_CHARACTERS:
            raise SessionUnknown
        try:
            raw = base64.urlsafe_b64decode(sealed_id + "=" * (-len(sealed_id) % 4))
        except (ValueError, binascii.Error):
            raise SessionUnknown from None
        plain = self._opened_by_any(raw, _bound_to(principal, server_id))
        if plain is None or _text(raw) != sealed_id:
            # Base64 has several spellings of the same bytes; only one is accepted.
            raise SessionUnknown
        expires_at = int.from_bytes(plain[:EXPIRY_BYTES], "big")
        return plain[EXPIRY_BYTES:].decode(), expires_at - self._clock.now().timestamp()

    def _opened_by_any(self, raw: bytes, bound_to: bytes) -> bytes | None:
        for sealer in self._sealers:
            with suppress(ValueError, InvalidTag):
                return sealer.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound_to)
        return None


def session_name(sealed_id: str) -> str:
    """Return what a session is called between workers."""
    return _digest(sealed_id).hex()


def is_session_name(text: str) -> bool:
    """Whether *text* may be a name that `SessionSeal.end` returned."""
    return len(text) == NAME_CHARACTERS and not set(text) - HEXADECIMAL


def _digest(sealed_id: str) -> bytes:
    return hashlib.sha256(sealed_id.encode()).digest()[:16]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bound_to(principal: str, server_id: str) -> bytes:
    return b"\0".join((DOMAIN, server_id.encode(), principal.encode()))
