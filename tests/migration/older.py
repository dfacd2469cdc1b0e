"""Documents as the first release wrote them: before tools had versions and governed metadata."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from registry.core.json import canonical_json

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHOR = ObjectId("a" * 24)

Doc = dict[str, Any]


def definition(name: str, **changes: Any) -> Doc:
    """Return a tool object as an upstream sends it."""
    return {
        "name": name,
        "description": f"Does {name}.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
        **changes,
    }


def digest(tool: Doc) -> str:
    """Return the hash of a definition."""
    return hashlib.sha256(canonical_json(tool).encode()).hexdigest()


def row(owner: ObjectId, tool: Doc, **changes: Any) -> Doc:
    """Return a row of `mcp_tools`."""
    return {
        "_id": ObjectId(),
        "source_type": "mcp",
        "owner_id": owner,
        "name": tool["name"],
        "external_id": tool["name"],
        "definition": json.dumps(tool),
        "input_schema": json.dumps(tool["inputSchema"]),
        "discovery_hash": digest(tool),
        "description": tool["description"],
        "tool_metadata": {},
        "registration_state": "selected",
        "exposure_state": "active",
        "served_version": 1,
        "position": 0,
        "last_discovered_at": NOW,
        "last_synced_at": NOW,
        "created_at": NOW,
        "updated_at": NOW,
        **changes,
    }


def held(owner: ObjectId, tool: Doc, newer: Doc, **changes: Any) -> Doc:
    """Return a row whose changed definition waits for review."""
    return row(
        owner,
        tool,
        pending_definition=json.dumps(newer),
        pending_hash=digest(newer),
        **changes,
    )


def functions(server_name: str, *tools: Doc) -> Doc:
    """Return `toolFunctions`."""
    return {
        f"{tool['name']}_mcp_{server_name}": {
            "type": "function",
            "function": {
                "name": f"{tool['name']}_mcp_{server_name}",
                "description": tool["description"],
                "parameters": tool["inputSchema"],
            },
            "mcpToolName": tool["name"],
        }
        for tool in tools
    }


def server(
    name: str, *tools: Doc, ours: bool = True, config: Mapping[str, Any] | None = None
) -> Doc:
    """Return a document of `mcpservers`; one that jarvis-api alone has read is not *ours*."""
    told = {"registry": {"auto_expose": "all", "last_synced_at": NOW}} if ours else {}
    return {
        "_id": ObjectId(),
        "serverName": name,
        "config": {
            "type": "streamable-http",
            "url": f"https://{name}.example/mcp",
            "requiresOAuth": False,
            "tools": ", ".join(tool["name"] for tool in tools),
            "toolFunctions": functions(name, *tools),
            **(config or {}),
        },
        "author": AUTHOR,
        "scope": "shared_app",
        "status": "active",
        "path": f"/mcp/{name}",
        "tags": [],
        "numTools": len(tools),
        "numStars": 0,
        "createdAt": NOW,
        "updatedAt": NOW,
        **told,
    }
