"""Repository of `pluginauths`: users' own values for servers, encrypted at rest.

The collection is shared with jarvis-api, which keeps the keys of other plugins there too.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated

from pydantic import Field, PlainValidator
from pymongo import ASCENDING, IndexModel

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import deleted
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import DocumentId, Projection, StoredText, StoredTime, text_of
from packages.models import PluginAuth, User
from registry.tokens.errors import UserKeyUnreadableError
from registry.tokens.repository import Ownership, of_other_tenants, since_filter

PLUGIN_AUTH_INDEXES = [
    IndexModel([("userId", ASCENDING), ("pluginKey", ASCENDING), ("authField", ASCENDING)])
]
API_KEY_FIELD = "MCP_API_KEY"
"""`authField` under which jarvis-api keeps a user's key for an MCP server."""


def plugin_key(server_name: str) -> str:
    """Return the `pluginKey` of a server, as jarvis-api builds it."""
    return f"mcp_{server_name}"


class UserValue(Projection):
    """A user's own value for a server, encrypted."""

    id: Annotated[DocumentId, Field(alias="_id")]
    name: Annotated[StoredText, Field(alias="authField")] = None
    # A value that is not text cannot be decrypted either.
    value: Annotated[
        str, PlainValidator(lambda stored: text_of(stored) or ""), Field(repr=False)
    ] = ""
    updated_at: Annotated[StoredTime, Field(alias="updatedAt")] = None


@translates_driver_errors
class PluginAuthRepository:
    """Stores keys that users entered for servers whose `apiKey.source` is `user`."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._auths = database.document(PluginAuth)
        self._users = database.document(User)
        self._cipher = cipher

    async def store(
        self,
        user_id: str,
        server_name: str,
        value: str,
        now: datetime,
        tx: Transaction,
        *,
        name: str = API_KEY_FIELD,
        tenant_id: str | None = None,
    ) -> None:
        """Store a value of a user of a tenant for a server in the form jarvis-api reads (v1)."""
        tenant: Doc = {} if tenant_id is None else {"tenantId": tenant_id}
        # Two concurrent first writes may have left two documents.
        await self._auths.find({**_auth_key(user_id, server_name), "authField": name}).update(
            {
                "$set": {
                    "value": self._cipher.encrypt_fixed_iv(value),
                    "updatedAt": now,
                    **tenant,
                },
                "$setOnInsert": {"createdAt": now, "__v": 0},
            },
            upsert=True,
            session=tx,
        )

    async def values(
        self, user_id: str, server_name: str, since: datetime | None
    ) -> dict[str, str]:
        """Return a user's values for a server, decrypted, by name.

        Values stored before *since*, the server's creation, belong to a former server of that
        name.

        Raises:
            UserKeyUnreadableError: A stored value cannot be read with the current keys.
        """
        found: dict[str, str] = {}
        query = {**_auth_key(user_id, server_name), **since_filter("updatedAt", since)}
        for one in await self._auths.find(query, projection_model=UserValue).to_list():
            if one.name is None:
                continue
            # Another program's id may be any text, but a field reference's id has no slash.
            reference = FieldRef("pluginauths", one.id.replace("/", "%2F"), "value")
            try:
                found[one.name] = self._cipher.decrypt(one.value, reference)
            except DecryptionError as exc:
                raise UserKeyUnreadableError(one.name) from exc
        return found

    async def stored(
        self,
        user_id: str,
        server_name: str,
        since: datetime | None,
        tx: Transaction | None = None,
    ) -> dict[str, datetime | None]:
        """Return when a user stored which values for a server, without the values."""
        query = {**_auth_key(user_id, server_name), **since_filter("updatedAt", since)}
        rows = self._auths.find(query, projection_model=UserValue, session=tx)
        return {one.name: one.updated_at for one in await rows.to_list() if one.name is not None}

    async def remove(
        self, user_id: str, server_name: str, names: Collection[str], tx: Transaction
    ) -> int:
        """Remove values of a user for a server; return their number."""
        key = {**_auth_key(user_id, server_name), "authField": {"$in": list(names)}}
        return await deleted(self._auths.find(key).delete(session=tx))

    async def delete_of_server(
        self, server_name: str, tenant_id: str | None, since: datetime | None, tx: Transaction
    ) -> int:
        """Remove all users' values for a server; return their number. See `TokenRepository`'s."""
        query: Doc = {"pluginKey": plugin_key(server_name), **since_filter("updatedAt", since)}
        rows = self._auths.find(query, projection_model=Ownership, session=tx)
        others = await of_other_tenants(await rows.to_list(), tenant_id, self._users, tx)
        query["_id"] = {"$nin": others}
        return await deleted(self._auths.find(query).delete(session=tx))


def _auth_key(user_id: str, server_name: str) -> Doc:
    return {"userId": user_id, "pluginKey": plugin_key(server_name)}
