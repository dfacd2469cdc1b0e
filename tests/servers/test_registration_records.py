"""What operators see of a registration: events and counts."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from registry.auth.identity import UserContext
from registry.core.errors import RegistryError
from registry.servers.errors import DiscoveryFailedError
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from tests.fakes.discovery import FakeDiscovery

pytestmark = pytest.mark.wire

BODY = ServerCreate.model_validate(
    {"serverName": "weather", "url": "http://127.0.0.1:9999/mcp", "scope": "private_user"}
)


@pytest.mark.requirement("R-331")
async def test_a_registration_is_logged_from_its_attempt(
    servers: ServerService, alice: UserContext
) -> None:
    with capture_logs() as logs:
        server = await servers.register(BODY, alice, strict=False)

    facts = {"server_name": "weather", "user_id": alice.user_id, "log_level": "info"}
    assert logs == [
        {"event": "server_registration_attempt", "scope": "private_user", **facts},
        {"event": "server_registered", "server_id": server.id, "status": "active", **facts},
    ]


@pytest.mark.requirement("R-331")
async def test_a_failed_registration_is_logged_with_its_error(
    servers: ServerService, alice: UserContext, discovery: FakeDiscovery
) -> None:
    def refuse(_: object) -> Any:
        raise DiscoveryFailedError("Could not connect: connection refused.")

    discovery.answer = refuse

    with capture_logs() as logs, pytest.raises(RegistryError):
        await servers.register(BODY, alice, strict=True)

    assert [entry["event"] for entry in logs] == [
        "server_registration_attempt",
        "server_registration_failed",
    ]
    assert "connection refused" in logs[1]["error"]


@pytest.mark.requirement("R-330")
async def test_registrations_are_counted_by_outcome(
    servers: ServerService, alice: UserContext
) -> None:
    await servers.register(BODY, alice, strict=False)
    with pytest.raises(RegistryError):
        await servers.register(BODY, alice, strict=False)

    counter = servers._operations
    assert counter.labels("register", "success")._value.get() == 1
    assert counter.labels("register", "error")._value.get() == 1
