"""What this program writes into the shared collections, held against the generated classes.

One example document for each class, with every member that is written anywhere. A release that
drops one of them, gives it another type or requires what is not written would have both
applications misread each other's documents.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from beanie import PydanticObjectId
from pydantic import BaseModel, TypeAdapter, ValidationError

from packages.models.errors import SchemaMembersError

ID = PydanticObjectId("0123456789abcdef01234567")
TIME = datetime(2026, 1, 1, tzinfo=UTC)
STAMPS: Mapping[str, Any] = {"createdAt": TIME, "updatedAt": TIME}

WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "MCPServer": {
        "serverName": "github",
        "normalizedServerName": "github",
        "config": {"type": "streamable-http", "url": "https://example.com/mcp"},
        "author": ID,
        "scope": "private_user",
        "status": "active",
        "path": "/mcp/github",
        "proxyPassUrl": "https://example.com/mcp",
        "tags": ["code"],
        "numTools": 1,
        "numStars": 0,
        "lastConnected": TIME,
        "lastError": TIME,
        "errorMessage": "No answer.",
        "tenantId": "one",
        **STAMPS,
    },
    "MCPConfig": {
        "type": "streamable-http",
        "url": "https://example.com/mcp",
        "headers": {"X-Team": "one"},
        "title": "GitHub",
        "description": "Issues.",
        "startup": True,
        "iconPath": "/icon.svg",
        "timeout": 30000,
        "sseReadTimeout": 30000,
        "initTimeout": 30000,
        "chatMenu": True,
        "serverInstructions": "Ask first.",
        "requiresOAuth": False,
        "oauth": {"client_id": "one"},
        "oauth_headers": {"X-Team": "one"},
        "apiKey": {"source": "admin"},
        "customUserVars": {"MCP_API_KEY": {"title": "API Key"}},
        "oauthMetadata": {"resource": "https://example.com/mcp"},
        "capabilities": "{}",
        "tools": "search",
        "toolFunctions": {"search_mcp_github": {"type": "function"}},
        "initDuration": 12,
    },
    "OAuthConfig": {
        "authorization_url": "https://example.com/authorize",
        "token_url": "https://example.com/token",
        "client_id": "one",
        "client_secret": "00:00",
        "scope": "read",
        "redirect_uri": "https://example.com/back",
        "token_exchange_method": "default_post",
        "grant_types_supported": ["authorization_code"],
        "token_endpoint_auth_methods_supported": ["none"],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "skip_code_challenge_check": False,
        "revocation_endpoint": "https://example.com/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
    },
    "ApiKeyConfig": {
        "key": "00:00",
        "source": "admin",
        "authorization_type": "custom",
        "custom_header": "X-Key",
    },
    "CustomUserVar": {"title": "API Key", "description": "Your key."},
    "ToolFunction": {"type": "function", "function": {"name": "search"}, "mcpToolName": "search"},
    "FunctionDefinition": {"name": "search", "description": "Find.", "parameters": {}},
    "Token": {
        "userId": ID,
        "type": "mcp_oauth",
        "identifier": "mcp:github",
        "token": "00:00",
        "createdAt": TIME,
        "expiresAt": TIME,
        "metadata": {"scope": "read"},
    },
    "User": {
        "name": "Ada",
        "username": "ada",
        "email": "ada@example.com",
        "emailVerified": True,
        "provider": "registry",
        "role": "USER",
        **STAMPS,
    },
    "Group": {
        "name": "Team",
        "description": "A team.",
        "source": "local",
        "memberIds": [str(ID)],
        **STAMPS,
    },
    "AclEntry": {
        "principalType": "user",
        "principalId": ID,
        "principalModel": "User",
        "resourceType": "mcpServer",
        "resourceId": ID,
        "permBits": 15,
        "roleId": ID,
        "grantedBy": ID,
        "grantedAt": TIME,
        "expiredAt": TIME,
        **STAMPS,
    },
    "PluginAuth": {
        "userId": str(ID),
        "pluginKey": "mcp_github",
        "authField": "MCP_API_KEY",
        "value": "00",
        **STAMPS,
    },
}
"""Members by class, on the wire, each with a value of the type that is written."""


def check_members(models: Mapping[str, type[BaseModel]], version: str) -> None:
    """Compare what is written with the generated classes.

    Args:
        models: The generated classes by name.
        version: The release that they are of.

    Raises:
        SchemaMembersError: Something that is written does not fit them.
    """
    found = [
        problem
        for name, example in WRITTEN.items()
        for problem in _problems(name, models.get(name), example)
    ]
    if found:
        raise SchemaMembersError(version, found)


def _problems(
    name: str, model: type[BaseModel] | None, example: Mapping[str, Any]
) -> Iterator[str]:
    if model is None:
        yield f"{name} is gone"
        return
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    for member, value in example.items():
        if member not in fields:
            yield f"{name}.{member} is gone"
            continue
        # Each field by itself: a document cannot be made before it is bound to a database.
        adapter: TypeAdapter[Any] = TypeAdapter(fields[member].rebuild_annotation())
        try:
            read = adapter.validate_python(value)
        except ValidationError:
            yield f"{name}.{member} has another type"
            continue
        if not isinstance(read, type(value) | BaseModel):
            yield f"{name}.{member} has another type"
    for member, field in fields.items():
        if field.is_required() and member not in example:
            yield f"{name}.{member} is required and not written"
