"""Encrypting stored credentials anew, beside whoever else writes."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64, ObjectId
from cryptography.hazmat.primitives.ciphers import Cipher as Block
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from pydantic import SecretStr
from pymongo import MongoClient
from typing_extensions import override

from packages.database.client import Database
from packages.database.encryption import Cipher, DecryptionError, FieldRef, StoredForm, stored_form
from registry.ciphertexts import StoredSecret, stored_secrets
from registry.core.settings import Settings
from registry.operations import rotation
from registry.operations.doctor import DoctorFinding, examine
from registry.operations.rotation import AMBIGUOUS, PASSES, REFUSED, Survey, rotate, survey
from tests.conftest import CREDS_IV, CREDS_KEY

pytestmark = [pytest.mark.wire, pytest.mark.requirement("R-305")]

NEW_KEY = "c4" * 32
LOST_KEY = "ee" * 32
OLD = Cipher(CREDS_KEY, CREDS_IV)
NEW = Cipher(NEW_KEY, CREDS_IV)
LOST = Cipher(LOST_KEY, CREDS_IV)
BOTH = Cipher(NEW_KEY, CREDS_IV, previous_keys=[CREDS_KEY])
NOW = datetime(2026, 1, 1, tzinfo=UTC)

SERVER = ObjectId("1" * 24)
TOKEN = ObjectId("2" * 24)
AUTH = ObjectId("3" * 24)
SEALED_AT = FieldRef("tokens", "4" * 24, "token")

ODD_NAMES = ("X-Api-Key.v2", "$token", "a.$b.key", "0token", "key.", "Clé-token")
"""Names that a dotted path would take for something else, and some that it would not."""

V3_START = "v3:a0a1a2a3a4a5a6a7a8a9aaabacadaeaf:"
COLLECTIONS = ("mcpservers", "tokens", "pluginauths")

Documents = dict[str, list[dict[str, Any]]]


def by_ctr(cipher_key: str, text: str) -> str:
    """Return *text* in form v3, which the product never writes."""
    iv = bytes.fromhex(V3_START.split(":")[1])
    encryptor = Block(AES(bytes.fromhex(cipher_key)), CTR(iv)).encryptor()
    return V3_START + (encryptor.update(text.encode()) + encryptor.finalize()).hex()


def server(cipher: Cipher, **fields: Any) -> dict[str, Any]:
    """Return a server with a secret in each place, among fields of all kinds."""
    return {
        "serverName": "weather",
        "config": {
            "title": "Weather",
            "apiKey": {"source": "admin", "key": cipher.encrypt_shared("api"), "theirs": 1},
            "oauth": {"client_secret": cipher.encrypt_shared("oauth"), "scope": "a b"},
            "headers": {
                "X-Team": "sky",
                **{name: cipher.encrypt_shared(f"of {name}") for name in ODD_NAMES},
                "Authorization": cipher.encrypt_shared("header"),
                "X-Key": "{{MCP_API_KEY}}",
                "X-Clear-Token": "not encrypted",
                "last": Int64(5),
            },
            "toolFunctions": {"a.b": {"$ref": "#/x", "n": 1.5}},
        },
        "unknown": [1, {"deep": None}],
        "createdAt": NOW,
        "updatedAt": NOW,
        "__v": 0,
        **fields,
    }


def token(cipher: Cipher, kind: str = "mcp_oauth", **fields: Any) -> dict[str, Any]:
    """Return a token."""
    return {
        "userId": ObjectId("a" * 24),
        "type": kind,
        "identifier": "mcp:weather",
        "token": cipher.encrypt_shared("bearer"),
        "createdAt": NOW,
        "expiresAt": datetime(2099, 1, 1, tzinfo=UTC),
        "metadata": {"dotted.name": 1},
        **fields,
    }


async def store_everything(database: Database, cipher: Cipher) -> None:
    """Store a secret of each form and place, and things of others."""
    await database.collection("mcpservers").insert_one(server(cipher, _id=SERVER))
    await database.collection("tokens").insert_many(
        [
            token(cipher, _id=TOKEN),
            token(cipher, "mcp_oauth_client", token=cipher.encrypt_shared('{"client_id":"x"}')),
            token(cipher, "api_key", _id=ObjectId("4" * 24), token=cipher.seal("s", SEALED_AT)),
            token(cipher, "theirs", token=cipher.encrypt_shared("an invitation")),
        ]
    )
    await database.collection("pluginauths").insert_many(
        [
            {
                "_id": AUTH,
                "userId": "a" * 24,
                "pluginKey": "mcp_weather",
                "authField": "MCP_API_KEY",
                "value": cipher.encrypt_fixed_iv("of a user"),
                "updatedAt": NOW,
            },
            {"pluginKey": "google", "authField": "K", "value": cipher.encrypt_fixed_iv("theirs")},
        ]
    )


async def documents(database: Database) -> Documents:
    """Return everything in the collections with secrets."""
    return {
        name: await database.collection(name).find({}).sort("_id").to_list()
        for name in COLLECTIONS
    }


async def secrets(database: Database) -> list[StoredSecret]:
    return [secret async for secret in stored_secrets(database)]


async def texts(database: Database, cipher: Cipher) -> dict[str, tuple[str, StoredForm | None]]:
    """Return text and form of every stored secret by its place."""
    return {
        str(secret.ref): (cipher.decrypt(secret.value, secret.ref), stored_form(secret.value))
        for secret in await secrets(database)
    }


def without(found: Any, values: set[str]) -> Any:
    """Return documents with the given texts blanked, in their order, as text of types too."""
    match found:
        case dict():
            return [(name, without(value, values)) for name, value in found.items()]
        case list():
            return [without(value, values) for value in found]
        case _:
            return "(secret)" if found in values else (type(found).__name__, found)


@pytest.mark.requirement("R-305")
async def test_every_value_of_each_form_is_under_the_new_key_and_nothing_else_changed(
    database: Database,
) -> None:
    await store_everything(database, OLD)
    before, values = await documents(database), await secrets(database)
    expected = await texts(database, OLD)

    done = await rotate(database, BOTH)

    after = await documents(database)
    old_values = {secret.value for secret in values}
    new_values = {secret.value for secret in await secrets(database)}
    assert done.rewritten == Counter(
        {"mcpservers": 3 + len(ODD_NAMES), "tokens": 3, "pluginauths": 1}
    )
    assert (done.is_complete, done.passes) == (True, 2)
    assert await texts(database, NEW) == expected
    assert old_values.isdisjoint(new_values)
    assert without(after, new_values) == without(before, old_values)


@pytest.mark.requirement("R-305")
async def test_shared_values_keep_the_forms_that_the_other_application_reads(
    database: Database,
) -> None:
    await store_everything(database, OLD)

    await rotate(database, BOTH)

    forms = {ref: form for ref, (_, form) in (await texts(database, NEW)).items()}
    assert forms[f"mcpservers/{SERVER}/config.apiKey.key"] is StoredForm.V2
    assert forms[f"tokens/{TOKEN}/token"] is StoredForm.V2
    assert forms[f"pluginauths/{AUTH}/value"] is StoredForm.V1
    assert forms[str(SEALED_AT)] is StoredForm.GCM


async def test_the_form_that_is_only_read_becomes_that_of_its_place(database: Database) -> None:
    text = "thirty characters of plain text"
    await database.collection("tokens").insert_one(token(OLD, token=by_ctr(CREDS_KEY, text)))
    await database.collection("pluginauths").insert_one(
        {"pluginKey": "mcp_weather", "value": by_ctr(CREDS_KEY, text)}
    )

    await rotate(database, BOTH)

    assert list((await texts(database, NEW)).values()) == [
        (text, StoredForm.V2),
        (text, StoredForm.V1),
    ]


async def test_a_second_run_writes_nothing(database: Database) -> None:
    await store_everything(database, OLD)
    await rotate(database, BOTH)
    before = await documents(database)

    done = await rotate(database, BOTH)

    assert (done.rewritten, done.passes, done.is_complete) == (Counter(), 1, True)
    assert await documents(database) == before


async def test_a_dotted_or_dollared_name_beside_a_path_of_the_same_spelling(
    database: Database,
) -> None:
    headers = {
        "x.key": OLD.encrypt_shared("flat"),
        "x": {"key": "nested, and none of ours"},
        "$x.key": OLD.encrypt_shared("dollar"),
    }
    await database.collection("mcpservers").insert_one({"_id": 1, "config": {"headers": headers}})

    await rotate(database, BOTH)

    (document,) = (await documents(database))["mcpservers"]
    stored = document["config"]["headers"]
    assert list(stored) == list(headers)
    assert stored["x"] == headers["x"]
    assert [text for text, _ in (await texts(database, NEW)).values()] == ["flat", "dollar"]


@pytest.fixture
def elsewhere(database_uri: str) -> Iterator[Callable[..., None]]:
    """Return what another program does: set one field of a token."""
    client: MongoClient[dict[str, Any]] = MongoClient(database_uri)

    def write(key: object, **fields: object) -> None:
        client.get_default_database()["tokens"].update_one({"_id": key}, {"$set": fields})

    with client:
        yield write


@pytest.mark.requirement("R-305")
@pytest.mark.parametrize("writer", [OLD, NEW], ids=["with the old key", "with the new key"])
async def test_a_value_stored_meanwhile_is_kept_and_looked_at_again(
    database: Database, elsewhere: Callable[..., None], writer: Cipher
) -> None:
    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN))

    done = await rotate(
        database, BOTH, seen=lambda: elsewhere(TOKEN, token=writer.encrypt_shared("newer"))
    )

    assert await texts(database, NEW) == {f"tokens/{TOKEN}/token": ("newer", StoredForm.V2)}
    assert done.is_complete
    assert done.rewritten.total() == (1 if writer is OLD else 0)


async def test_other_fields_changed_meanwhile_stay(
    database: Database, elsewhere: Callable[..., None]
) -> None:
    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN))

    await rotate(database, BOTH, seen=lambda: elsewhere(TOKEN, identifier="mcp:renamed"))

    document = await database.collection("tokens").find_one({"_id": TOKEN})
    assert document is not None
    assert document["identifier"] == "mcp:renamed"
    assert await texts(database, NEW) == {f"tokens/{TOKEN}/token": ("bearer", StoredForm.V2)}


async def test_a_document_deleted_meanwhile_does_not_come_back(
    database: Database, database_uri: str
) -> None:
    await database.collection("tokens").insert_one(token(OLD))

    with MongoClient[dict[str, Any]](database_uri) as client:
        tokens = client.get_default_database()["tokens"]
        done = await rotate(database, BOTH, seen=tokens.drop)

    assert (done.rewritten.total(), done.after.total, done.is_complete) == (0, 0, True)


class Killed(BaseException):
    """Ends a rotation like a signal: nothing handles it."""


def killed_at(number: int) -> Callable[[], None]:
    """Return a callback that ends the run when it is told of the *number*th value."""
    left = iter([None] * (number - 1))

    def seen() -> None:
        if next(left, Killed) is Killed:
            raise Killed

    return seen


@pytest.mark.requirement("R-305")
@pytest.mark.parametrize("number", range(1, 14))
async def test_after_a_kill_between_any_two_writes_it_is_run_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(rotation, "BATCH", 1)
    await store_everything(database, OLD)
    expected = await texts(database, OLD)

    with pytest.raises(Killed):
        await rotate(database, BOTH, seen=killed_at(number))
    between = await survey(database, BOTH)
    both_read = await texts(database, BOTH)
    done = await rotate(database, BOTH)

    assert between.older.total() == len(expected) - (number - 1)
    assert both_read == expected
    assert await texts(database, NEW) == expected
    assert (done.rewritten.total(), done.is_complete) == (between.older.total(), True)


async def test_more_values_than_one_batch_holds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "BATCH", 3)
    rows = [token(OLD, identifier=str(number)) for number in range(8)]
    await database.collection("tokens").insert_many(rows)
    await database.collection("mcpservers").insert_one(server(OLD))

    done = await rotate(database, BOTH)

    assert done.rewritten == Counter({"mcpservers": 3 + len(ODD_NAMES), "tokens": 8})
    assert (await survey(database, NEW)).is_clean


@pytest.mark.requirement("E-13")
async def test_with_the_old_key_missing_everything_is_named_and_left(database: Database) -> None:
    await store_everything(database, OLD)
    before, places = await documents(database), list(await texts(database, OLD))

    done = await rotate(database, NEW)

    assert await documents(database) == before
    assert (done.rewritten, done.passes, done.is_complete) == (Counter(), 1, False)
    assert [str(value.ref) for value in done.after.unreadable] == places
    assert done.after.total == len(places)


@pytest.mark.requirement("E-13")
async def test_what_no_key_opens_stays_byte_for_byte_and_the_rest_is_rewritten(
    database: Database,
) -> None:
    lost = [
        token(LOST, identifier="lost"),
        token(OLD, identifier="plain", token="clear text"),
        token(OLD, identifier="number", token=7),
        token(OLD, identifier="none", token=None),
        {"_id": "with/a/slash", "type": "api_key", "identifier": "s", "token": "x"},
    ]
    await database.collection("tokens").insert_many(lost)
    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN))
    wanted = {"_id": {"$ne": TOKEN}}
    before = await database.collection("tokens").find(wanted).to_list()

    done = await rotate(database, BOTH)

    assert await database.collection("tokens").find(wanted).to_list() == before
    assert (done.rewritten, done.is_complete) == (Counter(tokens=1), False)
    assert len(done.after.unreadable) == len(lost)
    assert "tokens/with%2Fa%2Fslash/token" in {str(value.ref) for value in done.after.unreadable}


async def test_a_value_that_two_keys_open_is_left_and_named(database: Database) -> None:
    candidates = (f"v3:{number:032x}:61" for number in range(1000))
    ref = FieldRef("tokens", str(TOKEN), "token")
    stored = next(value for value in candidates if opens_twice(value, ref))
    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN, token=stored))
    before = await documents(database)

    done = await rotate(database, BOTH)

    assert await documents(database) == before
    assert [(value.ref, value.reason) for value in done.after.ambiguous] == [(ref, AMBIGUOUS)]
    assert not done.is_complete
    assert done.after.needs_older_key


def opens_twice(stored: str, ref: FieldRef) -> bool:
    return None not in {reading(cipher, stored, ref) for cipher in (OLD, NEW)}


def reading(cipher: Cipher, stored: str, ref: FieldRef) -> str | None:
    try:
        return cipher.decrypt(stored, ref)
    except DecryptionError:
        return None


async def test_a_replacement_that_the_database_refuses_is_named_and_does_not_stop_the_others(
    database: Database,
) -> None:
    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN))
    await database.collection("pluginauths").insert_one(
        {"pluginKey": "mcp_weather", "value": OLD.encrypt_fixed_iv("x")}
    )
    await database.db.command("collMod", "tokens", validator={"identifier": "no other"})

    done = await rotate(database, BOTH)

    assert [(str(value.ref), value.reason) for value in done.refused] == [
        (f"tokens/{TOKEN}/token", REFUSED)
    ]
    assert done.rewritten == Counter(pluginauths=1)
    assert done.after.older == Counter(tokens=1)
    assert not done.is_complete


async def test_whoever_goes_on_writing_with_the_old_key_does_not_keep_it_running(
    database: Database, elsewhere: Callable[..., None]
) -> None:
    class Rewriting(Cipher):
        """Lets another program write after each look."""

        @override
        def encrypt_shared(self, text: str) -> str:
            elsewhere(TOKEN, token=OLD.encrypt_shared("again"))
            return super().encrypt_shared(text)

    await database.collection("tokens").insert_one(token(OLD, _id=TOKEN))

    done = await rotate(database, Rewriting(NEW_KEY, CREDS_IV, previous_keys=[CREDS_KEY]))

    assert (done.passes, done.is_complete) == (PASSES, False)
    assert done.after.older == Counter(tokens=1)
    assert await texts(database, OLD) == {f"tokens/{TOKEN}/token": ("again", StoredForm.V2)}


async def test_a_survey_counts_by_collection_and_key_and_changes_nothing(
    database: Database,
) -> None:
    await store_everything(database, OLD)
    await database.collection("tokens").insert_one(token(NEW, identifier="newer"))
    before = await documents(database)

    found = await survey(database, BOTH)

    assert await documents(database) == before
    assert found.by_key == {
        "mcpservers": Counter({OLD.key_id: 3 + len(ODD_NAMES)}),
        "tokens": Counter({OLD.key_id: 3, NEW.key_id: 1}),
        "pluginauths": Counter({OLD.key_id: 1}),
    }
    assert (found.older["tokens"], found.is_clean) == (3, False)


async def test_an_empty_database_is_clean(database: Database) -> None:
    done = await rotate(database, BOTH)

    assert (done.after, done.passes) == (Survey(NEW.key_id), 1)
    assert done.is_complete


async def about_credentials(settings: Settings) -> DoctorFinding:
    """Return what the doctor finds about stored credentials."""
    return next(one for one in await examine(settings) if one.check == "credentials")


async def test_the_doctor_reads_with_all_keys_and_tells_of_older_ones(
    database: Database, settings: Settings
) -> None:
    await database.collection("tokens").insert_one(token(OLD))
    both = settings.model_copy(
        update={
            "creds_key": SecretStr(NEW_KEY),
            "creds_keys_readable": (SecretStr(CREDS_KEY),),
        }
    )

    before = await about_credentials(both)
    await rotate(database, BOTH)
    after = await about_credentials(both)

    assert before.good
    assert before.message == (
        "1 stored, all readable; 1 not under CREDS_KEY alone, see `registry creds check`"
    )
    assert (after.good, after.message) == (True, "1 stored, all readable")
