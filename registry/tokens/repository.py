"""Reads and writes `tokens` and `pluginauths`, with encryption inside.

Both collections are shared with jarvis-api. `tokens` holds other kinds of tokens too, so every
query names the types it means.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.encryption import Cipher, FieldRef
from packages.database.errors import DatabaseUnavailable, translates_driver_errors
from registry.core.json import JsonObject
from registry.tokens.values import STORED_TYPES, StoredToken, TokenCounts, TokenType

TOKEN_INDEXES = [
    IndexModel([("userId", ASCENDING), ("type", ASCENDING)]),
    IndexModel([("userId", ASCENDING), ("identifier", ASCENDING)]),
    IndexModel([("type", ASCENDING), ("identifier", ASCENDING)]),
    IndexModel([("createdAt", ASCENDING)]),
    IndexModel(
        [("userId", ASCENDING), ("type", ASCENDING), ("identifier", ASCENDING)],
        name="registry_user_type_identifier",
        unique=True,
        partialFilterExpression={"type": {"$in": list(STORED_TYPES)}},
    ),
]
"""Besides the published TTL index. The unique one covers only the kinds that we write."""

PLUGIN_AUTH_INDEXES = [
    IndexModel([("userId", ASCENDING), ("pluginKey", ASCENDING), ("authField", ASCENDING)])
]
STORE_ATTEMPTS = 5
"""After the first lost race there is a document to replace, so the second try should succeed."""

API_KEY_FIELD = "MCP_API_KEY"
"""`authField` under which jarvis-api keeps a user's key for an MCP server."""


def plugin_key(server_name: str) -> str:
    """Return the `pluginKey` of a server, as jarvis-api builds it."""
    return f"mcp_{server_name}"


@translates_driver_errors
class TokenRepository:
    """Tokens of users. Expired ones do not exist here, swept or not."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._tokens = database.collection("tokens")
        self._cipher = cipher

    async def store(
        self,
        *,
        user_id: str,
        stored_type: str,
        identifier: str,
        value: str,
        expires_at: datetime,
        metadata: JsonObject,
        now: datetime,
    ) -> str:
        """Store a token, replacing one of the same user, type and identifier; return its id.

        Raises:
            DatabaseUnavailable: Others stored and deleted the same one all the time.
        """
        key = {"userId": ObjectId(user_id), "type": stored_type, "identifier": identifier}
        values = {
            "token": self._cipher.encrypt_shared(value),
            "createdAt": now,
            "expiresAt": expires_at,
            "metadata": metadata,
        }
        for _ in range(STORE_ATTEMPTS):
            # Of several that insert at once one wins; the others must come again to replace.
            with suppress(DuplicateKeyError):
                document = await self._tokens.find_one_and_update(
                    key,
                    {"$set": values},
                    projection={"_id": 1},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                if document is not None:
                    return str(document["_id"])
        raise DatabaseUnavailable

    async def get(self, token_id: str, user_id: str, now: datetime) -> StoredToken | None:
        """Return a token of *user_id*, decrypted, or None when absent, expired or another's.

        Raises:
            DecryptionError: The stored value cannot be read with the current keys.
        """
        document = await self._tokens.find_one(
            {**_owned(token_id, user_id), "expiresAt": {"$gt": now}}
        )
        return None if document is None else self._token(document)

    async def update(
        self, token_id: str, user_id: str, *, value: str, expires_at: datetime, now: datetime
    ) -> bool:
        """Replace a token's value and expiry; say whether there was one."""
        result = await self._tokens.update_one(
            _owned(token_id, user_id),
            {
                "$set": {
                    "token": self._cipher.encrypt_shared(value),
                    "createdAt": now,
                    "expiresAt": expires_at,
                }
            },
        )
        return result.matched_count == 1

    async def delete(self, token_id: str, user_id: str) -> bool:
        """Remove a token; say whether there was one."""
        result = await self._tokens.delete_one(_owned(token_id, user_id))
        return result.deleted_count == 1

    async def delete_of_server(self, server_name: str, tx: Transaction) -> None:
        """Remove what all users stored for one server, and nothing else."""
        prefix = f"mcp:{server_name}"
        await self._tokens.delete_many(
            {
                "type": {"$in": [*STORED_TYPES, "mcp_oauth_client"]},
                "identifier": {"$in": [prefix, f"{prefix}:refresh", f"{prefix}:client"]},
            },
            session=tx,
        )

    async def counts(self, now: datetime) -> TokenCounts:
        """Count the tokens of the types we know, from one snapshot of the collection."""
        pipeline: list[Doc] = [
            {"$match": {"type": {"$in": list(STORED_TYPES)}}},
            {
                "$group": {
                    "_id": {"type": "$type", "active": {"$gt": ["$expiresAt", now]}},
                    "count": {"$sum": 1},
                    "users": {"$addToSet": "$userId"},
                }
            },
        ]
        by_type = dict.fromkeys(TokenType, 0)
        active = expired = 0
        users: set[ObjectId] = set()
        async for group in await self._tokens.aggregate(pipeline):
            count = int(group["count"])
            by_type[STORED_TYPES[group["_id"]["type"]]] += count
            if group["_id"]["active"]:
                active += count
                users.update(group["users"])
            else:
                expired += count
        return TokenCounts(active + expired, by_type, active, expired, len(users))

    def _token(self, document: dict[str, Any]) -> StoredToken:
        token_id = str(document["_id"])
        return StoredToken(
            token_id=token_id,
            user_id=str(document["userId"]),
            stored_type=document["type"],
            identifier=str(document.get("identifier") or ""),
            value=self._cipher.decrypt(document["token"], FieldRef("tokens", token_id, "token")),
            created_at=document["createdAt"],
            expires_at=document["expiresAt"],
            metadata=document.get("metadata") or {},
        )


@translates_driver_errors
class PluginAuthRepository:
    """Keys that users typed in for servers whose `apiKey.source` is `user`."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._auths = database.collection("pluginauths")
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
    ) -> None:
        """Store a value of a user for a server in the form jarvis-api reads (v1)."""
        await self._auths.update_one(
            {
                "userId": user_id,
                "pluginKey": plugin_key(server_name),
                "authField": name,
            },
            {
                "$set": {"value": self._cipher.encrypt_fixed_iv(value), "updatedAt": now},
                "$setOnInsert": {"createdAt": now, "__v": 0},
            },
            upsert=True,
            session=tx,
        )

    async def values(self, user_id: str, server_name: str) -> dict[str, str]:
        """Return a user's values for a server, decrypted, by name.

        Raises:
            DecryptionError: A stored value cannot be read with the current keys.
        """
        return {
            document["authField"]: self._cipher.decrypt(
                document["value"], FieldRef("pluginauths", str(document["_id"]), "value")
            )
            async for document in self._auths.find(_auth_key(user_id, server_name))
        }

    async def stored(
        self, user_id: str, server_name: str, tx: Transaction | None = None
    ) -> dict[str, datetime | None]:
        """Return when a user stored which values for a server, without the values."""
        rows = self._auths.find(
            _auth_key(user_id, server_name), {"authField": 1, "updatedAt": 1}, session=tx
        )
        return {row["authField"]: row.get("updatedAt") async for row in rows}

    async def remove(
        self, user_id: str, server_name: str, names: Collection[str], tx: Transaction
    ) -> int:
        """Remove values of a user for a server; say how many there were."""
        key = {**_auth_key(user_id, server_name), "authField": {"$in": list(names)}}
        return (await self._auths.delete_many(key, session=tx)).deleted_count

    async def delete_of_server(self, server_name: str, tx: Transaction) -> None:
        """Remove all users' keys for one server."""
        await self._auths.delete_many({"pluginKey": plugin_key(server_name)}, session=tx)


def _auth_key(user_id: str, server_name: str) -> Doc:
    return {"userId": user_id, "pluginKey": plugin_key(server_name)}


def _owned(token_id: str, user_id: str) -> Doc:
    return {
        "_id": ObjectId(token_id),
        "userId": ObjectId(user_id),
        "type": {"$in": list(STORED_TYPES)},
    }
