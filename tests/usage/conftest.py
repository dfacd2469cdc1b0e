"""A real repository of usage records, and calls to put into it."""

import pytest

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.usage.repository import UsageRepository
from registry.usage.values import CallNote
from tests.conftest import ALICE

SERVER_ID = "d" * 24


def call(user: UserContext = ALICE, **changes: object) -> CallNote:
    """Return the note of a call that took 3 ms and ends now."""
    now = SystemClock().monotonic()
    note = CallNote(
        user=user,
        server_id=SERVER_ID,
        slug="demo",
        method="tools/call",
        target="echo",
        is_modern=False,
        began_at=now - 0.003,
        decided_at=now - 0.0025,
        head_at=now - 0.0005,
        ended_at=now,
        request_bytes=120,
        response_bytes=400,
        outcome="ok",
        error_code=0,
        trace_id=None,
    )
    return note._replace(**changes)  # type: ignore[arg-type]  # tests name its members


@pytest.fixture
def usage_repository(database: Database) -> UsageRepository:
    """Return the real repository."""
    return UsageRepository(database)
