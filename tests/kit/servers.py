"""What reads servers, stores the results and offers them, on a database and fake upstreams."""

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.core.clock import Clock, SystemClock
from registry.core.metrics import Metrics
from registry.oauth.ports import AccessTokens
from registry.servers.credentials import CredentialVault
from registry.servers.ports import Discovery, ServerChanges
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.reconciliation.store import ServerRepositories, ServerStore
from registry.servers.service import ServerService
from tests.fakes.connections import quiet_tracker
from tests.fakes.discovery import RecordedChanges


def read_and_store(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    discovery: Discovery,
    *,
    clock: Clock | None = None,
    changes: ServerChanges | None = None,
    failures_until_error: int = 3,
    tokens: AccessTokens | None = None,
) -> ReadAndStore:
    """Return the operation that reads a server and stores the result."""
    clock = clock or SystemClock()
    return ReadAndStore(
        ServerReader(
            CredentialVault(cipher),
            discovery,
            repositories.plugin_auths,
            repositories.servers,
            clock,
            tokens,
        ),
        ServerStore(database, repositories, clock, failures_until_error=failures_until_error),
        changes or RecordedChanges(),
        quiet_tracker(),
    )


def server_service(
    repositories: ServerRepositories,
    cipher: Cipher,
    upstreams: ReadAndStore,
    *,
    clock: Clock | None = None,
) -> ServerService:
    """Return the service of servers."""
    return ServerService(
        repositories,
        CredentialVault(cipher),
        upstreams,
        clock=clock or SystemClock(),
        metrics=Metrics(),
        admin_sees_private=True,
    )
