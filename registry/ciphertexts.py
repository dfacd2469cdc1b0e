"""Finds and replaces encrypted values in all collections, for key rotation and checks.

Replacing is for key rotation: the same text, encrypted again, in the same place. Other texts are
stored by the repository of their domain.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from packages.database.client import Database, Doc
from packages.database.encryption import Cipher, DecryptionError, FieldRef, StoredForm
from packages.database.errors import DatabaseUnavailable, translated
from registry.core.json import members
from registry.core.settings import SettingsError
from registry.servers.credentials import is_plaintext, is_secret_header, is_stored_header
from registry.servers.storage.version_repository import SEALED
from registry.tokens.naming import MCP_CLIENT
from registry.tokens.values import STORED_TYPES

MAX_CHECKED = 20
MIN_UNREADABLE = 3
"""If at least this many values are unreadable and none is readable, the keys count as wrong."""

HEADERS = "config.headers"
VERIFIER = "code_verifier"
APPROVAL_SECRETS = ("arguments", "result")
WEBHOOK_SECRET = "registry.webhook_secret"  # noqa: S105 - the name of a field


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """An encrypted value and its location.

    Attributes:
        ref: Its place, as errors name it and sealed values are bound to it.
        value: As it is stored.
        form: The form that is written in this place.
        key: `_id` of the document.
    """

    ref: FieldRef
    value: str = field(repr=False)
    form: StoredForm
    key: Any


@dataclass(frozen=True, slots=True)
class Replacement:
    """A stored value and its replacement."""

    secret: StoredSecret
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Result of a batch of replacements.

    Attributes:
        count: How many were made.
        refused: Those that the database refused. The rest found another value, or none.
    """

    count: int
    refused: tuple[FieldRef, ...]


async def require_matching_keys(database: Database, cipher: Cipher) -> None:
    """Check that the stored credentials were encrypted with these keys.

    With other keys everything would seem to work, but no other program that uses this database
    could read what is stored from then on.

    Raises:
        SettingsError: None of several credentials can be decrypted.
        DatabaseUnavailable: They cannot be read.
    """
    unreadable = 0
    async with translated(), aclosing(stored_secrets(database)) as found:
        async for secret in found:
            try:
                cipher.decrypt(secret.value, secret.ref)
            except DecryptionError:
                unreadable += 1
            else:
                return
            if unreadable >= MAX_CHECKED:
                break
    if unreadable >= MIN_UNREADABLE:
        problem = f"none of {unreadable} stored credentials can be decrypted with these"
        raise SettingsError([f"CREDS_KEY, CREDS_IV: {problem}"])


async def stored_secrets(database: Database) -> AsyncGenerator[StoredSecret, None]:
    """Yield every encrypted value, one collection after another."""
    for owners in (database.collection("mcpservers"), database.collection("raw_apis")):
        async for found in _of_servers(owners):
            yield found
    known = [*STORED_TYPES, MCP_CLIENT]
    tokens = database.collection("tokens")
    async for document in tokens.find({"type": {"$in": known}}, {"token": 1}):
        yield _secret("tokens", document, "token", document.get("token"), StoredForm.V2)
    auths = database.collection("pluginauths")
    async for document in auths.find({"pluginKey": {"$regex": "^mcp_"}}, {"value": 1}):
        yield _secret("pluginauths", document, "value", document.get("value"), StoredForm.V1)
    versions = database.collection("server_versions")
    async for document in versions.find({SEALED: {"$exists": True}}, {SEALED: 1}):
        yield _secret("server_versions", document, SEALED, document.get(SEALED), StoredForm.GCM)
    async for found in _of_flows(database):
        yield found
    async for found in _of_approvals(database):
        yield found


async def _of_servers(owners: AsyncCollection[Doc]) -> AsyncGenerator[StoredSecret, None]:
    fields = {
        "config.apiKey.key": 1,
        "config.oauth.client_secret": 1,
        HEADERS: 1,
        WEBHOOK_SECRET: 1,
    }
    collection = owners.name
    async for document in owners.find({}, fields):
        config = members(document.get("config"))
        for parent, name in (("apiKey", "key"), ("oauth", "client_secret")):
            value = members(config.get(parent)).get(name)
            if isinstance(value, str) and not is_plaintext(value):
                path = f"config.{parent}.{name}"
                yield _secret(collection, document, path, value, StoredForm.V2)
        sealed = members(document.get("registry")).get("webhook_secret")
        if isinstance(sealed, str):
            yield _secret(collection, document, WEBHOOK_SECRET, sealed, StoredForm.GCM)
        for name, value in members(config.get("headers")).items():
            if is_secret_header(name, value) and is_stored_header(str(value)):
                path = f"{HEADERS}.{name}"
                yield _secret(collection, document, path, value, StoredForm.V2)


async def _of_flows(database: Database) -> AsyncGenerator[StoredSecret, None]:
    flows = database.collection("oauth_flows")
    async for document in flows.find({VERIFIER: {"$exists": True}}, {VERIFIER: 1}):
        yield _secret("oauth_flows", document, VERIFIER, document.get(VERIFIER), StoredForm.GCM)
    clients = database.collection("oauth_clients")
    async for document in clients.find({}, {"client": 1}):
        yield _secret("oauth_clients", document, "client", document.get("client"), StoredForm.GCM)


async def _of_approvals(database: Database) -> AsyncGenerator[StoredSecret, None]:
    approvals = database.collection("approvals")
    async for document in approvals.find({}, dict.fromkeys(APPROVAL_SECRETS, 1)):
        for name in APPROVAL_SECRETS:
            if name in document:
                value = document.get(name)
                yield _secret("approvals", document, name, value, StoredForm.GCM)


async def replace_secrets(database: Database, replacements: Sequence[Replacement]) -> Replaced:
    """Replace values, each separately and only if the old one is still stored.

    Nothing else in the documents changes, not even `updatedAt`.

    Args:
        database: Where.
        replacements: Some of one collection.

    Raises:
        DatabaseUnavailable: The database is unreachable; some may have been made.
    """
    if not replacements:
        return Replaced(0, ())
    collection = database.collection(replacements[0].secret.ref.collection)
    async with translated():
        try:
            result = await collection.bulk_write(
                [_update(replacement) for replacement in replacements], ordered=False
            )
        except BulkWriteError as exc:
            errors = exc.details.get("writeErrors") or []
            if not errors:
                # Written, but not confirmed by a majority.
                raise DatabaseUnavailable from exc
            refused = tuple(replacements[error["index"]].secret.ref for error in errors)
            return Replaced(int(exc.details.get("nModified", 0)), refused)
    return Replaced(result.modified_count, ())


def _secret(
    collection: str, document: Doc, path: str, value: object, form: StoredForm
) -> StoredSecret:
    key = document["_id"]
    # Another program's id may be any text, but a field reference's id must not contain a slash.
    ref = FieldRef(collection, str(key).replace("/", "%2F"), path)
    return StoredSecret(ref, str(value), form, key)


def _update(replacement: Replacement) -> UpdateOne:
    secret, path = replacement.secret, replacement.secret.ref.field
    name = path.removeprefix(f"{HEADERS}.")
    if name == path or not ("." in name or name.startswith("$")):
        return UpdateOne(
            {"_id": secret.key, path: secret.value}, {"$set": {path: replacement.value}}
        )
    # A dot or a dollar in the name would be interpreted as a path or an operator.
    member = {"field": {"$literal": name}, "input": f"${HEADERS}"}
    is_old = {"$eq": [{"$getField": member}, {"$literal": secret.value}]}
    with_new = {"$setField": {**member, "value": {"$literal": replacement.value}}}
    return UpdateOne({"_id": secret.key, "$expr": is_old}, [{"$set": {HEADERS: with_new}}])
