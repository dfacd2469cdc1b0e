"""Operations on servers, against a real database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import BulkWriteError

from packages.database.client import Database
from packages.database.encryption import Cipher, FieldRef
from packages.models.tools import RegisteredTool
from registry.access.policy import ServerScope
from registry.auth.errors import AdminRequiredError
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.definitions import Rejection
from registry.core.errors import ValidationFailedError
from registry.core.paging import PageRequest
from registry.gateway.view.snapshot import Snapshot
from registry.servers.errors import (
    CredentialsRefusedError,
    DiscoveryFailedError,
    PathTakenError,
    ServerExistsError,
    ServerForbiddenError,
    ServerModifiedError,
    ServerNotFoundError,
    UnsafeUrlError,
)
from registry.servers.reconciliation.store import LARGE_CHARACTERS, ServerRepositories
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.servers.service import ServerService
from registry.servers.values import (
    ConnectionSpec,
    Discovered,
    Precondition,
    ServerFilter,
    ServerRecord,
    ServerStatus,
)
from tests.fakes.discovery import FakeDiscovery, RecordedChanges, found, tool
from tests.kit.servers import read_and_store, server_service

pytestmark = pytest.mark.wire

URL = "http://127.0.0.1:9999/mcp"
FIRST_PAGE = PageRequest(1, 20)


def create(name: str = "weather", **fields: object) -> ServerCreate:
    return ServerCreate.model_validate({"serverName": name, "url": URL, **fields})


def change(**fields: object) -> ServerUpdate:
    return ServerUpdate.model_validate(fields)


def unreachable(_: ConnectionSpec) -> Discovered:
    raise DiscoveryFailedError("Could not connect: connection refused.")


def refusing(_: ConnectionSpec) -> Discovered:
    raise CredentialsRefusedError("http://127.0.0.1:9999 answered 401.")


async def registered(
    servers: ServerService, user: UserContext, name: str = "weather", **fields: object
) -> ServerRecord:
    return await servers.register(create(name, **fields), user, strict=False)


ECHO_FUNCTION = {
    "type": "function",
    "mcpToolName": "echo",
    "function": {
        "name": "echo_mcp_weather",
        "description": "Does it.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


@pytest.mark.requirement("R-017")
@pytest.mark.requirement("R-034")
@pytest.mark.requirement("R-035")
@pytest.mark.requirement("R-036")
@pytest.mark.requirement("R-043")
@pytest.mark.requirement("R-047")
@pytest.mark.requirement("R-021")
@pytest.mark.requirement("R-062")
@pytest.mark.requirement("R-123")
async def test_registering_stores_the_server_its_tools_and_the_authors_acl_entry(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice, tags=["demo"])

    document = await database.collection("mcpservers").find_one({"_id": ObjectId(server.id)})
    row = await database.collection("mcp_tools").find_one({"owner_id": ObjectId(server.id)})
    entry = await database.collection("aclentries").find_one({"resourceId": ObjectId(server.id)})
    assert document is not None
    assert row is not None
    assert entry is not None
    now = server.created_at
    definition = tool("echo")
    assert document == {
        "_id": ObjectId(server.id),
        "serverName": "weather",
        "normalizedServerName": "weather",
        "config": {
            "type": "streamable-http",
            "url": URL,
            "requiresOAuth": False,
            "capabilities": '{"tools":{"listChanged":true}}',
            "tools": "echo",
            "toolFunctions": {"echo_mcp_weather": ECHO_FUNCTION},
            "initDuration": 12,
        },
        "author": ObjectId(alice.user_id),
        "scope": "private_user",
        "status": "active",
        "path": "/mcp/weather",
        "tags": ["demo"],
        "numTools": 1,
        "numStars": 0,
        "lastConnected": now,
        "createdAt": now,
        "updatedAt": now,
        "registry": document["registry"],
    }
    assert row.keys() <= {"_id"} | RegisteredTool.model_fields.keys()
    assert row == {
        "_id": row["_id"],
        "source_type": "mcp",
        "owner_id": ObjectId(server.id),
        "name": "echo",
        "external_id": "echo",
        "description": "Does it.",
        "definition": definition.definition,
        "input_schema": definition.input_schema,
        "discovery_hash": definition.discovery_hash,
        "registration_state": "selected",
        "exposure_state": "active",
        "tool_metadata": {},
        "metadata": {},
        "metadata_sources": {},
        "facets": [],
        "position": 0,
        "served_version": 1,
        "versions": 1,
        **dict.fromkeys(("last_discovered_at", "last_synced_at", "created_at", "updated_at"), now),
    }
    assert (entry["permBits"], entry["principalId"]) == (15, ObjectId(alice.user_id))


async def test_the_gateway_hears_of_a_registration(
    servers: ServerService, changes: RecordedChanges, alice: UserContext
) -> None:
    server = await registered(servers, alice)

    assert changes.changed == [server.id]


@pytest.mark.requirement("R-317")
async def test_a_server_is_found_by_what_the_other_application_looks_for(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice, startup=True)

    query = {"author": ObjectId(alice.user_id), "config.startup": True}
    document = await database.collection("mcpservers").find_one(query)

    assert document is not None
    assert document["normalizedServerName"] == server.server_name


@pytest.mark.requirement("R-124")
async def test_a_server_that_cannot_be_reached_is_stored_with_its_error(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    discovery.answer = unreachable

    server = await registered(servers, alice)

    assert server.status is ServerStatus.ERROR
    assert server.error_message == "Could not connect: connection refused."
    assert server.last_error is not None
    assert server.last_connected is None


async def test_a_strict_registration_of_an_unreachable_server_stores_nothing(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    discovery.answer = unreachable

    with pytest.raises(DiscoveryFailedError):
        await servers.register(create(), alice, strict=True)

    assert await database.collection("mcpservers").count_documents({}) == 0


async def test_an_unsafe_url_stores_nothing(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    def refuse(_: ConnectionSpec) -> Discovered:
        raise UnsafeUrlError("may not be contacted")

    discovery.answer = refuse

    with pytest.raises(UnsafeUrlError):
        await registered(servers, alice)

    assert await database.collection("mcpservers").count_documents({}) == 0


@pytest.mark.requirement("R-022")
@pytest.mark.requirement("E-02")
async def test_a_registration_that_fails_half_way_leaves_nothing(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    # The database's own validator refuses the second write of the transaction.
    discovery.answer = lambda _: found(tool(""))

    with pytest.raises(BulkWriteError):
        await registered(servers, alice)

    names = ("mcpservers", "mcp_tools", "aclentries")
    assert [await database.collection(name).count_documents({}) for name in names] == [0, 0, 0]


@pytest.mark.requirement("E-01")
@pytest.mark.requirement("R-045")
async def test_of_fifty_registrations_of_one_name_exactly_one_wins(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    outcomes = await asyncio.gather(
        *(registered(servers, alice) for _ in range(50)), return_exceptions=True
    )

    won = [item for item in outcomes if isinstance(item, ServerRecord)]
    lost = [item for item in outcomes if isinstance(item, ServerExistsError)]
    assert (len(won), len(lost)) == (1, 49)
    assert await database.collection("mcp_tools").count_documents({}) == 1
    assert await database.collection("aclentries").count_documents({}) == 1


@pytest.mark.requirement("R-046")
async def test_a_taken_path_is_refused_when_asked_for_and_avoided_when_not(
    servers: ServerService, alice: UserContext
) -> None:
    await registered(servers, alice, "first", path="/mcp/second")

    with pytest.raises(PathTakenError):
        await registered(servers, alice, "third", path="/mcp/second")
    second = await registered(servers, alice, "second")

    assert second.path == "/mcp/second-2"


@pytest.mark.requirement("R-243")
async def test_only_administrators_register_shared_servers(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext, root: UserContext
) -> None:
    with pytest.raises(AdminRequiredError):
        await registered(servers, alice, scope="shared_app")
    assert discovery.asked == []

    server = await registered(servers, root, scope="shared_app")

    assert server.scope is ServerScope.SHARED_APP


async def test_a_server_for_everyone_is_public_in_the_other_application_too(
    servers: ServerService, database: Database, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_app")
    entries = database.collection("aclentries")
    public = {"principalType": "public", "resourceId": ObjectId(server.id), "permBits": 1}
    assert await entries.count_documents(public) == 1

    await servers.update(server.id, change(scope="shared_user"), root)

    assert await entries.count_documents(public) == 0


@pytest.mark.requirement("R-037")
@pytest.mark.requirement("R-304")
@pytest.mark.requirement("R-038")
async def test_credentials_are_stored_encrypted_and_used_for_the_connection(
    servers: ServerService,
    discovery: FakeDiscovery,
    database: Database,
    cipher: Cipher,
    alice: UserContext,
) -> None:
    api_key = {"key": "user:pass", "authorization_type": "basic"}

    oauth = {
        "authorization_url": "https://login.example/authorize",
        "token_url": "https://login.example/token",
        "client_id": "me",
        "client_secret": "s3cret",
        "scope": "read",
    }

    server = await registered(
        servers, alice, apiKey=api_key, oauth=oauth, headers={"X-Team": "blue"}
    )

    document = await database.collection("mcpservers").find_one({"_id": ObjectId(server.id)})
    assert document is not None
    stored = document["config"]["apiKey"]["key"]
    assert "user:pass" not in stored
    reference = FieldRef("mcpservers", server.id, "config.apiKey.key")
    assert cipher.decrypt(stored, reference) == "user:pass"
    client_secret = document["config"]["oauth"]["client_secret"]
    assert document["config"]["oauth"] == {**oauth, "client_secret": client_secret}
    reference = FieldRef("mcpservers", server.id, "config.oauth.client_secret")
    assert cipher.decrypt(client_secret, reference) == "s3cret"
    assert discovery.asked[-1].headers == {
        "Authorization": "Basic dXNlcjpwYXNz",
        "X-Team": "blue",
    }


@pytest.mark.requirement("R-037")
async def test_a_key_that_users_bring_is_kept_where_the_other_application_looks_for_it(
    servers: ServerService,
    repositories: ServerRepositories,
    discovery: FakeDiscovery,
    database: Database,
    alice: UserContext,
) -> None:
    api_key = {"key": "sk-123456", "source": "user", "authorization_type": "bearer"}

    server = await registered(servers, alice, apiKey=api_key)

    assert "key" not in (server.config["apiKey"] or {})  # type: ignore[operator]  # an object
    assert server.config["headers"] == {"Authorization": "Bearer {{MCP_API_KEY}}"}
    assert await repositories.plugin_auths.values(alice.user_id, "weather", None) == {
        "MCP_API_KEY": "sk-123456"
    }
    stored = await database.collection("pluginauths").find_one({})
    assert stored is not None
    assert (stored["pluginKey"], stored["authField"]) == ("mcp_weather", "MCP_API_KEY")
    assert ":" not in stored["value"]
    assert discovery.asked[-1].headers == {"Authorization": "Bearer sk-123456"}


@pytest.mark.requirement("R-038")
@pytest.mark.requirement("R-039")
@pytest.mark.requirement("R-125")
async def test_an_oauth_server_is_stored_without_being_called(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    discovery.metadata = {"resource": URL, "authorization_servers": ["https://as.example.com"]}

    server = await registered(servers, alice, requiresOAuth=True)

    assert server.status is ServerStatus.ACTIVE
    assert server.config["oauthMetadata"] == discovery.metadata
    assert discovery.asked[-1].headers == {}


async def test_tools_that_cannot_be_taken_are_reported(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    discovery.answer = lambda _: found(tool("a"), rejected=(Rejection("b c", "bad name"),))

    server = await registered(servers, alice)

    assert server.registry["tool_problems"] == [{"name": "b c", "reason": "bad name"}]


@pytest.mark.requirement("E-03")
async def test_thousands_of_tools_are_stored_in_one_registration(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    discovery.answer = lambda _: found(*(tool(f"tool_{n:05}", "x" * 700) for n in range(3_000)))

    server = await registered(servers, alice)

    assert await database.collection("mcp_tools").count_documents({}) == 3_000
    assert len(str(server.config["tools"]).split(", ")) == 3_000


@pytest.mark.requirement("R-034")
@pytest.mark.requirement("R-128")
async def test_an_update_changes_the_given_fields_and_no_others(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice, title="Weather")
    key = {"_id": ObjectId(server.id)}
    foreign = {"__v": 3, "proxyPassUrl": "http://x", "config.chatMenu": True}
    await database.collection("mcpservers").update_one(key, {"$set": foreign})

    updated = await servers.update(server.id, change(description="Now with wind"), alice)

    document = await database.collection("mcpservers").find_one(key)
    assert document is not None
    assert (document["__v"], document["proxyPassUrl"]) == (3, "http://x")
    assert document["config"]["chatMenu"] is True
    assert updated.config["description"] == "Now with wind"
    assert updated.config["title"] == "Weather"
    assert updated.updated_at is not None
    assert server.updated_at is not None
    assert updated.updated_at > server.updated_at


@pytest.mark.requirement("R-129")
async def test_a_mask_sent_back_leaves_the_stored_secret_alone(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    api_key = {"key": "sk-1", "authorization_type": "bearer"}
    oauth = {
        "client_id": "me",
        "client_secret": "s3cret",
        "authorization_url": "https://as.example.com/authorize",
        "token_url": "https://as.example.com/token",
    }
    server = await registered(servers, alice, apiKey=api_key, oauth=oauth)

    updated = await servers.update(
        server.id,
        change(
            apiKey={"key": "***", "authorization_type": "custom", "custom_header": "X-Key"},
            oauth={"client_secret": "***", "client_id": "you"},
        ),
        alice,
    )

    assert discovery.asked[-1].headers == {"X-Key": "sk-1"}
    before, after = server.config["oauth"], updated.config["oauth"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert after == {**before, "client_id": "you"}


async def test_a_null_removes_an_optional_field_and_not_a_required_one(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice, title="Weather")

    updated = await servers.update(server.id, change(title=None), alice)
    with pytest.raises(ValidationFailedError, match="url"):
        await servers.update(server.id, change(url=None), alice)

    assert "title" not in updated.config


async def test_read_only_fields_may_be_sent_back_but_not_changed(
    servers: ServerService, alice: UserContext, bob: UserContext
) -> None:
    server = await registered(servers, alice)

    same = await servers.update(server.id, change(author=alice.user_id, id=server.id), alice)
    with pytest.raises(ValidationFailedError, match="author"):
        await servers.update(server.id, change(author=bob.user_id), alice)

    assert same.author == alice.user_id


@pytest.mark.requirement("R-130")
async def test_an_update_from_an_old_reading_is_refused_with_both_times(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    await servers.update(server.id, change(title="Newer"), alice)
    assert server.updated_at is not None

    with pytest.raises(ServerModifiedError) as refusal:
        await servers.update(
            server.id, change(title="Older", updatedAt=server.updated_at.isoformat()), alice
        )

    assert set(refusal.value.facts) == {"current_updated_at", "provided_updated_at"}


@pytest.mark.requirement("R-023")
async def test_of_many_updates_from_one_reading_exactly_one_wins(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    assert server.updated_at is not None
    read_at = server.updated_at

    outcomes = await asyncio.gather(
        *(
            servers.update(
                server.id, change(title=f"T{n}"), alice, precondition=Precondition(read_at)
            )
            for n in range(20)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(item, ServerRecord) for item in outcomes) == 1
    assert sum(isinstance(item, ServerModifiedError) for item in outcomes) == 19


@pytest.mark.requirement("R-131")
@pytest.mark.parametrize(
    ("fields", "is_read"),
    [
        ({"url": "http://127.0.0.1:1/mcp"}, True),
        ({"type": "sse"}, True),
        ({"apiKey": {"key": "other", "authorization_type": "bearer"}}, True),
        ({"headers": {"X-Team": "red"}}, True),
        ({"oauth": {"client_id": "me"}}, True),
        ({"url": URL, "type": "streamable-http"}, False),
        ({"path": "/mcp/elsewhere"}, False),
        ({"title": "Same place"}, False),
    ],
    ids=repr,
)
async def test_a_server_that_is_reached_in_another_way_is_read_at_once(
    servers: ServerService,
    discovery: FakeDiscovery,
    alice: UserContext,
    fields: dict[str, object],
    *,
    is_read: bool,
) -> None:
    server = await registered(servers, alice)
    discovery.answer = lambda _: found(tool("other"))

    updated = await servers.update(server.id, change(**fields), alice)

    assert updated.config["tools"] == ("other" if is_read else "echo")
    assert len(discovery.asked) == (2 if is_read else 1)


async def test_a_user_cannot_change_scope_and_nobody_sets_the_error_status(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice)

    with pytest.raises(AdminRequiredError):
        await servers.update(server.id, change(scope="shared_app"), alice)
    with pytest.raises(ValidationFailedError, match="status"):
        await servers.update(server.id, change(status="error"), alice)


@pytest.mark.requirement("R-054")
@pytest.mark.requirement("R-132")
async def test_deleting_removes_everything_that_belongs_to_the_server_alone(
    servers: ServerService,
    database: Database,
    clock: object,
    alice: UserContext,
) -> None:
    key = {"key": "k", "source": "user"}
    server = await registered(servers, alice, apiKey=key)
    other = await registered(servers, alice, "other", apiKey=key)
    now = server.created_at
    assert now is not None
    for identifier in ("mcp:weather", "mcp:other"):
        await database.collection("tokens").insert_one(
            {
                "userId": ObjectId(alice.user_id),
                "type": "mcp_oauth",
                "identifier": identifier,
                "token": "t",
                "createdAt": now,
                "expiresAt": now + timedelta(hours=1),
            }
        )

        await database.collection("oauth_flows").insert_one(
            {
                "_id": identifier,
                "user_id": ObjectId(alice.user_id),
                "username": "alice",
                "role": "user",
                "is_service_account": False,
                "server_id": server.id if identifier == "mcp:weather" else other.id,
                "server_name": "weather",
                "server_url": "https://mcp.example.com/mcp",
                "configuration": "digest",
                "status": "pending",
                "created_at": now,
                "updated_at": now,
                "expires_at": now + timedelta(hours=1),
            }
        )

    await servers.delete(server.id, alice)

    owners = await database.collection("mcp_tools").distinct("owner_id")
    resources = await database.collection("aclentries").distinct("resourceId")
    assert owners == resources == [ObjectId(other.id)]
    assert await database.collection("tokens").distinct("identifier") == ["mcp:other"]
    assert await database.collection("oauth_flows").distinct("_id") == ["mcp:other"]
    assert await database.collection("pluginauths").distinct("pluginKey") == ["mcp_other"]
    with pytest.raises(ServerNotFoundError):
        await servers.delete(server.id, alice)


async def test_deleting_anothers_private_server_is_forbidden(
    servers: ServerService, alice: UserContext, bob: UserContext
) -> None:
    server = await registered(servers, alice)

    with pytest.raises(
        ServerForbiddenError, match=r"^Cannot delete another user's private server$"
    ):
        await servers.delete(server.id, bob)
    with pytest.raises(ServerNotFoundError):
        await servers.get(server.id, bob)
    with pytest.raises(ServerNotFoundError):
        await servers.update(server.id, change(title="Mine"), bob)


async def test_a_shared_server_is_seen_but_not_changed_by_users(
    servers: ServerService, alice: UserContext, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_app")

    assert (await servers.get(server.id, alice)).id == server.id
    with pytest.raises(ServerForbiddenError):
        await servers.toggle(server.id, alice, enabled=False)
    with pytest.raises(ServerForbiddenError):
        await servers.delete(server.id, alice)


@pytest.mark.requirement("R-136")
async def test_a_failed_refresh_keeps_the_tools_and_says_what_went_wrong(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    discovery.answer = unreachable

    outcome = await servers.refresh(server.id, alice)
    refreshed, failure = outcome.server, outcome.failure

    assert failure == "Could not connect: connection refused."
    assert refreshed.config["tools"] == "echo"
    assert refreshed.last_connected == server.last_connected
    assert (refreshed.status, refreshed.error_message) == (ServerStatus.ACTIVE, failure)


async def test_failures_in_a_row_set_the_error_status_and_a_success_clears_it(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    working, discovery.answer = discovery.answer, unreachable
    for _ in range(2):
        await servers.refresh(server.id, alice)
    failed = (await servers.refresh(server.id, alice)).server
    discovery.answer = working

    recovered = (await servers.refresh(server.id, alice)).server

    assert failed.status is ServerStatus.ERROR
    assert recovered.status is ServerStatus.ACTIVE
    assert recovered.error_message is None
    assert "consecutive_failures" not in recovered.registry


@pytest.mark.requirement("R-287")
async def test_how_many_failures_make_an_error_is_a_setting(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    discovery: FakeDiscovery,
    clock: SystemClock,
    alice: UserContext,
) -> None:
    upstreams = read_and_store(
        database, repositories, cipher, discovery, clock=clock, failures_until_error=1
    )
    servers = server_service(repositories, cipher, upstreams, clock=clock)
    server = await registered(servers, alice)
    discovery.answer = unreachable

    refreshed = (await servers.refresh(server.id, alice)).server

    assert refreshed.status is ServerStatus.ERROR


async def test_a_key_of_the_callers_own_that_is_refused_is_no_failure_of_the_server(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice, apiKey={"source": "user", "key": "wrong"})
    discovery.answer = refusing

    for _ in range(2):
        await servers.refresh(server.id, alice)
    refreshed = await servers.refresh(server.id, alice)

    assert refreshed.failure == "http://127.0.0.1:9999 answered 401."
    assert (refreshed.server.status, refreshed.server.error_message) == (server.status, None)
    assert refreshed.server.updated_at == server.updated_at


async def test_a_key_for_all_that_is_refused_is_a_failure_of_the_server(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice, apiKey={"key": "wrong"})
    discovery.answer = refusing

    refreshed = await servers.refresh(server.id, alice)

    assert refreshed.server.error_message == "http://127.0.0.1:9999 answered 401."


async def test_a_refresh_never_turns_an_inactive_server_on(
    servers: ServerService, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    await servers.toggle(server.id, alice, enabled=False)

    refreshed = (await servers.refresh(server.id, alice)).server

    assert refreshed.status is ServerStatus.INACTIVE


@pytest.mark.requirement("R-048")
async def test_a_refresh_of_an_unchanged_server_is_no_modification(
    servers: ServerService, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)

    refreshed = (await servers.refresh(server.id, alice)).server

    assert refreshed.updated_at == server.updated_at
    assert refreshed.last_connected is not None
    assert server.last_connected is not None
    assert refreshed.last_connected > server.last_connected
    row = await database.collection("mcp_tools").find_one({})
    assert row is not None
    assert row["served_version"] == 1


async def test_new_tools_of_a_shared_server_wait_until_a_refresh_accepts_them(
    servers: ServerService, discovery: FakeDiscovery, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_app")
    discovery.answer = lambda _: found(tool("echo", "Changed."), tool("new"))

    first = await servers.refresh(server.id, root)
    held = first.server
    _, held_tools = await servers.tools(server.id, root)
    second = await servers.refresh(server.id, root, accept=True)
    accepted = second.server
    _, accepted_tools = await servers.tools(server.id, root)

    assert (first.held, second.held) == (("echo", "new"), ())
    assert held.config["tools"] == "echo"
    assert [item.description for item in held_tools] == ["Does it."]
    assert accepted.config["tools"] == "echo, new"
    assert [item.description for item in accepted_tools] == ["Changed.", "Does it."]


@pytest.mark.requirement("R-248")
@pytest.mark.requirement("R-250")
@pytest.mark.requirement("R-117")
async def test_lists_and_totals_hold_only_what_the_caller_may_see(
    servers: ServerService, alice: UserContext, bob: UserContext, root: UserContext, view: Snapshot
) -> None:
    await registered(servers, alice, "alices")
    await registered(servers, bob, "bobs")
    await registered(servers, root, "everyones", scope="shared_app")
    await registered(servers, root, "somes", scope="shared_user")

    await view.load()
    seen = {
        user.username: await servers.list_page(user, ServerFilter(), FIRST_PAGE)
        for user in (alice, bob, root)
    }

    names = {who: {item.server_name for item in page.items} for who, page in seen.items()}
    assert names == {
        "alice": {"alices", "everyones"},
        "bob": {"bobs", "everyones"},
        "root": {"alices", "bobs", "everyones", "somes"},
    }
    assert {who: page.total for who, page in seen.items()} == {"alice": 2, "bob": 2, "root": 4}


async def test_an_acl_entry_of_the_other_application_opens_a_shared_server(
    servers: ServerService, database: Database, bob: UserContext, root: UserContext
) -> None:
    server = await registered(servers, root, scope="shared_user")
    await database.collection("aclentries").insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(bob.user_id),
            "principalModel": "User",
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server.id),
            "permBits": 1,
        }
    )

    assert (await servers.get(server.id, bob)).id == server.id


@pytest.mark.requirement("R-114")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("WEATHER", {"weather"}),
        ("wind.*", {"literal"}),
        ("(a+)+$", set()),
        ("sunny", {"weather"}),
        ("Forecast", {"weather"}),
    ],
)
async def test_a_search_is_literal_and_ignores_case(
    servers: ServerService, alice: UserContext, query: str, expected: set[str], view: Snapshot
) -> None:
    await registered(servers, alice, title="Forecasts", tags=["Sunny"])
    await registered(servers, alice, "literal", description="matches wind.* and no other")

    await view.load()
    page = await servers.list_page(alice, ServerFilter(query=query), FIRST_PAGE)

    assert {item.server_name for item in page.items} == expected


@pytest.mark.requirement("R-250")
@pytest.mark.requirement("R-115")
async def test_only_administrators_list_by_another_author(
    servers: ServerService, alice: UserContext, bob: UserContext, root: UserContext, view: Snapshot
) -> None:
    await registered(servers, alice)
    await view.load()
    narrowed = ServerFilter(author=alice.user_id)

    with pytest.raises(AdminRequiredError):
        await servers.list_page(bob, narrowed, FIRST_PAGE)

    assert (await servers.list_page(root, narrowed, FIRST_PAGE)).total == 1
    assert (await servers.list_page(alice, narrowed, FIRST_PAGE)).total == 1


@pytest.mark.requirement("R-316")
@pytest.mark.requirement("E-22")
async def test_a_document_of_the_other_application_is_listed_with_defaults_and_not_rewritten(
    servers: ServerService, database: Database, alice: UserContext, view: Snapshot
) -> None:
    document = {
        "_id": ObjectId(),
        "serverName": "legacy",
        "config": {
            "type": "streamable-http",
            "url": "http://u:p@legacy.example.com/mcp",
            "toolFunctions": {
                "find_mcp_legacy": {"type": "function", "function": {"name": "find_mcp_legacy"}}
            },
            "tools": "find",
        },
        "author": ObjectId(alice.user_id),
        "scope": "galactic",
        "__v": 0,
    }
    await database.collection("mcpservers").insert_one(document)

    await view.load()
    page = await servers.list_page(alice, ServerFilter(), FIRST_PAGE)
    _, tools = await servers.tools(str(document["_id"]), alice)

    assert [item.effective_path for item in page.items] == ["/mcp/legacy"]
    assert page.items[0].effective_status is ServerStatus.ACTIVE
    assert [item.name for item in tools] == ["find"]
    stored = await database.collection("mcpservers").find_one({"_id": document["_id"]})
    assert stored == document


@pytest.mark.requirement("R-137")
async def test_statistics_add_up_and_name_every_kind(
    servers: ServerService, alice: UserContext, root: UserContext, view: Snapshot
) -> None:
    await registered(servers, alice)
    await registered(servers, root, "shared", scope="shared_app", type="sse")

    await view.load()
    counts, tokens = await servers.stats(root)

    assert counts.total == sum(counts.by_scope.values()) == sum(counts.by_status.values()) == 2
    assert counts.by_transport == {"streamable-http": 1, "sse": 1}
    assert counts.tools == 2
    assert (tokens.total, sorted(tokens.by_type.values())) == (0, [0, 0, 0])
    with pytest.raises(AdminRequiredError):
        await servers.stats(alice)


async def test_a_refresh_that_a_deletion_outran_leaves_no_tools(
    servers: ServerService, discovery: FakeDiscovery, database: Database, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    discovery.meanwhile = lambda: servers.delete(server.id, alice)

    with pytest.raises(ServerNotFoundError):
        await servers.refresh(server.id, alice)

    assert await database.collection("mcp_tools").count_documents({}) == 0


@pytest.mark.parametrize("operation", ["update", "refresh"])
async def test_a_right_that_ends_while_the_upstream_is_read_changes_nothing(
    servers: ServerService,
    discovery: FakeDiscovery,
    database: Database,
    bob: UserContext,
    root: UserContext,
    operation: str,
) -> None:
    server = await servers.register(create(scope="shared_user"), root, strict=False)
    entries = database.collection("aclentries")
    await entries.insert_one(
        {
            "principalType": "user",
            "principalId": ObjectId(bob.user_id),
            "resourceType": "mcpServer",
            "resourceId": ObjectId(server.id),
            "permBits": 3,
        }
    )

    async def take_the_right_away() -> None:
        await entries.delete_one({"principalId": ObjectId(bob.user_id)})

    discovery.meanwhile = take_the_right_away
    discovery.answer = lambda _: found(tool("other"))
    elsewhere = change(url="http://127.0.0.1:9/elsewhere")
    tries: dict[str, Callable[[], Awaitable[object]]] = {
        "update": lambda: servers.update(server.id, elsewhere, bob),
        "refresh": lambda: servers.refresh(server.id, bob, accept=True),
    }
    with pytest.raises(ServerForbiddenError):
        await tries[operation]()

    after, served = await servers.tools(server.id, root)
    assert after.config["url"] == server.config["url"]
    assert [item.name for item in served] == ["echo"]


async def test_a_refresh_that_was_outrun_reads_again_and_stores_what_it_read_last(
    servers: ServerService, discovery: FakeDiscovery, alice: UserContext
) -> None:
    server = await registered(servers, alice)
    discovery.answer = lambda _: found(tool(f"reading_{len(discovery.asked)}"))

    async def outrun_once() -> None:
        discovery.meanwhile = None
        await servers.update(server.id, change(title="changed meanwhile"), alice)

    discovery.meanwhile = outrun_once
    await servers.refresh(server.id, alice)

    _, served = await servers.tools(server.id, alice)
    assert [item.name for item in served] == ["reading_3"]


async def test_large_sets_of_tools_are_written_one_after_another(
    servers: ServerService,
    database: Database,
    discovery: FakeDiscovery,
    alice: UserContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, most = 0, 0
    transaction = database.transaction

    async def counted(write: Any, **limits: float) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await transaction(write, **limits)
        finally:
            running -= 1

    monkeypatch.setattr(database, "transaction", counted)
    discovery.answer = lambda _: found(tool("large", "x" * LARGE_CHARACTERS))

    await asyncio.gather(*(registered(servers, alice, f"s{n}") for n in range(5)))

    assert most == 1
