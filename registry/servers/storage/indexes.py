"""The indexes on `mcpservers` besides the published ones."""

from pymongo import ASCENDING, IndexModel

PATH_INDEX = "registry_own_path"
INDEXES = [
    IndexModel([("serverName", ASCENDING), ("tenantId", ASCENDING)], unique=True, background=True),
    IndexModel([("scope", ASCENDING), ("status", ASCENDING)], name="registry_scope_status"),
    IndexModel([("path", ASCENDING)], name="registry_by_path"),
    IndexModel(
        [("registry.path", ASCENDING), ("tenantId", ASCENDING)],
        name=PATH_INDEX,
        unique=True,
        partialFilterExpression={"registry.path": {"$type": "string"}},
    ),
]
"""The first is jarvis-api's since 0.0.51, unchanged; it makes names unique in each tenant.
Paths are unique among those that we wrote: jarvis-api may write any, twice and null."""

OWN_PATH = "registry.path"
"""The path again, for documents that we wrote."""
