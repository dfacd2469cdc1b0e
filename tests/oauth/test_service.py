"""Flows whose authorization server does not answer."""

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from packages.database.client import Database
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import Role, UserContext
from registry.auth.values import DirectoryEntry
from registry.core.metrics import Metrics
from registry.core.seal import Seal
from registry.oauth.authorization_servers import AuthorizationServers
from registry.oauth.errors import AuthorizationFailedError
from registry.oauth.links import LinkSeal
from registry.oauth.service import AuthorizationService
from registry.oauth.values import OAuthServer
from registry.tokens.values import TokenRow
from registry.upstream.oauth.metadata import Discovered
from tests.oauth.conftest import NoServers, OAuthStore, server_named

pytestmark = pytest.mark.wire

BASE_URL = "https://registry.example.com"


class OneServer(NoServers):
    """Implements `OAuthServers` with one that everybody may use."""

    def __init__(self, server: OAuthServer) -> None:
        self._server = server

    @override
    async def usable(self, server_id: str, user: UserContext) -> OAuthServer:
        """Return it."""
        return self._server


class HangingServers(AuthorizationServers):
    """Authorization servers that never answer."""

    redirect_uri = f"{BASE_URL}/callback"

    def __init__(self) -> None:
        pass

    @override
    async def discover(self, *given: object, **named: object) -> Discovered:
        await asyncio.Event().wait()
        raise AssertionError


class Nobody:
    """Reads no users, and is told of authorizations."""

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return none."""
        del user_id
        return None

    def authorized(self, user: UserContext, server: OAuthServer) -> None:
        """Note nothing."""

    def removed(self, server_id: str, rows: Sequence[TokenRow]) -> None:
        """Revoke nothing."""


async def test_the_button_says_when_an_authorization_server_does_not_answer(
    store: OAuthStore, database: Database, audit_keys: AuditKeys
) -> None:
    replica, server, metrics = store.replica(), server_named(), Metrics()
    audit = AuditTrail(AuditRepository(database, audit_keys), clock=replica.clock, metrics=metrics)
    service = AuthorizationService(
        replica.flows,
        OneServer(server),
        Nobody(),
        HangingServers(),
        replica.endpoint,
        replica.tokens,
        links=LinkSeal([b"k" * 32], BASE_URL, replica.clock),
        state_seal=Seal([b"k" * 32], "state"),
        listener=Nobody(),
        removals=Nobody(),
        audit=audit,
        base_url=BASE_URL,
        metadata={},
        clock=replica.clock,
        metrics=metrics,
        begin_seconds=0.05,
    )
    robot = UserContext("a" * 24, "robot", Role.USER, frozenset(), is_service_account=True)
    link = await service.initiate(server.id, robot)

    async with asyncio.timeout(30):
        with pytest.raises(AuthorizationFailedError, match="did not answer within"):
            await service.begin(link.url.partition("ticket=")[2])

    assert (await service.status(link.flow_id, robot)).status == "pending"
