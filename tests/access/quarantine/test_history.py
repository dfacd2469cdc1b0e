"""What a quarantined tool reached, as records of calls tell it."""

from datetime import timedelta

import pytest

from packages.models.states import QuarantineKind
from registry.access.quarantine.history import RecordedCalls
from registry.access.quarantine.values import NewQuarantine
from registry.core.clock import SystemClock
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from tests.usage.conftest import SERVER_ID, batch_of, call
from tests.usage.conftest import usage_repository as usage_repository  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.wire


async def test_calls_of_a_tool_are_found_by_each_of_its_names_and_no_other(
    usage_repository: UsageRepository,
) -> None:
    clock = SystemClock()
    batch = batch_of(
        call(target="echo"),
        call(target="demo__echo", tool="echo"),
        call(target="say", tool="echo"),
        # As earlier releases recorded the combined server's name.
        call(target="demo__echo", tool=None),
        # Another tool of the same server, by its own name and on the combined server.
        call(target="to__echo", tool="to__echo"),
        call(target="demo__to__echo", tool="to__echo"),
        call(target="other__echo", tool=None),
    )
    packer = BatchPacker(worker="host:1", retention=timedelta(days=1))
    assert await usage_repository.insert(packer.document(batch, clock.now(), clock.monotonic()))
    asked = NewQuarantine(QuarantineKind.TOOL, SERVER_ID, "why", tool="echo")

    reached = await RecordedCalls(usage_repository, clock).reached(
        asked, clock.now() - timedelta(hours=1)
    )

    assert {group.tool: group.calls for group in reached.groups} == {"echo": 4}
