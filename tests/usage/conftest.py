"""A real repository of usage records, and calls to put into it."""

import pytest

from packages.database.client import Database
from registry.core.clock import SystemClock
from registry.usage.batches import UsageBatch
from registry.usage.repository import UsageRepository
from registry.usage.values import CallFacts, CallMeasurements
from tests.conftest import ALICE

SERVER_ID = "d" * 24


FACTS = CallFacts(
    user_id=ALICE.user_id,
    username=ALICE.username,
    token_id=None,
    server_id=SERVER_ID,
    slug="demo",
    method="tools/call",
    target="echo",
    is_modern=False,
    outcome="ok",
    error_code=0,
    role="user",
    tenant_id=None,
    tool="echo",
    charge=None,
)


def call(**changes: object) -> tuple[CallFacts, CallMeasurements]:
    """Return a call that took 3 ms and ends now."""
    now = SystemClock().monotonic()
    measurements = CallMeasurements(
        began_at=now - 0.003,
        decided_at=now - 0.0025,
        head_at=now - 0.0005,
        ended_at=now,
        request_bytes=120,
        response_bytes=400,
        trace_id=None,
    )
    about = {name: changes.pop(name) for name in [*changes] if name in CallFacts._fields}
    return FACTS._replace(**about), measurements._replace(**changes)  # type: ignore[arg-type]  # tests name their members


def batch_of(*calls: tuple[CallFacts, CallMeasurements]) -> UsageBatch:
    """Return a batch of calls."""
    batch = UsageBatch()
    for facts, measurements in calls:
        batch.add(facts, measurements)
    return batch


@pytest.fixture
def usage_repository(database: Database) -> UsageRepository:
    """Return the real repository."""
    return UsageRepository(database)
