"""Documents that the other application stored, loaded and saved here."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database
from packages.models import AclEntry, Group, Id, MCPConfig, MCPServer, PluginAuth, Token, User

CAPABILITIES = (
    '{"experimental":{},"prompts":{"listChanged":true},'
    '"resources":{"subscribe":false,"listChanged":true},"tools":{"listChanged":true}}'
)
TAVILY_CIPHERTEXT = (
    "51d082dd191f6dcf7dfdd60bc318f53e:5a052bb48fef0635329562541e62f6cc9e866d1c9303af4b"
    "36bae0ae3662eceac0265872b4e92b9469a459c44055091d"
)

GITHUB = {
    "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c0d"),
    "serverName": "github",
    "config": {
        "title": "GitHub MCP Server",
        "description": "Interact with GitHub repositories, issues, and pull requests",
        "type": "streamable-http",
        "url": "https://mcp-github.example.com/",
        "requiresOAuth": False,
        "capabilities": CAPABILITIES,
        "tools": "create_repository, create_issue, search_repositories",
        "toolFunctions": {
            "create_repository_github": {
                "type": "function",
                "function": {
                    "name": "create_repository_github",
                    "description": "Create a new GitHub repository",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "description": "Repository name"},
                            "private": {
                                "type": "boolean",
                                "description": "Whether the repository is private",
                            },
                        },
                        "required": ["name"],
                    },
                },
            }
        },
        "initDuration": 150,
    },
    "author": ObjectId("507f1f77bcf86cd799439011"),
    "scope": "shared_app",
    "status": "active",
    "path": "/mcp/github",
    "tags": ["github", "version-control", "collaboration"],
    "numTools": 3,
    "numStars": 1250,
    "lastConnected": datetime(2026, 1, 4, 14, 30, tzinfo=UTC),
    "createdAt": datetime(2026, 1, 1, 10, 0, tzinfo=UTC),
    "updatedAt": datetime(2026, 1, 3, 15, 45, tzinfo=UTC),
}

TAVILY = {
    "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c0e"),
    "serverName": "tavilysearchv1",
    "config": {
        "title": "tavilysearchv1",
        "description": "tavily search",
        "type": "streamable-http",
        "url": "https://mcp.tavily.com/mcp/",
        "apiKey": {
            "key": TAVILY_CIPHERTEXT,
            "source": "admin",
            "authorization_type": "custom",
            "custom_header": "tavilyApiKey",
        },
        "requiresOAuth": False,
        "capabilities": CAPABILITIES,
        "tools": "tavily_search, tavily_extract, tavily_crawl, tavily_map",
        "toolFunctions": {
            "tavily_search_mcp_temp_server_name": {
                "type": "function",
                "function": {
                    "name": "tavily_search_mcp_temp_server_name",
                    "description": "Search the web for real-time information about any topic...",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "query": {"description": "Search query", "type": "string"},
                            "max_results": {"default": 5, "type": "integer"},
                        },
                        "required": ["query"],
                    },
                },
            },
            "tavily_extract_mcp_temp_server_name": {
                "type": "function",
                "function": {
                    "name": "tavily_extract_mcp_temp_server_name",
                    "description": "Extract and process content from specific web pages...",
                    "parameters": {
                        "type": "object",
                        "properties": {"urls": {"items": {"type": "string"}, "type": "array"}},
                        "required": ["urls"],
                    },
                },
            },
        },
        "initDuration": 119,
    },
    "author": ObjectId("67efec288d159a51908dcf10"),
    "scope": "shared_app",
    "status": "active",
    "path": "/mcp/tavilysearchv1",
    "proxyPassUrl": "https://mcp.tavily.com",
    "tags": ["search", "web", "tavily"],
    "numTools": 4,
    "numStars": 0,
    "lastConnected": datetime(2026, 1, 4, 15, 9, 45, tzinfo=UTC),
    "createdAt": datetime(2026, 1, 4, 15, 9, 45, 754000, tzinfo=UTC),
    "updatedAt": datetime(2026, 1, 4, 15, 9, 45, 754000, tzinfo=UTC),
    "__v": 0,
}

ANALYTICS = {
    "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c0f"),
    "serverName": "custom-analytics",
    "config": {
        "title": "Custom Analytics",
        "description": "Private analytics integration",
        "type": "sse",
        "url": "https://analytics.example.com/events",
        "apiKey": {
            "key": "encrypted_key_here",
            "source": "user",
            "authorization_type": "bearer",
        },
        "requiresOAuth": False,
        "capabilities": '{"tools":{}}',
        "tools": "query_data, generate_report",
        "toolFunctions": {
            "query_data_custom_analytics": {
                "type": "function",
                "function": {
                    "name": "query_data_custom_analytics",
                    "description": "Query analytics data",
                    "parameters": {
                        "type": "object",
                        "properties": {"query": {"type": "string"}},
                    },
                },
            }
        },
        "initDuration": 200,
    },
    "author": ObjectId("507f1f77bcf86cd799439012"),
    "scope": "private_user",
    "status": "error",
    "path": "/mcp/custom-analytics",
    "proxyPassUrl": "http://sse-proxy:8080",
    "tags": ["analytics", "custom"],
    "numTools": 2,
    "numStars": 0,
    "lastConnected": datetime(2026, 1, 3, 10, 15, tzinfo=UTC),
    "lastError": datetime(2026, 1, 4, 8, 30, tzinfo=UTC),
    "errorMessage": "Connection timeout: Could not connect after 3 attempts",
    "createdAt": datetime(2026, 1, 2, 14, 20, tzinfo=UTC),
    "updatedAt": datetime(2026, 1, 4, 8, 30, tzinfo=UTC),
}

OAUTH = {
    "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c1d"),
    "serverName": "github-copilot",
    "config": {
        "title": "githubcopliot",
        "type": "streamable-http",
        "url": "https://api.githubcopilot.com/mcp/",
        "requiresOAuth": True,
        "oauth": {
            "authorization_url": "https://github.com/login/oauth/authorize",
            "token_url": "https://github.com/login/oauth/access_token",
            "client_id": "Iv23lidC6dSy1q3Yr2sI",
            "client_secret": "00" * 16 + ":" + "ff" * 32,
            "scope": "repo user read:org",
        },
        "oauthMetadata": {
            "resource": "https://api.githubcopilot.com/mcp",
            "authorization_servers": ["https://github.com/login/oauth"],
            "scopes_supported": ["gist", "repo:status"],
            "bearer_methods_supported": ["header"],
            "resource_name": "GitHub MCP Server",
        },
        "initDuration": 49.5,
    },
    "author": ObjectId("507f1f77bcf86cd799439011"),
}

FROM_A_LATER_RELEASE = {
    "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c1e"),
    "serverName": "later",
    "author": ObjectId("507f1f77bcf86cd799439011"),
    "scope": "shared_galaxy",
    "status": "hibernating",
    "config": {
        "type": "grpc",
        "url": "grpc://later.example.com",
        "timeout": 30000,
        "serverInstructions": "Be kind.",
        "proxy": {"address": "http://proxy.example.com", "retries": 2},
        "apiKey": {"source": "vault", "authorization_type": "mutual", "slot": 7},
        "oauth": {"audience": "api", "token_exchange_method": "jwt"},
        "oauthMetadata": {"jwks_uri": "https://later.example.com/jwks", "mtls": False},
        "customUserVars": {"TEAM": {"title": "Team", "description": "", "sensitive": True}},
        "toolFunctions": {
            "a.b$c_mcp_later": {
                "type": "tool",
                "strict": True,
                "function": {
                    "name": "a.b$c_mcp_later",
                    "required": ["x"],
                    "parameters": {
                        "$defs": {"x.y": {"type": "string"}},
                        "properties": {"x": {"$ref": "#/$defs/x.y", "default": None}},
                    },
                },
                "mcpToolName": "a.b$c",
            }
        },
    },
    "governance": {"level": 3, "by": ObjectId("507f1f77bcf86cd799439013"), "note": None},
    "__v": 4,
}

STORED = [GITHUB, TAVILY, ANALYTICS, OAUTH, FROM_A_LATER_RELEASE]
NAMES = [str(document["serverName"]) for document in STORED]


async def stored(database: Database, collection: str) -> dict[str, Any]:
    found = await database.db[collection].find_one({})
    assert found is not None
    return found


@pytest.mark.requirement("R-034")
@pytest.mark.wire
@pytest.mark.requirement("R-315")
@pytest.mark.parametrize("document", STORED, ids=NAMES)
async def test_a_stored_server_is_the_same_after_load_and_save(
    shared: Database, document: dict[str, Any]
) -> None:
    await shared.db["mcpservers"].insert_one(dict(document))
    server = await shared.document(MCPServer).get(document["_id"])
    assert server is not None

    await server.save()

    found = await stored(shared, "mcpservers")
    assert found == document
    assert types_of(found) == types_of(document)


@pytest.mark.wire
@pytest.mark.requirement("R-315")
@pytest.mark.parametrize("document", STORED, ids=NAMES)
async def test_a_stored_server_is_the_same_after_load_and_replace(
    shared: Database, document: dict[str, Any]
) -> None:
    await shared.db["mcpservers"].insert_one(dict(document))
    server = await shared.document(MCPServer).get(document["_id"])
    assert server is not None

    await server.replace()

    assert await stored(shared, "mcpservers") == document


@pytest.mark.wire
@pytest.mark.requirement("R-315")
@pytest.mark.parametrize("document", STORED, ids=NAMES)
async def test_a_server_is_inserted_as_the_other_application_stores_it(
    shared: Database, document: dict[str, Any]
) -> None:
    await shared.document(MCPServer).model_validate(document).insert()

    assert await stored(shared, "mcpservers") == document


@pytest.mark.requirement("R-315")
@pytest.mark.parametrize("document", STORED, ids=NAMES)
async def test_a_dump_by_alias_keeps_every_field(
    shared: Database, document: dict[str, Any]
) -> None:
    server = shared.document(MCPServer).model_validate(document)

    dumped = server.model_dump(by_alias=True, exclude_none=True)

    assert dumped == document


@pytest.mark.wire
@pytest.mark.requirement("R-315")
async def test_nulls_of_the_other_application_are_read_and_not_written_again(
    shared: Database,
) -> None:
    nulls = {"lastError": None, "errorMessage": None}
    config = {**TAVILY["config"], "oauthMetadata": None}  # type: ignore[dict-item]  # JSON
    await shared.db["mcpservers"].insert_one({**TAVILY, **nulls, "config": config})
    server = await shared.document(MCPServer).get(TAVILY["_id"])
    assert server is not None

    await server.save()

    assert await stored(shared, "mcpservers") == TAVILY


@pytest.mark.wire
async def test_a_server_built_here_has_no_null_anywhere(shared: Database) -> None:
    author = ObjectId("507f1f77bcf86cd799439011")
    config = MCPConfig(title="GitHub", type="stdio", command="npx", args=["-y", "server-github"])

    await shared.document(MCPServer)(server_name="github", config=config, author=author).insert()

    found = await stored(shared, "mcpservers")
    del found["_id"]
    assert found == {
        "serverName": "github",
        "config": {
            "title": "GitHub",
            "type": "stdio",
            "command": "npx",
            "args": ["-y", "server-github"],
        },
        "author": author,
    }


@pytest.mark.wire
@pytest.mark.requirement("R-317")
async def test_servers_are_found_by_author_and_by_a_field_of_the_config(shared: Database) -> None:
    author = ObjectId("507f1f77bcf86cd799439011")
    starting = {**OAUTH, "config": {"type": "stdio", "startup": True}}
    await shared.db["mcpservers"].insert_many([dict(GITHUB), dict(TAVILY), starting])

    by_author = (
        await shared.document(MCPServer).find({"author": author}).sort("serverName").to_list()
    )
    by_config = (
        await shared.document(MCPServer).find({"author": author, "config.startup": True}).to_list()
    )

    assert [server.server_name for server in by_author] == ["github", "github-copilot"]
    assert [server.server_name for server in by_config] == ["github-copilot"]


@pytest.mark.wire
@pytest.mark.requirement("E-22")
@pytest.mark.requirement("R-322")
async def test_a_server_of_an_earlier_release_is_read_and_gains_nothing_by_saving(
    shared: Database,
) -> None:
    earlier = {
        "_id": ObjectId(),
        "serverName": "earlier",
        "config": {},
        "author": ObjectId("507f1f77bcf86cd799439011"),
    }
    await shared.db["mcpservers"].insert_one(dict(earlier))
    server = await shared.document(MCPServer).get(earlier["_id"])
    assert server is not None

    await server.save()

    assert (server.status, server.scope, server.path, server.created_at) == (None,) * 4
    assert await stored(shared, "mcpservers") == earlier


@pytest.mark.wire
async def test_the_metadata_of_a_token_is_open(shared: Database) -> None:
    token = {
        "_id": ObjectId("674e1a2b3c4d5e6f7a8b9c10"),
        "userId": ObjectId("507f1f77bcf86cd799439011"),
        "email": "user@example.com",
        "type": "mcp_oauth",
        "identifier": "mcp:github",
        "token": "00" * 16 + ":" + "ff" * 32,
        "createdAt": datetime(2024, 12, 15, 10, tzinfo=UTC),
        "expiresAt": datetime(2044, 12, 15, 18, tzinfo=UTC),
        "metadata": {
            "server_name": "github_server",
            "refresh_token_id": ObjectId("674e1a2b3c4d5e6f7a8b9c11"),
            "issuer": None,
        },
        "__v": 0,
    }
    await shared.db["tokens"].insert_one(dict(token))
    found = await shared.document(Token).get(token["_id"])
    assert found is not None

    await found.save()

    assert await stored(shared, "tokens") == token


@pytest.mark.wire
@pytest.mark.parametrize(
    "principal",
    [
        {"principalType": "user", "principalModel": "User", "principalId": ObjectId("5" * 24)},
        {"principalType": "role", "principalModel": "Role", "principalId": "ADMIN"},
        {"principalType": "public"},
    ],
    ids=["user", "role", "public"],
)
async def test_the_principal_of_an_acl_entry_keeps_its_type(
    shared: Database, principal: dict[str, Any]
) -> None:
    entry = {
        "_id": ObjectId(),
        "resourceType": "mcpServer",
        "resourceId": ObjectId("674e1a2b3c4d5e6f7a8b9c0d"),
        "permBits": 15,
        **principal,
    }
    await shared.db["aclentries"].insert_one(dict(entry))
    found = await shared.document(AclEntry).get(entry["_id"])
    assert found is not None

    await found.save()

    assert await stored(shared, "aclentries") == entry
    assert types_of(await stored(shared, "aclentries")) == types_of(entry)


async def test_an_id_given_as_text_becomes_an_object_id(shared: Database) -> None:
    entry = shared.document(AclEntry)(
        principal_type="user", principal_id="5" * 24, resource_type="mcpServer", resource_id=Id()
    )

    assert type(entry.principal_id) is Id


async def test_an_acl_entry_without_bits_may_view(shared: Database) -> None:
    entry = shared.document(AclEntry).model_validate(
        {"principalType": "public", "resourceType": "mcpServer", "resourceId": "5" * 24}
    )

    assert entry.perm_bits == 1
    assert entry.resource_id == ObjectId("5" * 24)


async def test_users_and_groups_are_read_whatever_they_lack(shared: Database) -> None:
    user = shared.document(User).model_validate(
        {"_id": ObjectId(), "role": "ADMIN", "openidId": "x"}
    )
    group = shared.document(Group).model_validate(
        {"_id": ObjectId(), "memberIds": ["a"], "source": "ldap"}
    )
    auth = shared.document(PluginAuth).model_validate(
        {"userId": "5" * 24, "authField": "KEY", "value": "00ff"}
    )

    assert (user.role, user.email, user.model_extra) == ("ADMIN", None, {"openidId": "x"})
    assert (group.member_ids, group.source, group.name) == (["a"], "ldap", None)
    assert auth.plugin_key is None


def types_of(value: object) -> object:
    """Return *value* with every leaf replaced by its type, since 150 == 150.0."""
    if isinstance(value, dict):
        return {key: types_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [types_of(inner) for inner in value]
    return type(value)
