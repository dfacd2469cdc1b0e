"""Builds the reader of upstream servers."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.servers.credentials import CredentialVault
from registry.servers.reconciliation.reader import ServerReader
from registry.sync.discovery import DiscoveryService
from registry.upstream.guard import UrlGuard
from registry.upstream.loops import Instance
from registry.wiring.storage import Storage


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The parts that read upstream servers.

    Attributes:
        guard: Says which addresses may be contacted.
        vault: Opens the credentials they are read with.
        discovery: Asks one what it has.
        reader: Does so with the credentials that are stored for it.
        instance: Recognises what comes back to this deployment.
    """

    guard: UrlGuard
    vault: CredentialVault
    discovery: DiscoveryService
    reader: ServerReader
    instance: Instance


def build_upstreams(
    settings: Settings,
    storage: Storage,
    *,
    clock: Clock,
    metrics: Metrics,
    freed: Callable[[int], None] = lambda _: None,
) -> Upstreams:
    """Return the parts that read upstream servers; nothing is contacted yet."""
    vault = CredentialVault(storage.cipher)
    guard = UrlGuard(settings.upstream_allowed_networks)
    instance = Instance.of(list(storage.cipher.derive_keys("gateway-instance").values()))
    discovery = DiscoveryService(
        guard, instance, settings=settings, clock=clock, metrics=metrics, freed=freed
    )
    reader = ServerReader(vault, discovery, storage.repositories.plugin_auths, clock)
    return Upstreams(guard, vault, discovery, reader, instance)
