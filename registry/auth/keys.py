"""The RSA key pair that signs our own tokens, and its published form (RFC 7517)."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

MINIMUM_KEY_BITS = 2048
"""Minimum size of an RSA key for signatures (RFC 7518, 3.3)."""


class KeyPairError(Exception):
    """The key files cannot be used.

    Attributes:
        problems: One sentence for each problem, safe to print.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """A checked key pair.

    Attributes:
        kid: RFC 7638 thumbprint of the public key.
        private_key: The private key; reading its PEM text again would check the primes again.
        private_pem: PEM text of the private key.
        public_pem: PEM text of the public key.
        jwk: The public key as a JSON Web Key.
    """

    kid: str
    private_key: RSAPrivateKey = field(repr=False, compare=False)
    private_pem: str = field(repr=False)
    public_pem: str
    jwk: dict[str, str]


def load_signing_keys(private_file: Path, public_file: Path) -> SigningKeys:
    """Read and check both PEM files.

    Raises:
        KeyPairError: A file is unreadable or holds no RSA key, the key is too short, or the two
            do not belong together.
    """
    problems: list[str] = []
    private = public = None
    try:
        private = _private_key(private_file)
    except KeyPairError as exc:
        problems += exc.problems
    try:
        public = _public_key(public_file)
    except KeyPairError as exc:
        problems += exc.problems
    if private is None or public is None:
        raise KeyPairError(*problems)
    if private.public_key().public_numbers() != public.public_numbers():
        message = (
            f"JWT_PRIVATE_KEY_FILE and JWT_PUBLIC_KEY_FILE: {private_file} and {public_file} "
            "are not one key pair"
        )
        raise KeyPairError(message)
    if private.key_size < MINIMUM_KEY_BITS:
        message = f"JWT_PRIVATE_KEY_FILE: needs at least {MINIMUM_KEY_BITS} bits"
        raise KeyPairError(message)
    jwk = _jwk(public)
    return SigningKeys(
        kid=jwk["kid"],
        private_key=private,
        private_pem=private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        public_pem=public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        jwk=jwk,
    )


def _private_key(path: Path) -> RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path, "JWT_PRIVATE_KEY_FILE"), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        message = f"JWT_PRIVATE_KEY_FILE: {path} holds no unencrypted RSA private key in PEM form"
        raise KeyPairError(message)
    return key


def _public_key(path: Path) -> RSAPublicKey:
    try:
        key = serialization.load_pem_public_key(_read(path, "JWT_PUBLIC_KEY_FILE"))
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey):
        message = f"JWT_PUBLIC_KEY_FILE: {path} holds no RSA public key in PEM form"
        raise KeyPairError(message)
    return key


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        message = f"{setting}: cannot read {path} ({exc.strerror})"
        raise KeyPairError(message) from None


def _jwk(public: RSAPublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    members = {"e": _base64url_int(numbers.e), "kty": "RSA", "n": _base64url_int(numbers.n)}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    return {**members, "alg": "RS256", "use": "sig", "kid": _base64url(digest)}


def _base64url_int(value: int) -> str:
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
