"""Encryption of stored credentials: three forms shared with jarvis-api, and our own sealed form.

    v1   AES-256-CBC, fixed IV   <ciphertext>                       written for pluginauths
    v2   AES-256-CBC, random IV  <iv>:<ciphertext>                  written for shared documents
    v3   AES-256-CTR             v3:<iv>:<ciphertext>               read only
    gcm  AES-256-GCM             gcm:<key id>:<nonce>:<ciphertext>  written for our own documents

All parts are hexadecimal. Only gcm detects every change and is bound to its place. CBC has no
integrity: padding and UTF-8 are checked strictly, which refuses a wrong key with a chance of
failure below one in a million, but a changed ciphertext may still decrypt to other text. CTR is
checked for UTF-8 alone.

Encrypting never looks at what the text resembles: `user:pass`, or text that looks like a
ciphertext, is encrypted like any other. The caller knows from the place whether a value is stored
or new. Knows no settings: keys are passed in.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7
from typing_extensions import override

KEY_BYTES = 32
BLOCK_BYTES = 16
BLOCK_BITS = 8 * BLOCK_BYTES
NONCE_BYTES = 12
KEY_ID_CHARACTERS = 8

V1 = re.compile(r"(?:[0-9a-f]{32})+", re.IGNORECASE)
V2 = re.compile(r"([0-9a-f]{32}):((?:[0-9a-f]{32})+)", re.IGNORECASE)
V3 = re.compile(r"v3:([0-9a-f]{32}):((?:[0-9a-f]{2})*)", re.IGNORECASE)
GCM = re.compile(r"gcm:([0-9a-f]{8}):([0-9a-f]{24}):([0-9a-f]{32}(?:[0-9a-f]{2})*)")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class StoredForm(StrEnum):
    """Format of a stored credential."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    GCM = "gcm"


_PATTERNS = {
    StoredForm.V1: V1,
    StoredForm.V2: V2,
    StoredForm.V3: V3,
    StoredForm.GCM: GCM,
}


@dataclass(frozen=True, slots=True)
class FieldRef:
    """Where a credential is stored. Errors name it, and a sealed value is bound to it.

    Attributes:
        collection: Name of the collection; holds no slash.
        document_id: Text of the document's id; holds no slash.
        field: Dotted path of the field in the document.
    """

    collection: str
    document_id: str
    field: str

    def __post_init__(self) -> None:
        # With a slash in these parts, two different places could have the same text.
        if "/" in self.collection or "/" in self.document_id:
            msg = "A collection name or document id must not contain a slash."
            raise ValueError(msg)

    @override
    def __str__(self) -> str:
        return f"{self.collection}/{self.document_id}/{self.field}"


class KeyFormatError(ValueError):
    """A key has the wrong length or is not hexadecimal. *name* says which key."""

    def __init__(self, name: str, characters: int) -> None:
        super().__init__(
            f"{name}: must be {characters} hexadecimal characters ({characters // 2} bytes)"
        )
        self.name = name


class UnencodableTextError(ValueError):
    """The text contains half of a surrogate pair, which UTF-8 cannot encode."""

    def __init__(self) -> None:
        super().__init__("The text to encrypt is not valid Unicode.")


class UnreadableReason(StrEnum):
    """Why a stored value could not be decrypted."""

    UNKNOWN_FORM = "it has no known format"
    NOT_SEALED = "it is not sealed, and only sealed values are accepted here"
    UNKNOWN_KEY = "it was sealed with a key that is not configured"
    UNREADABLE = "CREDS_KEY is not the right key, or the value is damaged"


class DecryptionError(Exception):
    """A stored value cannot be read. The message names its place, never the value or a key.

    Attributes:
        ref: The document and field.
        reason: What is wrong with the value.
    """

    def __init__(self, ref: FieldRef, reason: UnreadableReason) -> None:
        super().__init__(
            f"Cannot decrypt {ref.field} of document {ref.document_id} in {ref.collection}: "
            f"{reason.value}."
        )
        self.ref = ref
        self.reason = reason


def stored_form(value: str) -> StoredForm | None:
    """Return the format of *value*, or None.

    Only the syntax is checked. Plaintext can look like any format, so never use this to decide
    whether a value still has to be encrypted.
    """
    return next((form for form, pattern in _PATTERNS.items() if pattern.fullmatch(value)), None)


class Cipher:
    """Encrypts and decrypts credentials with one key, and reads those of further keys.

    The fixed IV belongs to the form v1, is no secret and does not change in a rotation.

    Args:
        creds_key: 64 hexadecimal characters.
        creds_iv: 32 hexadecimal characters.
        previous_keys: Earlier values of *creds_key*, newest first, and the next one while it is
            being brought to all replicas: read, never written with.

    Raises:
        KeyFormatError: A key or the IV has another shape.
    """

    __slots__ = ("_iv", "_keys", "_sealers")

    def __init__(
        self, creds_key: str, creds_iv: str, *, previous_keys: Sequence[str] = ()
    ) -> None:
        keys = [
            _from_hex("CREDS_KEY", creds_key, KEY_BYTES),
            *(_from_hex("previous CREDS_KEY", key, KEY_BYTES) for key in previous_keys),
        ]
        self._keys = list(dict.fromkeys(keys))
        self._iv = _from_hex("CREDS_IV", creds_iv, BLOCK_BYTES)
        self._sealers = {_key_id(key): AESGCM(_derived(key, "gcm")) for key in self._keys}

    @property
    def key_id(self) -> str:
        """Return the fingerprint of the key that new values are sealed with."""
        return _key_id(self._keys[0])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Return the fingerprints of all keys, that of the key for new values first."""
        return tuple(map(_key_id, self._keys))

    def encrypt_fixed_iv(self, text: str) -> str:
        """Return *text* in form v1. For `pluginauths`, whose reader supports no other form.

        Equal texts give equal results.

        Raises:
            UnencodableTextError: *text* holds half of a surrogate pair.
        """
        return self._encrypted_cbc(text, self._iv).hex()

    def encrypt_shared(self, text: str) -> str:
        """Return *text* in form v2, for the collections that jarvis-api reads.

        Raises:
            UnencodableTextError: *text* holds half of a surrogate pair.
        """
        iv = secrets.token_bytes(BLOCK_BYTES)
        return f"{iv.hex()}:{self._encrypted_cbc(text, iv).hex()}"

    def seal(self, text: str, ref: FieldRef) -> str:
        """Return *text* in form gcm, readable only at *ref*.

        Raises:
            UnencodableTextError: *text* holds half of a surrogate pair.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._sealers[self.key_id].encrypt(nonce, _encoded(text), str(ref).encode())
        return f"gcm:{self.key_id}:{nonce.hex()}:{sealed.hex()}"

    def unseal(self, stored: str, ref: FieldRef) -> str:
        """Return the text of a value sealed for *ref*. Right for our own collections.

        Other forms are refused, so that a sealed value cannot be replaced by an unbound one.

        Raises:
            DecryptionError: *stored* is not sealed, is sealed for another place or with an
                unknown key, or was changed.
        """
        match = GCM.fullmatch(stored)
        if match is None:
            raise DecryptionError(ref, UnreadableReason.NOT_SEALED)
        sealer = self._sealers.get(match[1])
        if sealer is None:
            raise DecryptionError(ref, UnreadableReason.UNKNOWN_KEY)
        text = _opened(sealer, bytes.fromhex(match[2]), bytes.fromhex(match[3]), ref)
        return _require_text(text, ref)

    def decrypt(self, stored: str, ref: FieldRef) -> str:
        """Return the text of a value in any form. Right for the shared collections.

        Raises:
            DecryptionError: *stored* has no known form, its key is not ours, or it was changed
                in a way that its form can show.
        """
        form = stored_form(stored)
        if form is None:
            raise DecryptionError(ref, UnreadableReason.UNKNOWN_FORM)
        if form is StoredForm.GCM:
            return self.unseal(stored, ref)
        candidates = (_decrypted(form, stored, key, self._iv) for key in self._keys)
        return _require_text(next((text for text in candidates if text is not None), None), ref)

    def readings(self, stored: str, ref: FieldRef) -> dict[str, str]:
        """Return the text that each key decrypts a value of any form to, by key fingerprint.

        Nearly always there is one. CBC and CTR have no integrity, so by a small chance a second
        key decrypts the value to another text; `decrypt` returns that of the first key.

        Raises:
            DecryptionError: No key opens it, as in `decrypt`.
        """
        form = stored_form(stored)
        if form is None:
            raise DecryptionError(ref, UnreadableReason.UNKNOWN_FORM)
        if form is StoredForm.GCM:
            return {stored.split(":")[1]: self.unseal(stored, ref)}
        found = {
            _key_id(key): text
            for key in self._keys
            if (text := _decrypted(form, stored, key, self._iv)) is not None
        }
        if not found:
            raise DecryptionError(ref, UnreadableReason.UNREADABLE)
        return found

    def derive_keys(self, purpose: str) -> dict[str, bytes]:
        """Return 32 bytes for *purpose* alone for each readable key, by key id, the current first.

        They are always the same for the same key. Knowing them reveals nothing about the key or
        about other purposes (HKDF-SHA256, RFC 5869).
        """
        return {_key_id(key): _derived(key, purpose) for key in self._keys}

    def _encrypted_cbc(self, text: str, iv: bytes) -> bytes:
        padder = PKCS7(BLOCK_BITS).padder()
        padded = padder.update(_encoded(text)) + padder.finalize()
        encryptor = BlockCipher(AES(self._keys[0]), CBC(iv)).encryptor()
        return encryptor.update(padded) + encryptor.finalize()


def _decrypted(form: StoredForm, stored: str, key: bytes, fixed_iv: bytes) -> str | None:
    match form:
        case StoredForm.V1:
            return _decrypted_cbc(key, fixed_iv, bytes.fromhex(stored))
        case StoredForm.V2:
            iv, _, ciphertext = stored.partition(":")
            return _decrypted_cbc(key, bytes.fromhex(iv), bytes.fromhex(ciphertext))
        case StoredForm.V3:
            _, iv, ciphertext = stored.split(":")
            decryptor = BlockCipher(AES(key), CTR(bytes.fromhex(iv))).decryptor()
            return _decoded(decryptor.update(bytes.fromhex(ciphertext)) + decryptor.finalize())
        case StoredForm.GCM:
            return None
        case _:
            assert_never(form)


def _decrypted_cbc(key: bytes, iv: bytes, ciphertext: bytes) -> str | None:
    decryptor = BlockCipher(AES(key), CBC(iv)).decryptor()
    unpadder = PKCS7(BLOCK_BITS).unpadder()
    try:
        padded = decryptor.update(ciphertext) + decryptor.finalize()
        return _decoded(unpadder.update(padded) + unpadder.finalize())
    except ValueError:
        return None


def _opened(sealer: AESGCM, nonce: bytes, sealed: bytes, ref: FieldRef) -> str | None:
    try:
        return _decoded(sealer.decrypt(nonce, sealed, str(ref).encode()))
    except InvalidTag:
        return None


def _require_text(text: str | None, ref: FieldRef) -> str:
    # Raised here and not where it failed: the original exception would hold decrypted bytes.
    if text is None:
        raise DecryptionError(ref, UnreadableReason.UNREADABLE)
    return text


def _encoded(text: str) -> bytes:
    # Checked beforehand: the codec's own error would hold the whole text.
    if LONE_SURROGATE.search(text):
        raise UnencodableTextError
    return text.encode()


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _from_hex(name: str, value: str, size: int) -> bytes:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", value):
        raise KeyFormatError(name, 2 * size)
    return bytes.fromhex(value)


def _derived(key: bytes, purpose: str) -> bytes:
    info = f"mcp-gateway-registry/{purpose}".encode()
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(key)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"mcp-gateway-registry/key-id" + key).hexdigest()[:KEY_ID_CHARACTERS]
