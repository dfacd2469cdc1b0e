"""Key files: one clear sentence for each that cannot be used."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from registry.auth.keys import KeyPairError, load_signing_keys
from tests.fakes.keys import write_key_pair

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture(scope="session")
def other_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key_pair(tmp_path_factory.mktemp("other"))


def problem(private: Path, public: Path) -> str:
    with pytest.raises(KeyPairError) as caught:
        load_signing_keys(private, public)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_published_key_is_named_by_its_thumbprint(key_files: tuple[Path, Path]) -> None:
    keys = load_signing_keys(*key_files)

    members = {name: keys.jwk[name] for name in ("e", "kty", "n")}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    assert keys.kid == keys.jwk["kid"] == thumbprint
    assert set(keys.jwk) == {"e", "n", "kty", "alg", "use", "kid"}


@pytest.mark.requirement("R-306")
def test_the_private_key_does_not_show(key_files: tuple[Path, Path]) -> None:
    assert "PRIVATE KEY" not in repr(load_signing_keys(*key_files))


def test_two_keys_that_do_not_belong_together_are_refused(
    key_files: tuple[Path, Path], other_pair: tuple[Path, Path]
) -> None:
    private, public = key_files[0], other_pair[1]

    assert problem(private, public) == (
        f"JWT_PRIVATE_KEY_FILE and JWT_PUBLIC_KEY_FILE: {private} and {public} "
        "are not one key pair"
    )


def test_a_missing_file_is_named(key_files: tuple[Path, Path], tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"

    assert problem(absent, key_files[1]) == (
        f"JWT_PRIVATE_KEY_FILE: cannot read {absent} (No such file or directory)"
    )
    assert problem(key_files[0], absent) == (
        f"JWT_PUBLIC_KEY_FILE: cannot read {absent} (No such file or directory)"
    )


def test_a_folder_is_no_key_file(key_files: tuple[Path, Path], tmp_path: Path) -> None:
    assert problem(tmp_path, key_files[1]).endswith("(Is a directory)")


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path, bits=1024)

    assert problem(private, public) == "JWT_PRIVATE_KEY_FILE: needs at least 2048 bits"


def test_an_encrypted_key_is_refused(key_files: tuple[Path, Path], tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    file = tmp_path / "locked.pem"
    file.write_bytes(key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")))

    assert problem(file, key_files[1]).endswith("holds no unencrypted RSA private key in PEM form")


def test_a_key_of_another_kind_is_refused(key_files: tuple[Path, Path], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    assert problem(private, key_files[1]).endswith(
        "holds no unencrypted RSA private key in PEM form"
    )
    assert problem(key_files[0], public).endswith("holds no RSA public key in PEM form")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"\x00\xff", b"-----BEGIN PUBLIC KEY-----"]
)
def test_anything_else_is_no_key(
    key_files: tuple[Path, Path], tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)

    assert "holds no unencrypted RSA private key" in problem(file, key_files[1])
    assert "holds no RSA public key" in problem(key_files[0], file)


def test_swapped_files_are_refused(key_files: tuple[Path, Path]) -> None:
    private, public = key_files

    assert "JWT_PRIVATE_KEY_FILE" in problem(public, private)
