"""Prepares the collections, and builds the repositories."""

from dataclasses import dataclass

import structlog

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.database.schema import prepare
from registry.access.limits.repository import LimitRepository
from registry.access.policies.repository import PolicyRepository
from registry.access.repository import AclRepository
from registry.audit.chain import AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.ciphertexts import require_matching_keys
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.oauth.repository import OAuthFlowRepository
from registry.prompts_and_resources.repository import FeatureRepository
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.storage.inventory import Inventory
from registry.servers.storage.repository import INDEXES as SERVER_INDEXES
from registry.servers.storage.repository import ServerRepository
from registry.servers.storage.version_repository import ServerVersionRepository
from registry.servers.storage.visible import VisibleServers
from registry.tokens.plugin_auths import PLUGIN_AUTH_INDEXES, PluginAuthRepository
from registry.tokens.repository import TOKEN_INDEXES, TokenRepository
from registry.tools.repository import ToolRepository
from registry.wiring.audit import build_audit_keys

log = structlog.get_logger()

EXTRA_INDEXES = {
    "mcpservers": SERVER_INDEXES,
    "tokens": TOKEN_INDEXES,
    "pluginauths": PLUGIN_AUTH_INDEXES,
}
"""Our own indexes on shared collections, in addition to the published ones."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The repositories of everything that a registry changes.

    Attributes:
        cipher: Of what is encrypted there.
        audit: Records what is changed.
        audit_keys: Those of its seals.
    """

    database: Database
    cipher: Cipher
    repositories: ServerRepositories
    audit: AuditTrail
    audit_repository: AuditRepository
    audit_keys: AuditKeys


async def prepared(database: Database, cipher: Cipher) -> None:
    """Create missing collections and indexes, and check that the keys can decrypt stored values.

    Indexes that exist with other options are left unchanged, and logged.

    Raises:
        SettingsError: The stored credentials were encrypted with other keys.
        DatabaseUnavailable: MongoDB is not there.
    """
    for conflict in await prepare(database, EXTRA_INDEXES):
        log.warning(
            "index_conflict",
            collection=conflict.collection,
            index=conflict.index,
            error=conflict.message,
        )
    await require_matching_keys(database, cipher)


def build_storage(
    settings: Settings, database: Database, cipher: Cipher, *, clock: Clock, metrics: Metrics
) -> Storage:
    """Return the repositories; `prepared` creates the collections."""
    audit_keys = build_audit_keys(cipher)
    audit_repository = AuditRepository(database, audit_keys)
    audit = AuditTrail(audit_repository, clock=clock, metrics=metrics)
    repositories = build_repositories(settings, database, cipher, audit, clock)
    return Storage(database, cipher, repositories, audit, audit_repository, audit_keys)


def build_repositories(
    settings: Settings, database: Database, cipher: Cipher, audit: AuditTrail, clock: Clock
) -> ServerRepositories:
    """Return the repositories of the servers domain."""
    acl = AclRepository(database)
    inventory = Inventory(clock, max_staleness_seconds=settings.gateway_max_staleness_seconds)
    tools = ToolRepository(database, versions_kept=settings.tool_versions_kept)
    servers = ServerRepository(database)
    return ServerRepositories(
        servers=servers,
        inventory=inventory,
        visible=VisibleServers(
            servers, acl, inventory, tools, admin_sees_private=settings.admin_sees_private
        ),
        versions=ServerVersionRepository(database, cipher, kept=settings.server_versions_kept),
        tools=tools,
        features=FeatureRepository(database),
        acl=acl,
        tokens=TokenRepository(database, cipher),
        plugin_auths=PluginAuthRepository(database, cipher),
        flows=OAuthFlowRepository(database, cipher),
        policies=PolicyRepository(database),
        limits=LimitRepository(database),
        audit=audit,
    )
