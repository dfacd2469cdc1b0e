"""Users' tokens in one database, as replicas of the registry see them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from typing_extensions import override

from packages.database.client import Database
from packages.database.encryption import Cipher, FieldRef
from packages.database.errors import DatabaseUnavailable
from packages.models.states import FlowStatus
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock, SystemClock
from registry.core.metrics import Metrics
from registry.oauth.authorization_servers import AuthorizationServers
from registry.oauth.links import LinkSeal
from registry.oauth.renewal import Renewal
from registry.oauth.repository import OAuthClientRepository, OAuthFlowRepository
from registry.oauth.stored_tokens import OAuthTokenRepository, StoredAuthorization
from registry.oauth.tokens import UpstreamTokens
from registry.oauth.values import OAuthFlow, OAuthServer
from registry.tokens.repository import TokenRepository
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.http import oauth_http
from registry.upstream.oauth.metadata import OAuthDiscovery
from registry.upstream.oauth.registration import ClientRegistrar
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKind,
    OAuthClientIdentity,
    TokenRequest,
    Tokens,
)
from tests.fakes.oauth.token_endpoint import RotatingTokenEndpoint
from tests.kit.waiting import until

TOKEN_URL = "https://as.example.com/token"
REDIRECT_URI = "https://registry.example.com/api/v1/mcp/oauth/callback"


def server_named(name: str = "github", **oauth: Any) -> OAuthServer:
    """Return a server that was configured by hand, and registered an hour ago."""
    then = SystemClock().now() - timedelta(hours=1)
    config: dict[str, Any] = {
        "requiresOAuth": True,
        "oauth": {
            "authorization_url": "https://as.example.com/authorize",
            "token_url": TOKEN_URL,
            "client_id": "client",
            **oauth,
        },
    }
    return OAuthServer(
        str(ObjectId()), name, name, name.title(), "https://example.com/mcp", config, then, then
    )


class NoServers:
    """Implements `OAuthServers` for what needs nothing but the secret of a client."""

    async def usable(self, server_id: str, user: UserContext) -> OAuthServer:
        """Return nothing."""
        raise NotImplementedError

    async def unchecked(self, server_id: str) -> OAuthServer | None:
        """Return nothing."""
        del server_id
        return None

    async def all_unchecked(self) -> list[OAuthServer]:
        """Return nothing."""
        return []

    def client_secret(self, server: OAuthServer) -> str | None:
        """Return the secret of every client."""
        del server
        return "s3cret"


class FailingStore(OAuthTokenRepository):
    """Cannot store what refresh tokens were exchanged for, as often as a test likes.

    Attributes:
        failures: How many more times it fails.
        may_answer: Set while what was read is returned.
        was_read: Set once anything was read.
    """

    failures = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.was_read = asyncio.Event()
        self.storing = 0
        self.may_return = asyncio.Event()
        self.may_return.set()

    @override
    async def read(self, *given: Any) -> StoredAuthorization:
        found = await super().read(*given)
        self.was_read.set()
        await self.may_answer.wait()
        return found

    @override
    async def renew(self, *given: Any, claimed: Callable[[], None]) -> bool:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable
        self.storing += 1
        try:
            is_stored = await super().renew(*given, claimed=claimed)
            await self.may_return.wait()
            return is_stored
        finally:
            self.storing -= 1


@dataclass
class Replica:
    """What one process of the registry has."""

    tokens: UpstreamTokens
    stored: FailingStore
    flows: OAuthFlowRepository
    endpoint: RotatingTokenEndpoint
    background: BackgroundTasks
    metrics: Metrics
    clock: Clock

    def refreshes(self, outcome: str) -> float:
        """Return how many renewals had an outcome."""
        labels = {"outcome": outcome}
        return self.metrics.registry.get_sample_value("mcp_oauth_refreshes_total", labels) or 0


@dataclass
class OAuthStore:
    """A database, and replicas that use it."""

    database: Database
    cipher: Cipher
    build: Callable[..., Replica] = field(repr=False)
    replicas: list[Replica] = field(default_factory=list)

    def replica(
        self,
        endpoint: RotatingTokenEndpoint | None = None,
        *,
        clock: Clock | None = None,
        **changed: Any,
    ) -> Replica:
        """Return another replica."""
        used = endpoint or RotatingTokenEndpoint()
        replica = self.build(used, clock or SystemClock(), **changed)
        self.replicas.append(replica)
        return replica

    async def settled(self) -> None:
        """Wait until no replica stores what it renewed: those that call do not."""
        await until(lambda: not any(one.stored.storing for one in self.replicas))

    async def rows(self, **query: Any) -> list[dict[str, Any]]:
        """Return stored rows."""
        await self.settled()
        found = self.database.collection("tokens").find(query)
        return await found.to_list()

    async def jarvis_row(
        self,
        user: UserContext,
        stored_type: str,
        identifier: str,
        value: str,
        **changed: Any,
    ) -> ObjectId:
        """Store a row as jarvis-api does; return its id."""
        now = SystemClock().now()
        row: dict[str, Any] = {
            "userId": ObjectId(user.user_id),
            "type": stored_type,
            "identifier": identifier,
            "token": self.cipher.encrypt_shared(value),
            "createdAt": now,
            "expiresAt": now + timedelta(hours=1),
            "__v": 0,
            **changed,
        }
        result = await self.database.collection("tokens").insert_one(row)
        return ObjectId(result.inserted_id)

    def text(self, row: dict[str, Any]) -> str:
        """Return what a row holds."""
        return self.cipher.decrypt(row["token"], FieldRef("tokens", str(row["_id"]), "token"))


@pytest.fixture
async def store(
    database: Database, cipher: Cipher, audit_keys: AuditKeys
) -> AsyncIterator[OAuthStore]:
    """Return the stored tokens; the background work of replicas ends with the test."""
    guard = UrlGuard([])
    running: list[BackgroundTasks] = []
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            oauth_http(guard, connect_timeout_seconds=5, total_timeout_seconds=10)
        )

        def build(endpoint: RotatingTokenEndpoint, clock: Clock, **changed: Any) -> Replica:
            metrics, background = Metrics(), BackgroundTasks()
            running.append(background)
            reached = changed.pop("database", database)
            audit = AuditTrail(AuditRepository(reached, audit_keys), clock=clock, metrics=metrics)
            flows = OAuthFlowRepository(reached, cipher)
            stored = FailingStore(reached, TokenRepository(reached, cipher), flows, cipher, clock)
            servers = AuthorizationServers(
                NoServers(),
                OAuthDiscovery(http, guard),
                ClientRegistrar(http, keys=None),
                OAuthClientRepository(reached, cipher, clock),
                redirect_uri=REDIRECT_URI,
                metadata_url=None,
            )
            renewal = Renewal(
                stored, endpoint, servers, background, audit, clock=clock, metrics=metrics
            )
            links = LinkSeal([b"k" * 32], "https://registry.example.com", clock)
            tokens = UpstreamTokens(
                stored,
                flows,
                renewal,
                servers,
                endpoint,
                links,
                background,
                clock=clock,
                **{"sign": None, "issuer": "https://registry.example.com", **changed},
            )
            return Replica(tokens, stored, flows, endpoint, background, metrics, clock)

        yield OAuthStore(database, cipher, build)
        for background in running:
            await background.close()


def request_for(server: OAuthServer, **changed: Any) -> TokenRequest:
    """Return what a flow at *server* obtained tokens with."""
    authorization_server = AuthorizationServer(
        issuer=None,
        authorization_endpoint="https://as.example.com/authorize",
        token_endpoint=TOKEN_URL,
        document={"token_endpoint": TOKEN_URL},
    )
    client = OAuthClientIdentity(
        "client", ClientKind.PREREGISTERED, ClientAuthentication.CLIENT_SECRET_POST, "s3cret"
    )
    return replace(
        TokenRequest(authorization_server, client, server.url, ("read", "write")), **changed
    )


async def authorize(
    replica: Replica,
    user: UserContext,
    server: OAuthServer,
    tokens: Tokens | None = None,
    request: TokenRequest | None = None,
) -> None:
    """Store what a flow of *user* obtained."""
    flow_id = str(ObjectId())
    await replica.flows.insert(flow_of(user, server, flow_id))
    await replica.tokens.store(
        user,
        server,
        request or request_for(server),
        tokens or Tokens("a0", "r0", expires_in=3600),
        flow_id,
    )


def flow_of(
    user: UserContext,
    server: OAuthServer,
    flow_id: str,
    status: FlowStatus = FlowStatus.EXCHANGING,
    now: datetime | None = None,
) -> OAuthFlow:
    """Return a flow of *user* at *server*."""
    now = now or SystemClock().now()
    return OAuthFlow.model_validate(
        {
            "id": flow_id,
            "user_id": user.user_id,
            "username": user.username,
            "server_id": server.id,
            "server_name": server.name,
            "server_url": server.url,
            "configuration": "digest",
            "status": status,
            "created_at": now,
            "updated_at": now,
            "expires_at": now + timedelta(minutes=10),
        }
    )
