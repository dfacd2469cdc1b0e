"""The encrypted values in the database, wherever they lie."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from packages.database.client import Database
from packages.database.encryption import Cipher, DecryptionError, FieldRef, stored_form
from packages.database.errors import translated
from registry.core.json import members
from registry.core.settings import SettingsError
from registry.servers.credentials import is_secret_header
from registry.tokens.values import STORED_TYPES

LOOKED_AT = 20
TELLING = 3
"""Unreadable values that are no accident when there is no readable one among them."""


async def require_matching_keys(database: Database, cipher: Cipher) -> None:
    """Check that the keys are those that the stored credentials were encrypted with.

    With others everything would seem to work, and what is stored from then on could be read by
    nobody else who uses this database.

    Raises:
        SettingsError: None of several credentials can be decrypted.
        DatabaseUnavailable: They cannot be read.
    """
    unreadable = 0
    async with translated(), aclosing(stored_secrets(database)) as found:
        async for reference, stored in found:
            try:
                cipher.decrypt(stored, reference)
            except DecryptionError:
                unreadable += 1
            else:
                return
            if unreadable >= LOOKED_AT:
                break
    if unreadable >= TELLING:
        problem = f"none of {unreadable} stored credentials can be decrypted with these"
        raise SettingsError([f"CREDS_KEY, CREDS_IV: {problem}"])


async def stored_secrets(database: Database) -> AsyncGenerator[tuple[FieldRef, str], None]:
    """Yield every encrypted value with its place."""
    fields = {"config.apiKey.key": 1, "config.oauth.client_secret": 1, "config.headers": 1}
    async for document in database.collection("mcpservers").find({}, fields):
        config = members(document.get("config"))
        key = str(document["_id"])
        for parent, name in (("apiKey", "key"), ("oauth", "client_secret")):
            value = members(config.get(parent)).get(name)
            if isinstance(value, str):
                yield FieldRef("mcpservers", key, f"config.{parent}.{name}"), value
        for name, value in members(config.get("headers")).items():
            if is_secret_header(name, value) and stored_form(str(value)) is not None:
                yield FieldRef("mcpservers", key, f"config.headers.{name}"), str(value)
    known = [*STORED_TYPES, "mcp_oauth_client"]
    tokens = database.collection("tokens")
    async for document in tokens.find({"type": {"$in": known}}, {"token": 1}):
        yield FieldRef("tokens", str(document["_id"]), "token"), str(document.get("token"))
    auths = database.collection("pluginauths")
    async for document in auths.find({"pluginKey": {"$regex": "^mcp_"}}, {"value": 1}):
        yield FieldRef("pluginauths", str(document["_id"]), "value"), str(document.get("value"))
