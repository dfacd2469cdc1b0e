"""What is stored of versions, and what the database refuses."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import DuplicateKeyError, WriteError

from packages.database.client import Database, Transaction
from packages.database.encryption import Cipher
from packages.models.states import ServerVersionOrigin
from registry.operations.rotation import rotate, survey
from registry.servers.storage.version_repository import (
    ServerVersionRepository,
    VersionCause,
)
from registry.tools.values import ToolEditor
from tests.conftest import CREDS_IV, CREDS_KEY

pytestmark = pytest.mark.wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVER = "a" * 24
NEW_KEY = "c4" * 32
UPDATE = VersionCause(NOW, ToolEditor("b" * 24, "bob"), ServerVersionOrigin.UPDATE)


def repository(database: Database, cipher: Cipher, kept: int = 50) -> ServerVersionRepository:
    return ServerVersionRepository(database, cipher, kept=kept)


def config(cipher: Cipher, key: str, **members: Any) -> dict[str, Any]:
    return {"url": "https://a.example", "apiKey": {"key": cipher.encrypt_shared(key)}, **members}


async def record(
    database: Database,
    versions: ServerVersionRepository,
    before: dict[str, Any] | None,
    after: dict[str, Any],
) -> int | None:
    async def write(tx: Transaction) -> int | None:
        return await versions.record(SERVER, before, after, UPDATE, tx)

    return await database.transaction(write)


async def kept(database: Database) -> list[tuple[int, str]]:
    rows = database.collection("server_versions").find({}, sort=[("version", 1)])
    return [(row["version"], row["state"]) async for row in rows]


@pytest.mark.requirement("R-051")
async def test_the_newest_are_kept_and_the_active_one_always(
    database: Database, cipher: Cipher
) -> None:
    versions = repository(database, cipher, kept=3)
    before: dict[str, Any] | None = None
    for number in range(6):
        after = {"url": f"https://{number}.example"}
        await record(database, versions, before, after)
        before = after
    few = repository(database, cipher, kept=1)

    three = await kept(database)
    await record(database, few, before, {"url": "https://last.example"})

    assert three == [(4, "former"), (5, "former"), (6, "active")]
    assert await kept(database) == [(7, "active")]


@pytest.mark.requirement("R-305")
async def test_a_changed_key_makes_no_version_and_leaves_the_secrets_readable(
    database: Database,
) -> None:
    old, new = Cipher(CREDS_KEY, CREDS_IV), Cipher(NEW_KEY, CREDS_IV)
    both = Cipher(NEW_KEY, CREDS_IV, previous_keys=[CREDS_KEY])
    await record(database, repository(database, old), None, config(old, "one"))

    done = await rotate(database, both)
    now = repository(database, new)
    same = await record(database, now, config(new, "one"), config(new, "one"))
    other = await record(database, now, config(new, "one"), config(new, "two"))

    assert done.rewritten == {"server_versions": 1}
    assert (await survey(database, new)).is_clean
    assert (same, other) == (None, 2)
    first = await now.get(SERVER, 1)
    assert first is not None
    assert first.transport.secrets["apiKey", "key"].value == "one"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "draft"},
        {"origin": "magic"},
        {"api_type": "soap"},
        {"version": 0},
        {"api_version": "x" * 17},
        {"server_id": "text"},
        {"transport_config": "text"},
    ],
    ids=str,
)
@pytest.mark.requirement("R-051")
async def test_the_database_refuses_what_must_not_be(
    database: Database, cipher: Cipher, changes: dict[str, Any]
) -> None:
    await record(database, repository(database, cipher), None, {"url": "https://a.example"})

    with pytest.raises(WriteError):
        await database.collection("server_versions").update_one({}, {"$set": changes})


async def test_a_server_has_one_active_version_and_one_of_each_number(
    database: Database, cipher: Cipher
) -> None:
    await record(database, repository(database, cipher), None, {"url": "https://a.example"})
    rows = database.collection("server_versions")
    row = await rows.find_one({})
    assert row is not None

    with pytest.raises(DuplicateKeyError):
        await rows.insert_one({**row, "_id": ObjectId(), "version": 2})
    with pytest.raises(DuplicateKeyError):
        await rows.insert_one({**row, "_id": ObjectId(), "state": "former"})
