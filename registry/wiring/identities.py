"""Builds authentication."""

from dataclasses import dataclass

from packages.database.client import Database
from registry.auth.bearer import BearerAuthenticator
from registry.auth.jwt import TokenVerifier
from registry.auth.keys import SigningKeys
from registry.auth.repository import DirectoryRepository, RevocationRepository
from registry.auth.revocation import RevocationList
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Identities:
    """The parts of authentication."""

    verifier: TokenVerifier
    directory: DirectoryRepository
    revocations: RevocationList
    authenticator: BearerAuthenticator


async def build_identities(
    settings: Settings, keys: SigningKeys, database: Database, *, clock: Clock, metrics: Metrics
) -> Identities:
    """Return the parts of authentication, with revocations loaded.

    Raises:
        DatabaseUnavailable: It cannot be read.
    """
    verifier = build_verifier(settings, keys)
    directory = DirectoryRepository(database)
    revocations = RevocationList(RevocationRepository(database), clock)
    await revocations.load()
    authenticator = BearerAuthenticator(
        verifier,
        directory,
        revocations,
        clock=clock,
        metrics=metrics,
        user_cache_seconds=settings.user_cache_seconds,
        outage_seconds=settings.gateway_max_staleness_seconds,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    return Identities(verifier, directory, revocations, authenticator)


def build_verifier(settings: Settings, keys: SigningKeys) -> TokenVerifier:
    """Return the verifier of bearer tokens."""
    return TokenVerifier(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        shared_secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
