"""Builds what reads upstream servers, and what stores the results."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from registry.catalog.links import CatalogLinks
from registry.catalog.repository import CatalogRepository
from registry.connections.tracker import ConnectionTracker
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.oauth.ports import AccessTokens, RemovalListener
from registry.servers.credentials import CredentialVault
from registry.servers.ports import ServerChanges
from registry.servers.reconciliation.read_and_store import ReadAndStore
from registry.servers.reconciliation.reader import ServerReader
from registry.servers.reconciliation.store import ServerStore
from registry.sync.discovery import DiscoveryService
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from registry.wiring.storage import Storage


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The parts that read upstream servers and store the results.

    Attributes:
        guard: Says which addresses may be contacted.
        vault: Opens the credentials they are read with.
        discovery: Asks one what it has.
        reader: Does so with the credentials that are stored for it.
        store: Writes the results. One for the process, so that it writes one large set at a time.
        instance: Recognises what comes back to this deployment.
    """

    guard: UrlGuard
    vault: CredentialVault
    discovery: DiscoveryService
    reader: ServerReader
    store: ServerStore
    instance: Instance

    def with_tokens(self, tokens: AccessTokens) -> "Upstreams":
        """Return these parts with a reader that uses users' access tokens."""
        return replace(self, reader=self.reader.with_tokens(tokens))

    def reporting_to(
        self,
        changes: ServerChanges,
        connections: ConnectionTracker,
        removals: RemovalListener | None = None,
    ) -> ReadAndStore:
        """Return the operation that reads a server, stores the result and reports it."""
        return ReadAndStore(self.reader, self.store, changes, connections, removals)


def build_upstreams(
    settings: Settings,
    storage: Storage,
    *,
    clock: Clock,
    metrics: Metrics,
    freed: Callable[[int], None] = lambda _: None,
) -> Upstreams:
    """Return these parts; nothing is contacted yet."""
    vault = CredentialVault(storage.cipher)
    guard = UrlGuard(settings.upstream_allowed_networks)
    instance = Instance.of(list(storage.cipher.derive_keys("gateway-instance").values()))
    discovery = DiscoveryService(
        guard, instance, settings=settings, clock=clock, metrics=metrics, freed=freed
    )
    repositories = storage.repositories
    reader = ServerReader(vault, discovery, repositories.plugin_auths, repositories.servers, clock)
    store = ServerStore(
        storage.database,
        storage.repositories,
        clock,
        failures_until_error=settings.connection_failures_until_error,
        catalog=CatalogLinks(CatalogRepository(storage.database)),
    )
    return Upstreams(guard, vault, discovery, reader, store, instance)
