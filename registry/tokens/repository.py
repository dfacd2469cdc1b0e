"""Repository of `tokens`: users' stored tokens, encrypted at rest.

The collection is shared with jarvis-api and holds other kinds of tokens too, so every query names
its types.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection

from packages.database.client import Database, Doc, Transaction
from packages.database.encryption import Cipher, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import NotJsonError, id_of, json_of, moment_of, text_of
from registry.auth.identity import ALL_TENANTS, Tenants, tenant_of
from registry.auth.repository import of_tenants
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.tokens.naming import (
    MCP_ACCESS,
    MCP_REFRESH,
    SHOWN_REFRESH_SUFFIX,
    access_identifier,
    refresh_identifier,
    stored_types,
)
from registry.tokens.values import (
    STORED_TYPES,
    StoredKey,
    StoredToken,
    TokenCounts,
    TokenFilter,
    TokenRecord,
    TokenType,
)

TOKEN_INDEXES = [
    IndexModel([("userId", ASCENDING), ("type", ASCENDING)]),
    IndexModel([("userId", ASCENDING), ("identifier", ASCENDING)]),
    IndexModel([("type", ASCENDING), ("identifier", ASCENDING)]),
    IndexModel([("createdAt", ASCENDING)]),
    IndexModel(
        [("userId", ASCENDING), ("type", ASCENDING), ("identifier", ASCENDING)],
        name="registry_by_identifier",
    ),
    IndexModel(
        [("registry.place", ASCENDING)],
        name="registry_own_place",
        unique=True,
        partialFilterExpression={"registry.place": {"$type": "string"}},
    ),
]
"""In addition to the published TTL index. Only tokens that we inserted are unique: jarvis-api may
write two tokens of one kind."""

ENDED = datetime(1970, 1, 1, tzinfo=UTC)
"""Expiry of a token whose stored expiry is not a date."""

NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]


@dataclass(frozen=True, slots=True)
class NewToken:
    """The fields that are written of a token."""

    value: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    metadata: JsonObject


@translates_driver_errors
class TokenRepository:
    """Stores users' tokens. All methods but `delete_of_server` and `counts` concern one user."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._tokens = database.collection("tokens")
        self._users = database.collection("users")
        self._cipher = cipher

    async def get(self, token_id: str, user_id: str, now: datetime) -> StoredToken | None:
        """Return a token, decrypted, or None if absent, expired or another user's.

        Raises:
            DecryptionError: The stored value cannot be read with the current keys.
        """
        document = await self._tokens.find_one(
            {**_owned(token_id, user_id), "expiresAt": {"$gt": now}}
        )
        record = None if document is None else _record(document)
        if document is None or record is None:
            return None
        reference = FieldRef("tokens", token_id, "token")
        # Other programs write here too; a value that is not text is not ciphertext either.
        value = self._cipher.decrypt(text_of(document.get("token")) or "", reference)
        return StoredToken(record, value)

    async def list_page(
        self, user_id: str, token_filter: TokenFilter, now: datetime, page: PageRequest
    ) -> Page[TokenRecord]:
        """Return one page of the tokens that have not expired, newest first."""
        query: Doc = {
            "userId": ObjectId(user_id),
            "type": {"$in": stored_types(token_filter.kind)},
            "expiresAt": {"$gt": now},
        }
        if token_filter.identifier is not None:
            query["$or"] = _called(token_filter.identifier)
        total = await self._tokens.count_documents(query)
        rows = self._tokens.find(
            query, {"token": 0}, sort=NEWEST_FIRST, skip=page.offset, limit=page.per_page
        )
        records = [record async for row in rows if (record := _record(row)) is not None]
        return Page(tuple(records), total, page)

    async def find(self, token_id: str, user_id: str, tx: Transaction) -> TokenRecord | None:
        """Return a token, expired or not."""
        document = await self._tokens.find_one(_owned(token_id, user_id), session=tx)
        return None if document is None else _record(document)

    async def find_key(self, user_id: str, key: StoredKey, tx: Transaction) -> TokenRecord | None:
        """Return the token with *key*, expired or not."""
        document = await self._tokens.find_one(_at(user_id, key), session=tx)
        return None if document is None else _record(document)

    async def find_refresh_of(
        self, access_id: str, user_id: str, now: datetime, tx: Transaction
    ) -> TokenRecord | None:
        """Return the unexpired refresh token that is linked to an access token."""
        document = await self._tokens.find_one(
            {
                "userId": ObjectId(user_id),
                "type": {"$in": stored_types(TokenType.OAUTH_REFRESH)},
                "metadata.access_token_id": access_id,
                "expiresAt": {"$gt": now},
            },
            session=tx,
        )
        return None if document is None else _record(document)

    async def store(self, user_id: str, key: StoredKey, written: NewToken, tx: Transaction) -> str:
        """Store a token, replacing the one with *key*; return its id.

        Raises:
            DuplicateKeyError: Somebody else stored it meanwhile; the transaction is over.
        """
        values = self._values(written)
        if key.given_identifier is not None:
            values["registry.identifier"] = key.given_identifier
        document = await self._tokens.find_one_and_update(
            _at(user_id, key),
            {
                "$set": {**values, "metadata": written.metadata},
                "$unset": {"registry.access_token": ""},
                "$setOnInsert": {"registry.place": _place(user_id, key)},
            },
            projection={"_id": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        assert document is not None  # noqa: S101 - an upsert leaves one
        return str(document["_id"])

    async def restore(
        self, token_id: str, user_id: str, key: StoredKey, written: NewToken, tx: Transaction
    ) -> None:
        """Insert a swept token again under its former id."""
        document: Doc = {
            "_id": ObjectId(token_id),
            **_at(user_id, key),
            **self._values(written),
            "metadata": written.metadata,
        }
        document["registry"] = {"place": _place(user_id, key)}
        if key.given_identifier is not None:
            document["registry"]["identifier"] = key.given_identifier
        await self._tokens.insert_one(document, session=tx)

    async def renew(self, token_id: str, user_id: str, written: NewToken, tx: Transaction) -> None:
        """Replace a token's value, times and metadata."""
        await self._tokens.update_one(
            _owned(token_id, user_id),
            {"$set": {**self._values(written), "metadata": written.metadata}},
            session=tx,
        )

    async def link(
        self, access: TokenRecord, refresh: TokenRecord, tx: Transaction
    ) -> TokenRecord:
        """Link an access and a refresh token to each other, and remove other links to them.

        Returns:
            *access* with its new metadata.
        """
        user = ObjectId(access.user_id)
        await self._tokens.update_many(
            {
                "userId": user,
                "_id": {"$ne": ObjectId(access.token_id)},
                "type": {"$in": stored_types(TokenType.OAUTH_ACCESS)},
                "metadata.refresh_token_id": refresh.token_id,
            },
            {"$unset": {"metadata.refresh_token_id": ""}},
            session=tx,
        )
        await self._tokens.update_many(
            {
                "userId": user,
                "_id": {"$ne": ObjectId(refresh.token_id)},
                "type": {"$in": stored_types(TokenType.OAUTH_REFRESH)},
                "metadata.access_token_id": access.token_id,
            },
            {"$unset": {"metadata.access_token_id": "", "registry.access_token": ""}},
            session=tx,
        )
        linked = replace(
            access, metadata={**access.metadata, "refresh_token_id": refresh.token_id}
        )
        # Metadata is replaced as a whole: another program may have stored null there.
        await self._tokens.update_one(
            {"_id": ObjectId(access.token_id)}, {"$set": {"metadata": linked.metadata}}, session=tx
        )
        await self._tokens.update_one(
            {"_id": ObjectId(refresh.token_id)},
            {
                "$set": {
                    "metadata": {**refresh.metadata, "access_token_id": access.token_id},
                    "registry.access_token": _remembered(linked),
                }
            },
            session=tx,
        )
        return linked

    async def unlink(self, token_id: str, user_id: str, tx: Transaction) -> None:
        """Remove the links that other tokens have to this one."""
        user = ObjectId(user_id)
        await self._tokens.update_many(
            {
                "userId": user,
                "type": {"$in": stored_types(TokenType.OAUTH_ACCESS)},
                "metadata.refresh_token_id": token_id,
            },
            {"$unset": {"metadata.refresh_token_id": ""}},
            session=tx,
        )
        await self._tokens.update_many(
            {
                "userId": user,
                "type": {"$in": stored_types(TokenType.OAUTH_REFRESH)},
                "metadata.access_token_id": token_id,
            },
            {"$unset": {"metadata.access_token_id": "", "registry.access_token": ""}},
            session=tx,
        )

    async def delete(self, token_id: str, user_id: str, tx: Transaction) -> None:
        """Remove a token."""
        await self._tokens.delete_one(_owned(token_id, user_id), session=tx)

    async def delete_of_server(
        self, server_name: str, tenant_id: str | None, since: datetime | None, tx: Transaction
    ) -> int:
        """Remove all users' tokens for one server, and nothing else; return their number.

        Tokens of users of another tenant are for their own server of that name.

        Args:
            server_name: Others may have had the name, here or in the other application alone.
            tenant_id: The tenant that this server is of.
            since: When this server came to be; what is older is not about it. None for all.
            tx: The transaction to do it in.
        """
        prefix = access_identifier(server_name)
        query: Doc = {
            **since_filter("createdAt", since),
            "type": {"$in": [*STORED_TYPES, "mcp_oauth_client"]},
            "identifier": {"$in": [prefix, refresh_identifier(server_name), f"{prefix}:client"]},
        }
        rows = await self._tokens.find(query, OWNED, session=tx).to_list()
        query["_id"] = {"$nin": await of_other_tenants(rows, tenant_id, self._users, tx)}
        result = await self._tokens.delete_many(query, session=tx)
        return result.deleted_count

    async def counts(self, now: datetime, tenants: Tenants = ALL_TENANTS) -> TokenCounts:
        """Count the tokens of known types, from one snapshot of the collection."""
        match: Doc = {"type": {"$in": stored_types()}}
        if not tenants.are_all:
            people = self._users.find(of_tenants(tenants), {"_id": 1})
            match["userId"] = {"$in": [user["_id"] for user in await people.to_list()]}
        pipeline: list[Doc] = [
            {"$match": match},
            {
                # Grouped by user, because a set of users would grow with the collection.
                "$group": {
                    "_id": {
                        "type": "$type",
                        "active": {"$gt": ["$expiresAt", now]},
                        "user": "$userId",
                    },
                    "count": {"$sum": 1},
                }
            },
        ]
        by_type = dict.fromkeys(TokenType, 0)
        active_by_type = dict.fromkeys(TokenType, 0)
        expired = 0
        users: set[str] = set()
        async for group in await self._tokens.aggregate(pipeline):
            count, key = int(group["count"]), group["_id"]
            kind = STORED_TYPES.get(text_of(key["type"]) or "")
            if kind is None:
                # The query also matches an array that contains a type.
                continue
            by_type[kind] += count
            if key["active"]:
                active_by_type[kind] += count
                # A token without a user is only counted.
                users |= {user} if (user := id_of(key.get("user"))) is not None else set()
            else:
                expired += count
        active = sum(active_by_type.values())
        return TokenCounts(active + expired, by_type, active, expired, len(users), active_by_type)

    async def unreadable(self) -> list[str]:
        """Return the ids of malformed tokens of known types."""
        rows = self._tokens.find({"type": {"$in": stored_types()}}, {"token": 0, "metadata": 0})
        return [str(row["_id"]) async for row in rows if _record(row) is None]

    def _values(self, written: NewToken) -> Doc:
        return {
            "token": self._cipher.encrypt_shared(written.value),
            "createdAt": written.created_at,
            "expiresAt": written.expires_at,
        }


def since_filter(name: str, moment: datetime | None) -> Doc:
    """Return the query for documents whose time *name* is not before *moment*; None means all."""
    # Documents without the time match too.
    return {} if moment is None else {"$or": [{name: {"$gte": moment}}, {name: None}]}


OWNED: Doc = {"userId": 1, "tenantId": 1}


async def of_other_tenants(
    rows: Sequence[Doc], tenant_id: str | None, users: AsyncCollection[Doc], tx: Transaction | None
) -> list[object]:
    """Return the ids of those of *rows* that belong to users of tenants other than *tenant_id*.

    If a row has no tenant, its user's tenant counts.
    """
    unsaid = {str(row.get("userId")) for row in rows if tenant_of(row.get("tenantId")) is None}
    ids = [ObjectId(one) for one in unsaid if ObjectId.is_valid(one)]
    found = users.find({"_id": {"$in": ids}}, {"tenantId": 1}, session=tx) if ids else None
    tenants = (
        {str(user["_id"]): tenant_of(user.get("tenantId")) for user in await found.to_list()}
        if found is not None
        else {}
    )
    return [
        row["_id"]
        for row in rows
        if (tenant_of(row.get("tenantId")) or tenants.get(str(row.get("userId")))) != tenant_id
    ]


def _owned(token_id: str, user_id: str) -> Doc:
    return {
        "_id": ObjectId(token_id),
        "userId": ObjectId(user_id),
        "type": {"$in": stored_types()},
    }


def _place(user_id: str, key: StoredKey) -> str:
    """Return the value of the unique index, by which one of two concurrent inserts is refused."""
    place = "\0".join(str(value) for value in _at(user_id, key).values())
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()


def _at(user_id: str, key: StoredKey) -> Doc:
    return {
        "userId": ObjectId(user_id),
        "type": key.stored_type,
        "identifier": key.identifier,
    }


def _called(identifier: str) -> list[Doc]:
    """Return the conditions for tokens that callers know as *identifier*."""
    unnamed: Doc = {"registry.identifier": {"$exists": False}}
    conditions: list[Doc] = [
        {"identifier": identifier},
        {"registry.identifier": identifier},
        {**unnamed, "type": MCP_ACCESS, "identifier": access_identifier(identifier)},
    ]
    server = identifier.removesuffix(SHOWN_REFRESH_SUFFIX)
    if server != identifier:
        stored = refresh_identifier(server)
        conditions.append({**unnamed, "type": MCP_REFRESH, "identifier": stored})
    return conditions


def _record(document: dict[str, Any]) -> TokenRecord | None:
    """Return a stored token; None if it is malformed."""
    token_id, user_id = id_of(document["_id"]), id_of(document.get("userId"))
    stored_type = text_of(document.get("type"))
    if token_id is None or user_id is None or stored_type is None:
        return None
    facts = members(document.get("registry"))
    return TokenRecord(
        token_id=token_id,
        user_id=user_id,
        key=_key(stored_type, document.get("identifier"), facts.get("identifier")),
        created_at=moment_of(document.get("createdAt")) or document["_id"].generation_time,
        expires_at=moment_of(document.get("expiresAt")) or ENDED,
        metadata=_metadata(document.get("metadata")),
        access_token=_recalled(members(facts.get("access_token"))),
    )


def _metadata(stored: object) -> JsonObject:
    """Return stored metadata without members that JSON cannot represent."""
    metadata: JsonObject = {}
    for name, value in members(stored).items():
        with suppress(NotJsonError):
            metadata[name] = json_of(value)
    return metadata


def _key(stored_type: object, identifier: object, given: object) -> StoredKey:
    return StoredKey(text_of(stored_type) or "", text_of(identifier) or "", text_of(given))


def _remembered(access: TokenRecord) -> Doc:
    facts: Doc = {
        "type": access.key.stored_type,
        "identifier": access.key.identifier,
        "metadata": access.metadata,
    }
    if access.key.given_identifier is not None:
        facts["given_identifier"] = access.key.given_identifier
    return facts


def _recalled(facts: JsonObject) -> tuple[StoredKey, JsonObject] | None:
    stored_type = facts.get("type")
    if not isinstance(stored_type, str) or stored_type not in stored_types(TokenType.OAUTH_ACCESS):
        return None
    key = _key(stored_type, facts.get("identifier"), facts.get("given_identifier"))
    return key, _metadata(facts.get("metadata"))
