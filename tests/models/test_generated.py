"""What the generated classes of the pinned release look like to those who use them."""

from typing import Any

import pytest
from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ValidationError

from packages import models
from packages.database.client import Database
from packages.models import (
    DOCUMENTS,
    AccessRole,
    AclEntry,
    ApiKeyConfig,
    Group,
    Id,
    MCPConfig,
    MCPServer,
    OAuthConfig,
    PluginAuth,
    Token,
    User,
)


def indexes(document: type[Document]) -> list[dict[str, Any]]:
    declared = document.Settings.indexes
    facts = (dict(index.document) for index in declared)
    return [{**fact, "key": dict(fact["key"])} for fact in facts]


def aliases(model: type[BaseModel]) -> dict[str, str]:
    # A document that is bound to a database has an alias for every field.
    fields = ((name, field.alias or name) for name, field in model.model_fields.items())
    return {name: alias for name, alias in fields if name != alias}


@pytest.mark.requirement("R-033")
def test_the_documents_live_in_the_collections_of_the_other_application() -> None:
    collections = {document.__name__: document.Settings.name for document in DOCUMENTS}

    assert collections == {
        "MCPServer": "mcpservers",
        "Token": "tokens",
        "User": "users",
        "Group": "groups",
        "AclEntry": "aclentries",
        "AccessRole": "accessroles",
        "PluginAuth": "pluginauths",
    }


def test_no_document_writes_nulls_or_loses_unknown_fields() -> None:
    kept = {
        (document.Settings.keep_nulls, document.model_config["extra"]) for document in DOCUMENTS
    }

    assert kept == {(False, "allow")}


@pytest.mark.requirement("R-044")
def test_the_indexes_of_servers_are_the_published_ones() -> None:
    assert indexes(MCPServer) == [
        {"name": "serverName_1", "key": {"serverName": 1}, "unique": True},
        {"name": "author_1", "key": {"author": 1}},
        {"name": "updatedAt_-1__id_1", "key": {"updatedAt": -1, "_id": 1}},
    ]


@pytest.mark.requirement("R-096")
def test_tokens_expire_by_an_index() -> None:
    assert indexes(Token) == [
        {"name": "expiresAt_1", "key": {"expiresAt": 1}, "expireAfterSeconds": 0}
    ]


def test_the_indexes_of_acl_entries_are_the_published_ones() -> None:
    declared = indexes(AclEntry)

    assert [list(index["key"]) for index in declared] == [
        ["principalId"],
        ["resourceId"],
        ["inheritedFrom"],
        ["principalId", "principalType", "resourceType", "resourceId"],
        ["resourceId", "principalType", "principalId"],
        ["principalId", "permBits", "resourceType"],
    ]
    assert [index["name"] for index in declared if index.get("sparse")] == ["inheritedFrom_1"]


@pytest.mark.requirement("R-316")
@pytest.mark.parametrize("document", [User, Group, AccessRole, PluginAuth])
def test_no_index_is_declared_that_was_not_published(document: type[Document]) -> None:
    assert indexes(document) == []


def test_python_names_of_the_fields_of_a_server() -> None:
    assert aliases(MCPServer) == {
        "id": "_id",
        "server_name": "serverName",
        "proxy_pass_url": "proxyPassUrl",
        "num_tools": "numTools",
        "num_stars": "numStars",
        "last_connected": "lastConnected",
        "last_error": "lastError",
        "error_message": "errorMessage",
        "normalized_server_name": "normalizedServerName",
        "tenant_id": "tenantId",
        "created_at": "createdAt",
        "updated_at": "updatedAt",
    }


def test_python_names_of_the_fields_of_a_configuration() -> None:
    assert aliases(MCPConfig) == {
        "icon_path": "iconPath",
        "sse_read_timeout": "sseReadTimeout",
        "init_timeout": "initTimeout",
        "chat_menu": "chatMenu",
        "server_instructions": "serverInstructions",
        "requires_oauth": "requiresOAuth",
        "api_key": "apiKey",
        "custom_user_vars": "customUserVars",
        "oauth_metadata": "oauthMetadata",
        "tool_functions": "toolFunctions",
        "init_duration": "initDuration",
    }


def test_the_configuration_has_the_fields_of_every_transport_and_requires_none() -> None:
    fields = MCPConfig.model_fields

    assert {"type", "command", "args", "env", "stderr", "url", "headers"} <= fields.keys()
    assert not any(field.is_required() for field in fields.values())


@pytest.mark.parametrize(
    ("document", "required"),
    [
        (MCPServer, {"server_name", "config", "author"}),
        (Token, {"user_id", "token", "expires_at"}),
        (AclEntry, {"principal_type", "resource_type", "resource_id"}),
        (PluginAuth, {"user_id", "auth_field", "value"}),
        (User, set()),
        (Group, set()),
        (AccessRole, set()),
    ],
)
def test_only_essential_fields_are_required(document: type[Document], required: set[str]) -> None:
    fields = document.model_fields.items()

    assert {name for name, field in fields if field.is_required()} == required


@pytest.mark.requirement("R-312")
@pytest.mark.parametrize(
    ("model", "source"),
    [
        (MCPServer, "MCPServerDocument"),
        (MCPConfig, "MCPOptions"),
        (Token, "Token"),
        (User, "User"),
        (AclEntry, "AclEntry"),
    ],
)
def test_a_model_says_where_it_comes_from(model: type[BaseModel], source: str) -> None:
    assert model.model_config["json_schema_extra"] == {
        "source": source,
        "package": "@jarvis/data-schemas",
        "version": "0.0.31",
        "generated_at": "2025-12-16T12:00:00Z",
    }


@pytest.mark.requirement("R-043")
def test_references_are_object_ids() -> None:
    assert Id is PydanticObjectId
    assert MCPServer.model_fields["author"].annotation is PydanticObjectId
    assert Token.model_fields["user_id"].annotation is PydanticObjectId


@pytest.mark.requirement("R-021")
async def test_a_missing_author_is_refused_and_not_made_up(shared: object) -> None:
    with pytest.raises(ValidationError, match="author"):
        MCPServer.model_validate({"serverName": "a", "config": {}, "author": None})


async def test_times_are_aware(shared: object) -> None:
    with pytest.raises(ValidationError, match="expiresAt"):
        Token.model_validate(
            {"userId": "5" * 24, "token": "00:ff", "expiresAt": "2026-01-01T00:00:00"}
        )


async def test_a_token_is_created_now_in_whole_milliseconds(shared: Database) -> None:
    token = shared.document(Token).model_validate(
        {"userId": "5" * 24, "token": "00:ff", "expiresAt": "2026-01-01T00:00:00Z"}
    )

    assert token.created_at.utcoffset() is not None
    assert token.created_at.microsecond % 1000 == 0


@pytest.mark.requirement("R-040")
def test_unknown_values_of_closed_fields_are_kept() -> None:
    key = ApiKeyConfig.model_validate({"source": "vault", "authorization_type": "mutual"})
    oauth = OAuthConfig.model_validate({"token_exchange_method": "jwt"})

    assert (key.source, key.authorization_type) == ("vault", "mutual")
    assert oauth.token_exchange_method == "jwt"


def test_every_promised_name_can_be_imported() -> None:
    missing = [name for name in models.__all__ if not hasattr(models, name)]

    assert missing == []


def test_a_name_that_is_not_promised_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Mailbox"):
        _ = models.Mailbox
