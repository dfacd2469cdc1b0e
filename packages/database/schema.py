"""Collections, validators and indexes of the application, created idempotently at start.

Nothing that exists is dropped, renamed or changed, except validators and indexes of our own
collections. docs/decisions/0018-retired-indexes.md says when an index goes.
"""

from collections.abc import Mapping, Sequence

from pymongo import IndexModel

from packages.database.client import Database, IndexConflict
from packages.database.documents import validator_of
from packages.models import DOCUMENTS
from packages.models.apis import RawApi
from packages.models.approvals import ApprovalDocument
from packages.models.audit import (
    AuditLog,
    AuditSeal,
)
from packages.models.budgets import BudgetDocument
from packages.models.catalog import (
    CatalogJob,
    CatalogRemoval,
    CatalogServer,
    CatalogSource,
    CatalogTool,
    CatalogVersion,
)
from packages.models.features import ServerFeature
from packages.models.limits import LimitDocument, LimitQuota
from packages.models.oauth import OAuthClientDocument, OAuthFlowDocument
from packages.models.policies import FORMER_NAME_INDEX as FORMER_POLICY_NAME_INDEX
from packages.models.policies import AccessPolicy
from packages.models.quarantine import QuarantineDocument
from packages.models.server_versions import ServerVersion
from packages.models.sessions import EndedSession, RevokedToken, SpentState, TokenFamily
from packages.models.syncing import (
    SyncDelivery,
    SyncJob,
    SyncJobRun,
    SyncState,
)
from packages.models.tools import (
    RegisteredTool,
    ToolVersion,
)
from packages.models.toolsets import FORMER_NAME_INDEX as FORMER_TOOLSET_NAME_INDEX
from packages.models.toolsets import ToolsetDocument
from packages.models.usage import UsageLog, UsageTotal
from packages.models.vectors import Embedding

OWN_DOCUMENTS = (
    RawApi,
    RegisteredTool,
    ToolVersion,
    ServerFeature,
    ServerVersion,
    AccessPolicy,
    SyncState,
    SyncJob,
    SyncJobRun,
    SyncDelivery,
    AuditLog,
    AuditSeal,
    TokenFamily,
    RevokedToken,
    EndedSession,
    SpentState,
    UsageLog,
    UsageTotal,
    BudgetDocument,
    OAuthFlowDocument,
    OAuthClientDocument,
    ApprovalDocument,
    LimitDocument,
    LimitQuota,
    Embedding,
    ToolsetDocument,
    QuarantineDocument,
    CatalogServer,
    CatalogTool,
    CatalogVersion,
    CatalogRemoval,
    CatalogSource,
    CatalogJob,
)
OWN_VALIDATORS: Mapping[str, Mapping[str, object]] = {
    vars(document)["Settings"].name: validator_of(document) for document in OWN_DOCUMENTS
}

DECLARED_OTHERWISE = frozenset({("mcpservers", "serverName_1")})
"""Published indexes that later releases of jarvis-api declare with other options under the same
name: unique at first, plain since they have a unique one over name and tenant. The program that
creates it first would prevent the other's index, so it is left to jarvis-api."""

RETIRED_INDEXES: Mapping[str, Sequence[str]] = {
    AccessPolicy.Settings.name: (FORMER_POLICY_NAME_INDEX,),
    ToolsetDocument.Settings.name: (FORMER_TOOLSET_NAME_INDEX,),
    RegisteredTool.Settings.name: ("review_pending", "pending_hash_1"),
}
"""Indexes of earlier releases on our own collections, which are unused, or whose uniqueness no
longer holds."""

WRITTEN_SHARED_COLLECTIONS = frozenset({"mcpservers", "tokens", "aclentries", "pluginauths"})
"""Shared collections with indexes of ours. `users`, `groups` and `accessroles` have none."""


async def prepare(
    database: Database, extra_indexes: Mapping[str, Sequence[IndexModel]]
) -> list[IndexConflict]:
    """Create missing collections and indexes.

    Args:
        database: Where to.
        extra_indexes: Indexes of ours on shared collections, besides the published ones.

    Returns:
        Indexes that exist with other options, which were left as they are.
    """
    existing = await database.validators()
    for name, validator in OWN_VALIDATORS.items():
        if existing.get(name) != validator:
            await database.ensure_collection(name, validator)
    conflicts: list[IndexConflict] = []
    for name, indexes in wanted_indexes(extra_indexes).items():
        conflicts += await database.ensure_indexes(name, indexes)
    # Last, so that their replacements exist before they are dropped.
    for name, retired in RETIRED_INDEXES.items():
        await database.drop_indexes(name, retired)
    return conflicts


def wanted_indexes(
    extra_indexes: Mapping[str, Sequence[IndexModel]],
) -> dict[str, list[IndexModel]]:
    """Return all indexes the application needs, by collection."""
    wanted: dict[str, list[IndexModel]] = {}
    for document in (*DOCUMENTS, *OWN_DOCUMENTS):
        settings = vars(document)["Settings"]
        if document in OWN_DOCUMENTS or settings.name in WRITTEN_SHARED_COLLECTIONS:
            wanted[settings.name] = [
                index if document in OWN_DOCUMENTS else _as_published(index)
                for index in settings.indexes
                if (settings.name, index.document["name"]) not in DECLARED_OTHERWISE
            ]
    for name, indexes in extra_indexes.items():
        wanted.setdefault(name, []).extend(indexes)
    return wanted


def _as_published(index: IndexModel) -> IndexModel:
    # mongoose sets `background` on every index. MongoDB ignores it, but a compatible server that
    # stores the option would refuse the same index without it to the second program.
    options = {key: value for key, value in index.document.items() if key != "key"}
    return IndexModel(list(index.document["key"].items()), **options, background=True)
