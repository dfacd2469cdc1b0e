"""Keys, and an issuer and a verifier that trust each other."""

from pathlib import Path

import pytest

from registry.auth.jwt import TokenIssuer, TokenVerifier
from registry.auth.keys import SigningKeys, load_signing_keys
from tests.fakes.clock import FakeClock

ISSUER = "mcp-gateway-registry"
AUDIENCE = "mcp-gateway"
SHARED_SECRET = "a secret that jarvis-api shares"


@pytest.fixture(scope="session")
def keys(key_files: tuple[Path, Path]) -> SigningKeys:
    """Return a checked key pair."""
    return load_signing_keys(*key_files)


@pytest.fixture
def issuer(keys: SigningKeys, clock: FakeClock) -> TokenIssuer:
    """Return an issuer that tells the time by the test's clock."""
    return TokenIssuer(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock)


@pytest.fixture
def verifier(keys: SigningKeys) -> TokenVerifier:
    """Return a verifier of both kinds of tokens."""
    return TokenVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, shared_secret=SHARED_SECRET, leeway_seconds=10
    )
