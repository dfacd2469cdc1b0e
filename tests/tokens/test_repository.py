"""Tokens and users' keys at rest, against a real server."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId, json_util

from packages.database.client import Database
from packages.database.encryption import Cipher, DecryptionError, StoredForm, stored_form
from registry.core.json import JsonObject
from registry.tokens.plugin_auths import PluginAuthRepository
from registry.tokens.repository import NewToken, TokenRepository
from registry.tokens.transactions import in_transaction
from registry.tokens.values import (
    StoredKey,
    StoredToken,
    TokenCounts,
    TokenType,
)

pytestmark = pytest.mark.wire

ALICE, BOB = "a" * 24, "b" * 24
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SENTINEL = "s3ntinel-s3ntinel"
METADATA: JsonObject = {
    "server_id": "c" * 24,
    "server_name": "weather",
    "scope": "a b",
    "token_type": "Bearer",
    "refresh_token_id": "d" * 24,
    "access_token_id": "e" * 24,
    "own": {"deep": [1, None, {"x": True}]},
}

OTHER = NewToken("x", NOW, LATER, {})


@pytest.fixture
def tokens(database: Database, cipher: Cipher) -> TokenRepository:
    return TokenRepository(database, cipher)


@pytest.fixture
def auths(database: Database, cipher: Cipher) -> PluginAuthRepository:
    return PluginAuthRepository(database, cipher)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The repository, with a transaction around each write."""

    database: Database
    tokens: TokenRepository

    async def store(
        self,
        value: str = SENTINEL,
        *,
        user_id: str = ALICE,
        stored_type: str = "mcp_oauth",
        identifier: str = "mcp:weather",
        expires_at: datetime = LATER,
        metadata: JsonObject | None = None,
    ) -> str:
        """Store a token and return its id."""
        key = StoredKey(stored_type, identifier)
        written = NewToken(value, NOW, expires_at, metadata or {})
        token = await in_transaction(
            self.database, lambda tx: self.tokens.store(user_id, key, written, tx)
        )
        return token.token_id

    async def renew(self, token_id: str, user_id: str, written: NewToken) -> None:
        """Give a token new values."""
        await self.database.transaction(
            lambda tx: self.tokens.renew(token_id, user_id, written, tx)
        )

    async def delete(self, token_id: str, user_id: str) -> None:
        """Remove a token."""
        await self.database.transaction(lambda tx: self.tokens.delete(token_id, user_id, tx))


@pytest.fixture
def shelf(database: Database, tokens: TokenRepository) -> Shelf:
    return Shelf(database, tokens)


async def dump(database: Database, collection: str) -> str:
    return json_util.dumps([row async for row in database.collection(collection).find({})])


@pytest.mark.requirement("R-090")
@pytest.mark.requirement("R-319")
async def test_a_token_comes_back_as_it_was_stored(tokens: TokenRepository, shelf: Shelf) -> None:
    token_id = await shelf.store(metadata=METADATA)

    assert await tokens.get(token_id, ALICE, NOW) == StoredToken.model_validate(
        {
            "_id": ObjectId(token_id),
            "userId": ObjectId(ALICE),
            "type": "mcp_oauth",
            "identifier": "mcp:weather",
            "createdAt": NOW,
            "expiresAt": LATER,
            "metadata": METADATA,
            "token": SENTINEL,
        }
    )


@pytest.mark.requirement("R-304")
@pytest.mark.requirement("R-094")
async def test_a_dump_of_the_collection_holds_no_token(database: Database, shelf: Shelf) -> None:
    await shelf.store()

    text = await dump(database, "tokens")

    assert SENTINEL not in text
    row = await database.collection("tokens").find_one({})
    assert row is not None
    assert stored_form(row["token"]) is StoredForm.V2


@pytest.mark.requirement("R-306")
async def test_a_token_does_not_show_in_its_value(tokens: TokenRepository, shelf: Shelf) -> None:
    token = await tokens.get(await shelf.store(), ALICE, NOW)

    assert SENTINEL not in repr(token)


@pytest.mark.requirement("R-096")
async def test_an_expired_token_does_not_exist(
    tokens: TokenRepository, database: Database, shelf: Shelf
) -> None:
    token_id = await shelf.store()

    assert await tokens.get(token_id, ALICE, LATER) is None
    assert await tokens.get(token_id, ALICE, LATER - timedelta(milliseconds=1)) is not None
    assert await database.collection("tokens").count_documents({}) == 1


@pytest.mark.requirement("R-093")
async def test_storing_again_replaces(
    tokens: TokenRepository, database: Database, shelf: Shelf
) -> None:
    first = await shelf.store("one")
    second = await shelf.store("two")

    token = await tokens.get(second, ALICE, NOW)
    assert first == second
    assert token is not None
    assert token.value == "two"
    assert await database.collection("tokens").count_documents({}) == 1


@pytest.mark.requirement("R-093")
async def test_storing_at_the_same_time_leaves_one(database: Database, shelf: Shelf) -> None:
    ids = await asyncio.gather(*(shelf.store(str(number)) for number in range(10)))

    assert len(set(ids)) == 1
    assert await database.collection("tokens").count_documents({}) == 1


@pytest.mark.requirement("R-093")
async def test_users_types_and_identifiers_are_kept_apart(
    database: Database, shelf: Shelf
) -> None:
    await shelf.store()
    await shelf.store(user_id=BOB)
    await shelf.store(stored_type="mcp_oauth_refresh")
    await shelf.store(identifier="mcp:other")

    assert await database.collection("tokens").count_documents({}) == 4


@pytest.mark.requirement("R-250")
async def test_nobody_reads_or_changes_anothers_token(
    tokens: TokenRepository, shelf: Shelf
) -> None:
    token_id = await shelf.store()

    assert await tokens.get(token_id, BOB, NOW) is None
    await shelf.renew(token_id, BOB, OTHER)
    await shelf.delete(token_id, BOB)
    token = await tokens.get(token_id, ALICE, NOW)
    assert token is not None
    assert token.value == SENTINEL


async def test_a_token_is_renewed_in_place(tokens: TokenRepository, shelf: Shelf) -> None:
    token_id = await shelf.store(metadata=METADATA)
    later = LATER + timedelta(hours=1)

    await shelf.renew(token_id, ALICE, NewToken("new", LATER, later, METADATA))

    token = await tokens.get(token_id, ALICE, LATER)
    assert token is not None
    assert (token.value, token.expires_at) == ("new", later)
    assert token.created_at == LATER
    assert token.metadata == METADATA


@pytest.mark.requirement("R-091")
@pytest.mark.requirement("R-316")
async def test_tokens_of_other_kinds_are_never_touched(
    tokens: TokenRepository, database: Database, shelf: Shelf
) -> None:
    other = {"userId": ObjectId(ALICE), "token": "plain", "createdAt": NOW, "expiresAt": LATER}
    rows = database.collection("tokens")
    await rows.insert_many([{**other, "email": "a@b.c"}, {**other, "type": "email_verification"}])
    before = await dump(database, "tokens")

    for row in await rows.find({}).to_list():
        token_id = str(row["_id"])
        assert await tokens.get(token_id, ALICE, NOW) is None
        await shelf.renew(token_id, ALICE, OTHER)
        await shelf.delete(token_id, ALICE)
    counts = await tokens.counts(NOW)

    assert await dump(database, "tokens") == before
    assert counts.total == 0


@pytest.mark.requirement("R-133")
async def test_a_servers_tokens_go_with_it_and_no_others(
    tokens: TokenRepository, database: Database, shelf: Shelf
) -> None:
    await shelf.store()
    await shelf.store(stored_type="mcp_oauth_refresh", identifier="mcp:weather:refresh")
    await shelf.store(stored_type="mcp_oauth_client", identifier="mcp:weather:client")
    await shelf.store(user_id=BOB)
    kept = await shelf.store(identifier="mcp:weather2")
    await database.collection("tokens").insert_one(
        {"_id": "theirs", "type": "other", "identifier": "mcp:weather"}
    )

    await database.transaction(lambda tx: tokens.delete_of_server("weather", None, None, tx))

    rows = await database.collection("tokens").find({}).to_list()
    assert {str(row["_id"]) for row in rows} == {kept, "theirs"}


@pytest.mark.requirement("R-137")
async def test_tokens_are_counted_by_kind_and_state(tokens: TokenRepository, shelf: Shelf) -> None:
    await shelf.store()
    await shelf.store(stored_type="oauth_access", identifier="x")
    await shelf.store(stored_type="mcp_oauth_refresh", user_id=BOB)
    await shelf.store(stored_type="api_key", user_id=BOB, expires_at=NOW)

    assert await tokens.counts(NOW) == TokenCounts(
        total=4,
        by_type={TokenType.OAUTH_ACCESS: 2, TokenType.OAUTH_REFRESH: 1, TokenType.API_KEY: 1},
        active=3,
        expired=1,
        active_users=2,
        active_by_type={
            TokenType.OAUTH_ACCESS: 2,
            TokenType.OAUTH_REFRESH: 1,
            TokenType.API_KEY: 0,
        },
    )


async def test_no_tokens_are_counted_as_none(tokens: TokenRepository) -> None:
    assert await tokens.counts(NOW) == TokenCounts(0, dict.fromkeys(TokenType, 0), 0, 0, 0)


@pytest.mark.requirement("E-13")
async def test_a_token_of_another_key_is_named_and_kept(database: Database, shelf: Shelf) -> None:
    token_id = await shelf.store()
    before = await dump(database, "tokens")
    other = TokenRepository(database, Cipher("ab" * 32, "1e" * 16))

    with pytest.raises(DecryptionError, match=f"token of document {token_id} in tokens"):
        await other.get(token_id, ALICE, NOW)

    assert await dump(database, "tokens") == before


@pytest.mark.requirement("R-304")
async def test_a_users_key_is_kept_in_the_form_jarvis_reads(
    auths: PluginAuthRepository, database: Database
) -> None:
    await database.transaction(lambda tx: auths.store(ALICE, "weather", SENTINEL, NOW, tx))
    await database.transaction(lambda tx: auths.store(ALICE, "weather", "newer", NOW, tx))

    (row,) = await database.collection("pluginauths").find({}).to_list()
    assert await auths.values(ALICE, "weather", None) == {"MCP_API_KEY": "newer"}
    assert stored_form(row.pop("value")) is StoredForm.V1
    del row["_id"]
    assert row == {
        "userId": ALICE,
        "pluginKey": "mcp_weather",
        "authField": "MCP_API_KEY",
        "createdAt": NOW,
        "updatedAt": NOW,
        "__v": 0,
    }


async def test_a_users_key_is_nobody_elses(
    auths: PluginAuthRepository, database: Database
) -> None:
    await database.transaction(lambda tx: auths.store(ALICE, "weather", SENTINEL, NOW, tx))

    assert await auths.values(BOB, "weather", None) == {}
    assert await auths.values(ALICE, "other", None) == {}


@pytest.mark.requirement("R-133")
async def test_a_servers_keys_go_with_it(auths: PluginAuthRepository, database: Database) -> None:
    await database.transaction(lambda tx: auths.store(ALICE, "weather", SENTINEL, NOW, tx))
    await database.transaction(lambda tx: auths.store(BOB, "other", SENTINEL, NOW, tx))

    await database.transaction(lambda tx: auths.delete_of_server("weather", None, None, tx))

    assert await auths.values(ALICE, "weather", None) == {}
    assert await auths.values(BOB, "other", None) == {"MCP_API_KEY": SENTINEL}
