"""Documents and repositories in memory: no server, no socket, a few milliseconds."""

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from beanie import PydanticObjectId

from packages.database.client import Transaction
from packages.database.encryption import Cipher
from packages.models import MCPServer
from registry.auth.repository import DirectoryRepository
from registry.auth.values import DirectoryEntry
from registry.tokens.repository import NewToken, TokenRepository
from registry.tokens.values import StoredKey
from tests.fakes.memory_database import MemoryDatabase

ALICE = "a" * 24
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_TX = cast("Transaction", None)
"""The memory knows no transactions."""


@pytest.fixture
def memory() -> MemoryDatabase:
    return MemoryDatabase()


def server(memory: MemoryDatabase, name: str, author: str = ALICE) -> MCPServer:
    document: MCPServer = memory.document(MCPServer).model_validate(
        {
            "serverName": name,
            "config": {"type": "streamable-http", "url": "http://127.0.0.1:1/mcp"},
            "author": PydanticObjectId(author),
            "tenantId": "unknown to us",
        }
    )
    return document


async def test_a_document_is_stored_in_the_shared_spelling(memory: MemoryDatabase) -> None:
    await server(memory, "weather").insert()

    row = await memory.collection("mcpservers").find_one({})

    assert row is not None
    assert (row["serverName"], row["tenantId"]) == ("weather", "unknown to us")
    assert row["config"]["url"] == "http://127.0.0.1:1/mcp"


@pytest.mark.requirement("R-317")
async def test_documents_are_found_by_their_author(memory: MemoryDatabase) -> None:
    servers = memory.document(MCPServer)
    await servers.insert_many(
        [server(memory, "a"), server(memory, "b"), server(memory, "c", "b" * 24)]
    )

    found = await servers.find({"author": PydanticObjectId(ALICE)}).sort("serverName").to_list()

    assert [item.server_name for item in found] == ["a", "b"]
    assert await servers.find({}).count() == 3


async def test_a_documents_unknown_fields_survive_a_change(memory: MemoryDatabase) -> None:
    await server(memory, "weather").insert()
    loaded = await memory.document(MCPServer).find_one({"serverName": "weather"})
    assert loaded is not None

    loaded.config.title = "Weather"
    await loaded.save()

    row = await memory.collection("mcpservers").find_one({})
    assert row is not None
    assert (row["config"]["title"], row["tenantId"]) == ("Weather", "unknown to us")


async def test_documents_are_grouped(memory: MemoryDatabase) -> None:
    await memory.document(MCPServer).insert_many(
        [server(memory, "a"), server(memory, "b"), server(memory, "c", "b" * 24)]
    )

    groups = (
        await memory.document(MCPServer)
        .aggregate([{"$group": {"_id": "$author", "n": {"$sum": 1}}}, {"$sort": {"n": 1}}])
        .to_list()
    )

    assert [group["n"] for group in groups] == [1, 2]


async def test_a_token_is_stored_and_read(memory: MemoryDatabase, cipher: Cipher) -> None:
    tokens = TokenRepository(memory, cipher)

    written = NewToken("secret", NOW, NOW + timedelta(hours=1), {})
    stored = await tokens.store(ALICE, StoredKey("mcp_oauth", "mcp:weather"), written, NO_TX)

    token = await tokens.get(stored.token_id, ALICE, NOW)
    assert token is not None
    assert (token.key, token.value) == (stored.key, "secret")
    await tokens.delete(stored.token_id, ALICE, NO_TX)
    assert await tokens.get(stored.token_id, ALICE, NOW) is None


async def test_a_user_is_looked_up_with_groups(memory: MemoryDatabase) -> None:
    await memory.collection("users").insert_one({"_id": PydanticObjectId(ALICE), "role": "ADMIN"})
    group = await memory.collection("groups").insert_one({"memberIds": [ALICE]})

    entry = await DirectoryRepository(memory).get(ALICE)

    assert entry == DirectoryEntry("ADMIN", "", frozenset({str(group.inserted_id)}))
