"""The indexes on `mcpservers` besides the published ones."""

from pymongo import ASCENDING, IndexModel

PATH_INDEX = "registry_path"
INDEXES = [
    IndexModel([("serverName", ASCENDING), ("tenantId", ASCENDING)], unique=True, background=True),
    IndexModel([("scope", ASCENDING), ("status", ASCENDING)], name="registry_scope_status"),
    IndexModel(
        [("path", ASCENDING)],
        name=PATH_INDEX,
        unique=True,
        partialFilterExpression={"path": {"$exists": True}},
    ),
]
"""The first is jarvis-api's since 0.0.51, word for word; as we write no tenant, it makes names
unique. Documents without a path are not in the unique one over paths."""
