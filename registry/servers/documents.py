"""How stored documents of `mcpservers` become records, and new servers become documents."""

import math
from collections.abc import Container
from datetime import UTC, datetime

from beanie import PydanticObjectId
from bson import ObjectId

from packages.database.client import Doc
from packages.models import MCPConfig, MCPServer
from registry.access.policy import NO_BITS, ServerScope
from registry.servers.values import ServerRecord, ServerStatus
from registry.tools.naming import normalized_server_name

WITHOUT_FUNCTIONS = {"config.toolFunctions": 0}
READ_FIELDS = (
    *("serverName", "author", "scope", "status", "path", "tags", "numStars"),
    *("lastConnected", "lastError", "errorMessage", "createdAt", "updatedAt", "registry"),
)
"""What `record_of` reads besides the id and `config`."""

CONFIG_WITHOUT_FUNCTIONS: Doc = {
    "$arrayToObject": {
        "$filter": {
            "input": {"$objectToArray": "$config"},
            "cond": {"$ne": ["$$this.k", "toolFunctions"]},
        }
    }
}
RECORD: Doc = {
    **dict.fromkeys(READ_FIELDS, 1),
    "config": {
        "$cond": [{"$eq": [{"$type": "$config"}, "object"]}, CONFIG_WITHOUT_FUNCTIONS, "$config"]
    },
}
"""What is read of servers. Said so, because the embedded database copies a whole document before
it leaves something out: 14 ms for 500 tools."""

SEEN_FIELDS = {
    "serverName": 1,
    "path": 1,
    "author": 1,
    "scope": 1,
    "status": 1,
    "updatedAt": 1,
    "lastConnected": 1,
    "config.requiresOAuth": 1,
    "config.headers": 1,
    "config.apiKey": 1,
    "config.customUserVars": 1,
}
"""What says who may do what with a server, and how connections to it stand. A document may be
megabytes, of which little more than these are not tools."""

SCOPES = frozenset(scope.value for scope in ServerScope)
STATUSES = frozenset(status.value for status in ServerStatus)


def record_of(document: Doc, bits: int = NO_BITS) -> ServerRecord:
    """Return a stored document as a value, whatever it lacks."""
    config = document.get("config")
    ours = document.get("registry")
    tags = document.get("tags")
    path = document.get("path")
    return ServerRecord(
        id=str(document["_id"]),
        server_name=str(document.get("serverName") or ""),
        author=str(document.get("author") or ""),
        scope=scope_of(document.get("scope")),
        status=status_of(document.get("status")),
        path=path if isinstance(path, str) and path else None,
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        num_stars=_whole(document.get("numStars")),
        last_connected=moment_of(document.get("lastConnected")),
        last_error=moment_of(document.get("lastError")),
        error_message=document.get("errorMessage"),
        created_at=moment_of(document.get("createdAt")),
        updated_at=moment_of(document.get("updatedAt")),
        config=config if isinstance(config, dict) else {},
        registry=ours if isinstance(ours, dict) else {},
        bits=bits,
    )


def new_document(fields: Doc, apart: Container[str]) -> Doc:
    """Return what is stored of a new server.

    Args:
        fields: Root fields in stored spelling, `author` as 24 hexadecimal characters.
        apart: Members of `registry` that are stored elsewhere.
    """
    ours = fields.get("registry") or {}
    server = MCPServer(
        **{
            **fields,
            "registry": {name: value for name, value in ours.items() if name not in apart},
            "config": MCPConfig.model_validate(fields["config"]),
            "author": PydanticObjectId(fields["author"]),
        }
    )
    document: Doc = server.model_dump(by_alias=True, exclude_none=True)
    document["_id"] = ObjectId()
    # jarvis-api 0.0.71 finds servers by it and refuses those that lack it.
    document["normalizedServerName"] = normalized_server_name(server.server_name)
    return document


def scope_of(stored: object) -> ServerScope | None:
    """Read a stored scope. One that we do not know is for nobody but the author."""
    if stored is None:
        return None
    if isinstance(stored, str) and stored in SCOPES:
        return ServerScope(stored)
    return ServerScope.PRIVATE_USER


def status_of(stored: object) -> ServerStatus | None:
    """Read a stored status; None when it is none that we know."""
    return ServerStatus(stored) if isinstance(stored, str) and stored in STATUSES else None


def moment_of(stored: object) -> datetime | None:
    """Read a stored time, aware of its zone."""
    if not isinstance(stored, datetime):
        return None
    return stored if stored.tzinfo else stored.replace(tzinfo=UTC)


def _whole(stored: object) -> int:
    return int(stored) if isinstance(stored, int | float) and math.isfinite(stored) else 0
