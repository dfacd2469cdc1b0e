"""The application of the servers' tests, and the parts of the audit trail by themselves."""

import pytest

from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.sealing import Sealer
from registry.audit.verification import AuditVerifier
from registry.core.clock import SystemClock
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture


@pytest.fixture
def sealer(audit_repository: AuditRepository, audit_keys: AuditKeys, clock: SystemClock) -> Sealer:
    """Return what seals new records."""
    return Sealer(audit_repository, audit_keys, clock=clock)


@pytest.fixture
def verifier(audit_repository: AuditRepository, audit_keys: AuditKeys) -> AuditVerifier:
    """Return what verifies the trail."""
    return AuditVerifier(audit_repository, audit_keys)
