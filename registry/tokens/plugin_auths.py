"""Reads and writes `pluginauths`, with encryption inside: values of users' own for servers.

The collection is shared with jarvis-api, which keeps the keys of other plugins there too.
"""

from collections.abc import Collection
from datetime import datetime

from pymongo import ASCENDING, IndexModel

from packages.database.client import Database, Doc, Transaction
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import moment_of, text_of
from registry.tokens.errors import UserKeyUnreadableError
from registry.tokens.repository import OWNED, of_other_tenants, since_filter

PLUGIN_AUTH_INDEXES = [
    IndexModel([("userId", ASCENDING), ("pluginKey", ASCENDING), ("authField", ASCENDING)])
]
API_KEY_FIELD = "MCP_API_KEY"
"""`authField` under which jarvis-api keeps a user's key for an MCP server."""


def plugin_key(server_name: str) -> str:
    """Return the `pluginKey` of a server, as jarvis-api builds it."""
    return f"mcp_{server_name}"


@translates_driver_errors
class PluginAuthRepository:
    """Keys that users typed in for servers whose `apiKey.source` is `user`."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._auths = database.collection("pluginauths")
        self._users = database.collection("users")
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
        # Two that stored the first one at once may have left two.
        await self._auths.update_many(
            {
                "userId": user_id,
                "pluginKey": plugin_key(server_name),
                "authField": name,
            },
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

        What was stored before *since*, when the server came to be, was given for another one that
        had the name.

        Raises:
            UserKeyUnreadableError: A stored value cannot be read with the current keys.
        """
        found: dict[str, str] = {}
        query = {**_auth_key(user_id, server_name), **since_filter("updatedAt", since)}
        async for document in self._auths.find(query):
            name = text_of(document.get("authField"))
            if name is None:
                continue
            # An id of another program may be any text; a place has no slash in its id.
            key = str(document["_id"]).replace("/", "%2F")
            reference = FieldRef("pluginauths", key, "value")
            try:
                # What is no text is no ciphertext either.
                stored = text_of(document.get("value")) or ""
                found[name] = self._cipher.decrypt(stored, reference)
            except DecryptionError as exc:
                raise UserKeyUnreadableError(name) from exc
        return found

    async def stored(
        self,
        user_id: str,
        server_name: str,
        since: datetime | None,
        tx: Transaction | None = None,
    ) -> dict[str, datetime | None]:
        """Return when a user stored which values for a server, without the values."""
        rows = self._auths.find(
            {**_auth_key(user_id, server_name), **since_filter("updatedAt", since)},
            {"authField": 1, "updatedAt": 1},
            session=tx,
        )
        return {
            name: moment_of(row.get("updatedAt"))
            async for row in rows
            if (name := text_of(row.get("authField"))) is not None
        }

    async def remove(
        self, user_id: str, server_name: str, names: Collection[str], tx: Transaction
    ) -> int:
        """Remove values of a user for a server; say how many there were."""
        key = {**_auth_key(user_id, server_name), "authField": {"$in": list(names)}}
        return (await self._auths.delete_many(key, session=tx)).deleted_count

    async def delete_of_server(
        self, server_name: str, tenant_id: str | None, since: datetime | None, tx: Transaction
    ) -> int:
        """Remove all users' values for one server; say how many. See `TokenRepository`'s."""
        query: Doc = {"pluginKey": plugin_key(server_name), **since_filter("updatedAt", since)}
        rows = await self._auths.find(query, OWNED, session=tx).to_list()
        query["_id"] = {"$nin": await of_other_tenants(rows, tenant_id, self._users, tx)}
        return (await self._auths.delete_many(query, session=tx)).deleted_count


def _auth_key(user_id: str, server_name: str) -> Doc:
    return {"userId": user_id, "pluginKey": plugin_key(server_name)}
