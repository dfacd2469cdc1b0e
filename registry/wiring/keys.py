"""Builds cipher, signing keys and token issuer from the settings."""

from packages.database.encryption import Cipher
from registry.auth.jwt import TokenIssuer
from registry.auth.keys import SigningKeys, load_signing_keys
from registry.core.clock import Clock
from registry.core.settings import Settings


def build_cipher(settings: Settings) -> Cipher:
    """Return the cipher for stored credentials."""
    return Cipher(
        settings.creds_key.get_secret_value(),
        settings.creds_iv.get_secret_value(),
        previous_keys=[key.get_secret_value() for key in settings.creds_keys_readable],
    )


def build_keys(settings: Settings) -> SigningKeys:
    """Return the checked key pair.

    Raises:
        KeyPairError: The files cannot be used.
    """
    return load_signing_keys(settings.jwt_private_key_file, settings.jwt_public_key_file)


def build_issuer(settings: Settings, keys: SigningKeys, clock: Clock) -> TokenIssuer:
    """Return the issuer of our own tokens."""
    return TokenIssuer(
        keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, clock=clock
    )
