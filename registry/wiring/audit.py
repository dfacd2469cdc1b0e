"""Builds the audit trail's keys and verifier, and records key rotations."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.audit.chain import PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.sealing import Sealer
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.audit.verification import AuditVerifier
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.wiring.database import connected
from registry.wiring.keys import build_cipher


def build_audit_keys(cipher: Cipher) -> AuditKeys:
    """Return the keys of the audit trail's HMACs."""
    return AuditKeys(cipher.derive_keys(PURPOSE))


@asynccontextmanager
async def audit_verifier(settings: Settings) -> AsyncIterator[AuditVerifier]:
    """Connect to the database and yield the verifier of the audit trail.

    Raises:
        DatabaseUnavailable: MongoDB is not there.
    """
    async with connected(settings) as database:
        keys = build_audit_keys(build_cipher(settings))
        yield AuditVerifier(AuditRepository(database, keys), keys)


@asynccontextmanager
async def recorded_rotation(
    database: Database,
    cipher: Cipher,
    operator: UserContext,
    key_id: str,
    outstanding: Mapping[str, int],
) -> AsyncIterator[None]:
    """Record the start of a key rotation, and seal the audit trail with the new key afterwards.

    The last seal must be signed with an available key: otherwise it could not be verified once the
    former keys are removed.

    Args:
        database: Where the credentials are.
        cipher: Its current key is the one they will be under.
        operator: Who has it done.
        key_id: Fingerprint of that key.
        outstanding: How many values are under former keys, by collection.

    Raises:
        DatabaseUnavailable: It cannot be recorded, so it must not be done.
    """
    clock = SystemClock()
    keys = build_audit_keys(cipher)
    repository = AuditRepository(database, keys)
    if outstanding:
        trail = AuditTrail(repository, clock=clock, metrics=Metrics())
        facts: JsonObject = {"key_id": key_id, **outstanding}
        event = AuditEvent(AuditAction.ROTATE, EntityType.CREDENTIALS, changes={"after": facts})
        await trail.require(operator, event)
    yield
    await Sealer(repository, keys, clock=clock).seal_new(vouch=True)
