"""The published OpenAPI document is true: whatever is sent, answers are as it says."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import schemathesis
from bson import ObjectId
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from registry.auth.identity import Scope, UserContext
from registry.wiring.keys import build_cipher
from tests.fakes.rest import BASE_URL, Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

OPENAPI = "/api/v1/openapi.json"
KNOWN = "e" * 24
KNOWN_API = "d" * 24
EXAMPLES = 4
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
WITH_INPUT = (
    "list_servers",
    "register_server",
    "try_connection",
    "get_server",
    "update_server",
    "put_server",
    "delete_server",
    "toggle_server",
    "list_server_tools",
    "refresh_server",
    "get_server_openapi",
    "call_server_tool",
    "get_api_openapi",
    "call_api_tool",
    "get_toolset_openapi",
    "call_toolset_tool",
    "list_openapi_tools",
    "list_server_versions",
    "get_server_version",
    "diff_server_version",
    "roll_back_server",
    "list_apis",
    "register_api",
    "preview_api",
    "get_api",
    "update_api",
    "put_api",
    "delete_api",
    "toggle_api",
    "list_api_tools",
    "refresh_api",
    "list_user_keys",
    "put_user_keys",
    "delete_user_keys",
    "delete_user_key",
    "search_principals",
    "get_permissions",
    "put_permissions",
    "list_audit",
    "list_usage",
    "get_connection",
    "reinitialize_connection",
    "initiate_authorization",
    "get_authorization",
    "cancel_authorization",
    "revoke_authorization",
    "list_tools",
    "update_tools",
    "accept_tools",
    "reject_tools",
    "get_tool",
    "update_tool",
    "get_tool_history",
    "accept_tool",
    "reject_tool",
    "roll_back_tool",
    "list_policies",
    "create_policy",
    "get_policy",
    "update_policy",
    "delete_policy",
    "explain_access",
    "list_budgets",
    "create_budget",
    "get_budget",
    "update_budget",
    "delete_budget",
    "add_quarantine",
    "list_quarantine",
    "lift_quarantine",
    "simulate_access",
    "list_limits",
    "create_limit",
    "get_limit",
    "update_limit",
    "delete_limit",
    "list_catalog_servers",
    "create_catalog_server",
    "search",
    "register_catalog_server",
    "get_catalog_server",
    "update_catalog_server",
    "delete_catalog_server",
    "list_catalog_versions",
    "list_registry_servers",
    "list_registry_versions",
    "get_registry_version",
    "import_into_catalog",
    "get_catalog_import",
    "match_catalog",
    "list_toolsets",
    "create_toolset",
    "get_toolset",
    "update_toolset",
    "replace_toolset",
    "delete_toolset",
    "list_approvals",
    "get_approval",
    "approve_call",
    "deny_call",
    "cancel_call",
    "sync_owner",
    "list_sync_jobs",
    "get_sync_job",
    "retry_sync_job",
    "put_webhook",
    "delete_webhook",
    "receive_webhook",
    "gateway_metadata",
    "create_token",
    "list_tokens",
    "list_issued_tokens",
    "get_token",
    "refresh_token",
    "delete_token",
    "generate_token",
    "refresh_session",
    "revoke_token",
    "list_users",
    "create_user",
    "get_user",
    "update_user",
    "issue_user_token",
    "list_groups",
    "create_group",
    "get_group",
    "update_group",
)
WITHOUT_INPUT = (
    "list_catalog_sources",
    "list_catalog_imports",
    "list_connections",
    "get_client_metadata",
    "get_signing_client_metadata",
    "get_server_stats",
    "jwks",
    "resource_metadata",
    "live",
    "ready",
    "gateway_ready",
    "combined_metadata",
    "register_oauth_client",
    "metrics",
    "welcome",
    "health",
)

GOOD = [(operation, GenerationMode.POSITIVE) for operation in (*WITH_INPUT, *WITHOUT_INPUT)]
BAD = [(operation, GenerationMode.NEGATIVE) for operation in WITH_INPUT]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def offline(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return an application that may not even reach loopback, so that every URL is refused."""
    home = tmp_path_factory.mktemp("home")
    configured = rest_settings(
        mongo_uri, key_files, home, upstream_allowed_networks=(), user_directory="registry"
    )
    async with running(configured) as rest:
        yield rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(offline: Rest) -> dict[str, Any]:
    """Return the OpenAPI document as it is published."""
    return dict((await offline.client.get(OPENAPI)).json())


@pytest.fixture(scope="module")
def schema(document: dict[str, Any]) -> OpenApiSchema:
    """Return the document as what requests are made from; to read it is most of a test."""
    return schemathesis.openapi.from_dict(document)


def operation_ids(document: dict[str, Any]) -> set[str]:
    return {
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    }


@pytest.mark.requirement("R-140")
async def test_every_operation_is_tried(document: dict[str, Any]) -> None:
    assert operation_ids(document) == {*WITH_INPUT, *WITHOUT_INPUT}


async def test_every_operation_lists_the_scopes_it_takes(document: dict[str, Any]) -> None:
    scopes = {scope.value for scope in Scope}
    listed = {
        operation["operationId"]: operation["security"][0]["HTTPBearer"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if path.startswith("/api/v1") and operation.get("security")
    }

    # Which one it takes depends on the kinds that are looked for.
    assert listed.pop("search") == []
    assert listed["list_user_keys"] == ["read:servers", "read:tokens"]
    assert all(needed and scopes.issuperset(needed) for needed in listed.values())


# The driver asks `random` for a server in the loop's thread, which looks as if a strategy did.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:FutureWarning")
@pytest.mark.requirement("R-140")
@pytest.mark.parametrize(("operation_id", "mode"), [*GOOD, *BAD])
async def test_answers_are_as_the_document_says(
    offline: Rest,
    schema: OpenApiSchema,
    root: UserContext,
    operation_id: str,
    mode: GenerationMode,
) -> None:
    loop = asyncio.get_running_loop()
    operation = schema.find_operation_by_id(operation_id)

    @given(case=operation.as_strategy(generation_mode=mode), is_known=strategies.booleans())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def holds(case: Case[Any], is_known: bool) -> None:  # noqa: FBT001 - filled by name
        sending = asyncio.run_coroutine_threadsafe(_send(offline, root, case, is_known), loop)
        case.validate_response(sending.result(timeout=30), checks=CHECKS)

    await asyncio.to_thread(holds)


async def _send(rest: Rest, user: UserContext, case: Case[Any], is_known: bool) -> httpx.Response:  # noqa: FBT001 - as above
    for name in ("server_id", "resource_id", "owner_id"):
        if is_known and name in (case.path_parameters or {}):
            await _store_known(rest, user)
            is_api = case.path.startswith("/api/v1/apis")
            case.path_parameters[name] = KNOWN_API if is_api else KNOWN
    if is_known and "token_id" in (case.path_parameters or {}):
        await _store_known_token(rest, user)
        case.path_parameters["token_id"] = KNOWN
    request = case.as_transport_kwargs(base_url=BASE_URL)
    headers = {**request.pop("headers"), "Authorization": f"Bearer {rest.token(user)}"}
    sent = rest.client.build_request(
        request.pop("method"),
        request.pop("url"),
        headers=headers,
        content=request.get("data"),
        **{name: request[name] for name in ("params", "json") if name in request},
    )
    return await rest.client.send(sent)


async def _store_known(rest: Rest, user: UserContext) -> None:
    now = rest.parts.clock.now()
    await rest.parts.database.collection("raw_apis").replace_one(
        {"_id": ObjectId(KNOWN_API)},
        {
            "serverName": "known-api",
            "author": ObjectId(user.user_id),
            "config": {"url": "http://127.0.0.1:9", "type": "openapi"},
            "scope": "private_user",
            "status": "active",
            "createdAt": now,
            "updatedAt": now,
        },
        upsert=True,
    )
    await rest.parts.database.collection("mcpservers").replace_one(
        {"_id": ObjectId(KNOWN)},
        {
            "serverName": "known",
            "author": ObjectId(user.user_id),
            "config": {"url": "http://127.0.0.1:9/mcp", "type": "streamable-http"},
            "createdAt": now,
            "updatedAt": now,
        },
        upsert=True,
    )


async def _store_known_token(rest: Rest, user: UserContext) -> None:
    now = rest.parts.clock.now()
    await rest.parts.database.collection("tokens").replace_one(
        {"_id": ObjectId(KNOWN)},
        {
            "userId": ObjectId(user.user_id),
            "type": "oauth_access",
            "identifier": "known",
            "token": build_cipher(rest.parts.settings).encrypt_shared("t"),
            "createdAt": now,
            "expiresAt": now + timedelta(hours=1),
        },
        upsert=True,
    )
