"""What the doctor finds."""

import gc
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bson import ObjectId
from pydantic import SecretStr

from packages.database.client import Database, ServerVersionError, ShardedClusterError
from packages.database.encryption import Cipher
from packages.database.errors import MongoLoginError
from registry.core.settings import Settings
from registry.operations.doctor import LISTED, DoctorFinding, examine
from tests.fakes.fake_mongo import fake_mongo, release
from tests.fakes.keys import write_key_pair
from tests.fakes.mongo_daemon import start_daemon

pytestmark = pytest.mark.wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER_KEY = "ab" * 32


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what the driver leaves of failed connections before the next test."""
    yield
    gc.collect()


def changed(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update=values)


def bad(findings: list[DoctorFinding]) -> Mapping[str, str]:
    return {item.check: item.message for item in findings if not item.good}


async def store_secrets(database: Database, cipher: Cipher) -> list[str]:
    """Store a credential in each of the places they are in, and return how they are named."""
    server = await database.collection("mcpservers").insert_one(
        {
            "serverName": "weather",
            "config": {
                "apiKey": {"key": cipher.encrypt_shared("a")},
                "oauth": {"client_secret": cipher.encrypt_shared("b")},
                "headers": {"Authorization": cipher.encrypt_shared("c"), "X-Team": "sky"},
            },
        }
    )
    token = await database.collection("tokens").insert_one(
        {
            "userId": ObjectId("a" * 24),
            "type": "mcp_oauth",
            "identifier": "mcp:weather",
            "token": cipher.encrypt_shared("d"),
            "createdAt": NOW,
        }
    )
    await database.collection("tokens").insert_one({"type": "theirs", "token": "plain"})
    auth = await database.collection("pluginauths").insert_one(
        {"userId": "a" * 24, "pluginKey": "mcp_weather", "value": cipher.encrypt_fixed_iv("e")}
    )
    await database.collection("pluginauths").insert_one({"pluginKey": "google", "value": "x"})
    return [
        f"mcpservers/{server.inserted_id}/config.apiKey.key",
        f"mcpservers/{server.inserted_id}/config.oauth.client_secret",
        f"mcpservers/{server.inserted_id}/config.headers.Authorization",
        f"tokens/{token.inserted_id}/token",
        f"pluginauths/{auth.inserted_id}/value",
    ]


async def test_a_sound_registry_has_only_good_findings(
    database: Database, settings: Settings, cipher: Cipher
) -> None:
    await store_secrets(database, cipher)

    findings = await examine(settings)

    assert bad(findings) == {}
    assert [item.check for item in findings] == [
        "schemas",
        "keys",
        "workers",
        "embeddings",
        "database",
        "replica set",
        "indexes",
        "documents",
        "credentials",
        "orphaned data",
        "tools",
        "environment",
    ]
    assert findings[-4].message == "5 stored, all readable"


@pytest.mark.requirement("E-13")
async def test_with_another_key_every_unreadable_value_is_named(
    database: Database, settings: Settings, cipher: Cipher
) -> None:
    places = await store_secrets(database, cipher)

    found = bad(await examine(changed(settings, creds_key=SecretStr(OTHER_KEY))))

    assert found == {
        "credentials": f"5 of 5 cannot be decrypted with CREDS_KEY: {', '.join(places)}"
    }


@pytest.mark.requirement("E-13")
async def test_of_many_unreadable_values_some_are_named_and_all_counted(
    database: Database, settings: Settings, cipher: Cipher
) -> None:
    rows = [
        {"type": "api_key", "identifier": str(number), "token": cipher.encrypt_shared("x")}
        for number in range(LISTED + 5)
    ]
    await database.collection("tokens").insert_many(rows)

    found = bad(await examine(changed(settings, creds_key=SecretStr(OTHER_KEY))))

    assert found["credentials"].count("tokens/") == LISTED
    assert found["credentials"].endswith(" and 5 more")


async def test_documents_that_cannot_be_read_are_named_with_what_is_wrong(
    database: Database, settings: Settings
) -> None:
    keys = [ObjectId() for _ in range(3)]
    function = {"type": "function", "function": {"parameters": {"default": float("inf")}}}
    config = {"toolFunctions": {"a_mcp_b": function, "_mcp_b": {"function": {}}}}
    await database.collection("mcpservers").insert_many(
        [
            {"_id": "a text", "serverName": "a"},
            {"_id": keys[0], "serverName": "b", "registry": {"sync_mode": "hourly"}},
            {"_id": keys[1], "serverName": "c", "config": config},
        ]
    )
    await database.collection("mcp_tools").insert_one(
        {
            **dict.fromkeys(("name", "external_id", "input_schema", "discovery_hash"), "{}"),
            "_id": keys[2],
            "owner_id": keys[0],
            "source_type": "mcp",
            "definition": "[" * 2_000,
            "title": 5,
            "registration_state": "selected",
            "exposure_state": "active",
        },
        bypass_document_validation=True,
    )

    found = bad(await examine(settings))["documents"]

    assert found == (
        "4 that cannot be read as a whole: "
        "mcpservers/a text (has an _id that is not an ObjectId), "
        f"mcpservers/{keys[0]} (registry.sync_mode is 'hourly', none of manual, scheduled, "
        "webhook; it counts as manual), "
        f"mcpservers/{keys[1]} (config.toolFunctions.a_mcp_b holds a number that is not finite; "
        "the tool '' has no name), "
        f"mcp_tools/{keys[2]} (definition cannot be read; title cannot be read)"
    )


async def test_values_that_are_no_credentials_are_named_too(
    database: Database, settings: Settings
) -> None:
    await database.collection("tokens").insert_one({"type": "api_key", "token": 7})
    await database.collection("mcpservers").insert_many(
        [
            {"serverName": "a", "config": {"apiKey": {"key": "clear"}}},
            {"serverName": "b", "config": {"apiKey": None, "headers": None}},
            {"serverName": "c", "config": None},
            {"serverName": "d", "config": {"apiKey": "odd", "oauth": 1, "headers": ["odd"]}},
        ]
    )

    found = bad(await examine(settings))

    # A plain-text key of a server is used as it is, as the other application does.
    assert found["credentials"].startswith("1 of 1 cannot be decrypted")


async def test_a_missing_index_is_named(database: Database, settings: Settings) -> None:
    await database.collection("tokens").drop_index("registry_by_identifier")

    assert bad(await examine(settings)) == {
        "indexes": "missing or with other options: tokens.registry_by_identifier"
    }


async def test_an_index_with_other_options_is_named(
    database: Database, settings: Settings
) -> None:
    tools = database.collection("mcp_tools")
    name = "source_type_1_owner_id_1_name_1"
    await tools.drop_index(name)
    await tools.create_index([("source_type", 1), ("owner_id", 1), ("name", 1)])

    assert bad(await examine(settings)) == {
        "indexes": f"missing or with other options: mcp_tools.{name}"
    }


async def test_indexes_of_other_kinds_do_not_disturb(
    database: Database, settings: Settings
) -> None:
    await database.collection("mcpservers").create_index([("place", "2dsphere")])

    assert bad(await examine(settings)) == {}


async def test_a_database_where_nothing_was_started_lacks_nothing(settings: Settings) -> None:
    assert bad(await examine(settings)) == {}


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_without_a_database_the_rest_is_examined(settings: Settings) -> None:
    away = changed(settings, mongo_uri=SecretStr("mongodb://127.0.0.1:1/"), mongo_timeout_ms=100)

    findings = await examine(away)

    assert bad(findings) == {"database": "cannot be reached at MONGO_URI"}

    findings = await examine(away.model_copy(update={"registry_local": True}))

    assert "start it with `registry serve --local`" in bad(findings)["database"]
    assert [item.check for item in findings] == [
        "schemas",
        "keys",
        "workers",
        "embeddings",
        "database",
    ]


async def test_a_malformed_address_is_a_finding(settings: Settings) -> None:
    malformed = changed(settings, mongo_uri=SecretStr("mongodb://a:s3ntinel:b@h/"))

    found = bad(await examine(malformed))

    assert set(found) == {"database"}
    assert "s3ntinel" not in found["database"]


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_standalone_server_is_a_finding(settings: Settings, tmp_path: Path) -> None:
    with start_daemon(tmp_path / "mongo", "--standalone") as daemon:
        findings = await examine(changed(settings, mongo_uri=SecretStr(f"{daemon.uri}test")))

    assert "replica set" in bad(findings)


@pytest.mark.parametrize(
    ("hello", "problem"),
    [
        ({**release(13), "setName": "rs0"}, ServerVersionError("5.0.31")),
        ({**release(21), "msg": "isdbgrid"}, ShardedClusterError()),
    ],
    ids=["older", "sharded"],
)
async def test_a_server_that_cannot_be_used_is_a_finding(
    settings: Settings, hello: dict[str, object], problem: Exception
) -> None:
    with fake_mongo(hello, {"buildInfo": lambda _: {"ok": 1, "version": "5.0.31"}}) as server:
        findings = await examine(changed(settings, mongo_uri=SecretStr(server.uri)))

    assert bad(findings) == {"database": str(problem)}


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("collected")
async def test_a_refused_login_is_a_finding(settings: Settings, tmp_path: Path) -> None:
    with start_daemon(tmp_path / "mongo", "--auth") as daemon:
        uri = daemon.uri.replace("://", "://nobody:s3ntinel@")
        findings = await examine(changed(settings, mongo_uri=SecretStr(uri)))

    assert bad(findings) == {"database": str(MongoLoginError())}


async def test_keys_that_are_no_pair_are_a_finding(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    _, other = write_key_pair(tmp_path)

    findings = await examine(changed(settings, jwt_public_key_file=other))

    assert set(bad(findings)) == {"keys"}


async def test_examining_changes_nothing(
    database: Database, settings: Settings, cipher: Cipher
) -> None:
    await store_secrets(database, cipher)
    before = await database.db.list_collection_names()
    rows = await database.collection("mcpservers").find({}).to_list()

    await examine(changed(settings, creds_key=SecretStr(OTHER_KEY)))

    assert sorted(await database.db.list_collection_names()) == sorted(before)
    assert await database.collection("mcpservers").find({}).to_list() == rows


async def test_many_more_workers_than_processors_are_found(settings: Settings) -> None:
    found = bad(await examine(changed(settings, registry_workers=256)))

    assert "256 for" in found["workers"]


async def test_what_the_other_application_would_put_its_environment_into_is_named(
    database: Database, settings: Settings, cipher: Cipher
) -> None:
    config = {
        "url": "https://a.example/mcp?x=${CREDS_KEY}",
        "headers": {"X-Team": "${JWT_SECRET}", "X-Odd": "fine"},
        "oauth": {"scope": "${A}", "client_secret": cipher.encrypt_shared("${B}")},
        "apiKey": {"key": cipher.encrypt_shared("${C}")},
        "description": "Costs ${10}",
    }
    server = await database.collection("mcpservers").insert_one(
        {"serverName": "weather", "config": config}
    )

    found = bad(await examine(settings))

    place = f"mcpservers/{server.inserted_id}/config."
    places = ["url", "headers.X-Team", "oauth.scope", "apiKey.key", "oauth.client_secret"]
    assert set(found) == {"environment"}
    named = found["environment"].partition("stands: ")[2].split(", ")
    assert sorted(named) == sorted(place + name for name in places)
