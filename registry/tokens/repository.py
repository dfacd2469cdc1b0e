"""Repository of `tokens`: users' stored tokens, encrypted at rest.

The collection is shared with jarvis-api and holds other kinds of tokens too, so every query names
its types.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from beanie.odm.queries.find import FindOne
from bson import ObjectId
from pydantic import Field, PlainValidator, ValidationError
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import deleted, matched, read_all, read_one
from packages.database.encryption import Cipher, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import Projection, id_of, json_members, text_of
from packages.models import Token, User
from registry.auth.identity import ALL_TENANTS, Tenants, tenant_of
from registry.auth.repository import of_tenants
from registry.core.json import JsonObject
from registry.core.paging import Page, PageRequest
from registry.tokens.naming import (
    MCP_ACCESS,
    MCP_CLIENT,
    MCP_REFRESH,
    MCP_TYPES,
    SHOWN_REFRESH_SUFFIX,
    access_identifier,
    client_identifier,
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
    TokenRow,
    TokenRowValues,
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


MAX_REVOKED = 3_000
"""Rows whose tokens are revoked when their server is removed: of a thousand users."""

LEASE = "registry.lease"
NOT_OURS: Doc = {"registry.oauth": "", LEASE: ""}
"""Members of rows that were obtained by OAuth; a value that a person stores has none."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """The fields that are written of a token."""

    value: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    metadata: JsonObject


class Ownership(Projection):
    """Whose document it is; of a user, the tenant that the user is of.

    Attributes:
        key: `_id` as stored: other programs use other types too.
        user_id: As text, whatever its type is.
    """

    key: Annotated[Any, Field(alias="_id")]
    user_id: Annotated[str, PlainValidator(str), Field(alias="userId")] = ""
    tenant_id: Annotated[str | None, PlainValidator(tenant_of), Field(alias="tenantId")] = None


@translates_driver_errors
class TokenRepository:
    """Stores users' tokens.

    All methods about a server or a client, and `counts`, concern all users; the others one.
    """

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._tokens = database.document(Token)
        self._users = database.document(User)
        self._cipher = cipher

    async def get(self, token_id: str, user_id: str, now: datetime) -> StoredToken | None:
        """Return a token, decrypted, or None if absent, expired or another user's.

        Raises:
            DecryptionError: The stored value cannot be read with the current keys.
        """
        query = {**_owned(token_id, user_id), "expiresAt": {"$gt": now}}
        token = await read_one(self._tokens.find(query, projection_model=StoredToken))
        if token is None:
            return None
        value = self._cipher.decrypt(token.value, FieldRef("tokens", token_id, "token"))
        return token.model_copy(update={"value": value})

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
            query["$or"] = _with_identifier(token_filter.identifier)
        found = self._tokens.find(query, projection_model=TokenRecord)
        total = await found.count()
        rows = found.sort("-createdAt", "-_id").skip(page.offset).limit(page.per_page)
        return Page(tuple(await read_all(rows)), total, page)

    async def find(self, token_id: str, user_id: str, tx: Transaction) -> TokenRecord | None:
        """Return a token, expired or not."""
        return await self._one(_owned(token_id, user_id), tx)

    async def find_key(self, user_id: str, key: StoredKey, tx: Transaction) -> TokenRecord | None:
        """Return the token with *key*, expired or not."""
        return await self._one(_at(user_id, key), tx)

    async def find_refresh_of(
        self, access_id: str, user_id: str, now: datetime, tx: Transaction
    ) -> TokenRecord | None:
        """Return the unexpired refresh token that is linked to an access token."""
        query = {
            "userId": ObjectId(user_id),
            "type": {"$in": stored_types(TokenType.OAUTH_REFRESH)},
            "metadata.access_token_id": access_id,
            "expiresAt": {"$gt": now},
        }
        return await self._one(query, tx)

    async def _one(self, query: Doc, tx: Transaction) -> TokenRecord | None:
        found = self._tokens.find(query, projection_model=TokenRecord, session=tx)
        return await read_one(found)

    async def store(
        self, user_id: str, key: StoredKey, written: NewToken, tx: Transaction
    ) -> TokenRecord:
        """Store a token, replacing the one with *key*.

        Raises:
            DuplicateKeyError: Another request stored it at the same time; the transaction is over.
        """
        values = self._values(written)
        if key.given_identifier is not None:
            values["registry.identifier"] = key.given_identifier
        document = await self._tokens.get_pymongo_collection().find_one_and_update(
            _at(user_id, key),
            {
                "$set": values,
                "$unset": {"registry.access_token": "", **NOT_OURS},
                "$setOnInsert": {"registry.place": _place(user_id, key)},
            },
            projection=TokenRecord.Settings.projection,
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        return TokenRecord.model_validate(document)

    async def restore(
        self, token_id: str, user_id: str, key: StoredKey, written: NewToken, tx: Transaction
    ) -> TokenRecord:
        """Insert a removed token again under its former id."""
        own = {"place": _place(user_id, key)}
        if key.given_identifier is not None:
            own["identifier"] = key.given_identifier
        document = {
            "_id": ObjectId(token_id),
            **_at(user_id, key),
            **self._values(written),
            "registry": own,
        }
        await self._tokens.model_validate(document).insert(session=tx)
        return TokenRecord.model_validate(document)

    async def renew(self, token_id: str, user_id: str, written: NewToken, tx: Transaction) -> None:
        """Replace a token's value, times and metadata."""
        token = self._tokens.find_one(_owned(token_id, user_id))
        await token.update({"$set": self._values(written), "$unset": NOT_OURS}, session=tx)

    async def link(
        self, access: TokenRecord, refresh: TokenRecord, tx: Transaction
    ) -> TokenRecord:
        """Link an access and a refresh token to each other, and remove other links to them.

        Returns:
            *access* with its new metadata.
        """
        await self._unlink_access(access.user_id, refresh.token_id, tx, except_id=access.token_id)
        await self._unlink_refresh(access.user_id, access.token_id, tx, except_id=refresh.token_id)
        metadata = {**access.metadata, "refresh_token_id": refresh.token_id}
        linked = access.model_copy(update={"metadata": metadata})
        # Metadata is replaced as a whole: another program may have stored null there.
        stored = self._tokens.find_one({"_id": ObjectId(access.token_id)})
        await stored.update({"$set": {"metadata": metadata}}, session=tx)
        stored = self._tokens.find_one({"_id": ObjectId(refresh.token_id)})
        await stored.update(
            {
                "$set": {
                    "metadata": {**refresh.metadata, "access_token_id": access.token_id},
                    "registry.access_token": _access_token_facts(linked),
                }
            },
            session=tx,
        )
        return linked

    async def unlink(self, token_id: str, user_id: str, tx: Transaction) -> None:
        """Remove the links that other tokens have to this one."""
        await self._unlink_access(user_id, token_id, tx)
        await self._unlink_refresh(user_id, token_id, tx)

    async def _unlink_access(
        self, user_id: str, refresh_id: str, tx: Transaction, *, except_id: str | None = None
    ) -> None:
        """Remove the links of access tokens to a refresh token."""
        query = {
            **_others(user_id, TokenType.OAUTH_ACCESS, except_id),
            "metadata.refresh_token_id": refresh_id,
        }
        await self._tokens.find(query).update(
            {"$unset": {"metadata.refresh_token_id": ""}}, session=tx
        )

    async def _unlink_refresh(
        self, user_id: str, access_id: str, tx: Transaction, *, except_id: str | None = None
    ) -> None:
        """Remove the links of refresh tokens to an access token."""
        query = {
            **_others(user_id, TokenType.OAUTH_REFRESH, except_id),
            "metadata.access_token_id": access_id,
        }
        await self._tokens.find(query).update(
            {"$unset": {"metadata.access_token_id": "", "registry.access_token": ""}}, session=tx
        )

    async def delete(self, token_id: str, user_id: str, tx: Transaction) -> None:
        """Remove a token."""
        await self._tokens.find_one(_owned(token_id, user_id)).delete(session=tx)

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
        query = await self._of_server(server_name, tenant_id, since, tx)
        return await deleted(self._tokens.find(query).delete(session=tx))

    async def rows_of_server(
        self, server_name: str, tenant_id: str | None, since: datetime | None, tx: Transaction
    ) -> list[TokenRow]:
        """Return the rows of OAuth tokens that `delete_of_server` removes, up to `MAX_REVOKED`."""
        query = await self._of_server(server_name, tenant_id, since, tx)
        query["type"] = {"$in": [*MCP_TYPES]}
        found = self._tokens.find(query, projection_model=TokenRow, session=tx)
        # A user's rows together, so that the limit leaves out whole users.
        return await read_all(found.sort("+userId").limit(MAX_REVOKED))

    async def take_of_former_server(self, server_id: str, tx: Transaction) -> list[TokenRow]:
        """Remove the rows of OAuth tokens that were obtained for a server that is gone.

        Rows that another program wrote do not say which server they are for: they stay.

        Returns:
            What was removed, up to `MAX_REVOKED`.
        """
        query: Doc = {"type": {"$in": [*MCP_TYPES]}, "registry.oauth.server_id": server_id}
        found = self._tokens.find(query, projection_model=TokenRow, session=tx).sort("+userId")
        rows = [
            row
            for row in await read_all(found)
            if json_members(row.registry.get("oauth")).get("of") == digest_of(row.ciphertext)
        ]
        keys = [row.key for row in rows]
        await self._tokens.find({"_id": {"$in": keys}}).delete(session=tx)
        return rows[:MAX_REVOKED]

    async def _of_server(
        self, server_name: str, tenant_id: str | None, since: datetime | None, tx: Transaction
    ) -> Doc:
        query: Doc = {
            **since_filter("createdAt", since),
            "type": {"$in": [*STORED_TYPES, MCP_CLIENT]},
            "identifier": {
                "$in": [
                    access_identifier(server_name),
                    refresh_identifier(server_name),
                    client_identifier(server_name),
                ]
            },
        }
        rows = self._tokens.find(query, projection_model=Ownership, session=tx)
        others = await of_other_tenants(await rows.to_list(), tenant_id, self._users, tx)
        return {**query, "_id": {"$nin": others}}

    async def users_of_client(
        self, client_id: str, token_endpoint: str | None = None
    ) -> frozenset[str]:
        """Return the users who have tokens that were obtained with a client.

        Args:
            client_id: Of the client; a metadata document may be one at many authorization servers.
            token_endpoint: Where they were obtained; None for anywhere.
        """
        query: Doc = {
            "type": {"$in": [MCP_ACCESS, MCP_REFRESH]},
            "registry.oauth.client_id": client_id,
        }
        if token_endpoint is not None:
            query["registry.oauth.token_endpoint"] = token_endpoint
        found = await self._tokens.get_pymongo_collection().distinct("userId", query)
        return frozenset(str(one) for one in found)

    async def latest_authorizations(self, now: datetime, limit: int) -> list[tuple[str, str]]:
        """Return servers and users of the newest access tokens that are not expired."""
        query: Doc = {
            "type": MCP_ACCESS,
            "expiresAt": {"$gt": now},
            "registry.oauth.server_id": {"$type": "string"},
        }
        fields = {"userId": 1, "registry.oauth.server_id": 1}
        cursor = self._tokens.get_pymongo_collection().find(query, fields)
        rows = await cursor.sort("createdAt", DESCENDING).limit(limit).to_list()
        return [(row["registry"]["oauth"]["server_id"], str(row["userId"])) for row in rows]

    async def rows(
        self, user_id: str, identifiers: Collection[str], tx: Transaction | None = None
    ) -> list[TokenRow]:
        """Return a user's rows of OAuth tokens with some identifiers, expired or not."""
        if not ObjectId.is_valid(user_id):
            return []
        query: Doc = {"userId": ObjectId(user_id), "identifier": {"$in": [*identifiers]}}
        found = await read_all(self._tokens.find(query, projection_model=TokenRow, session=tx))
        # Another program may have stored an array that contains one of them.
        return [row for row in found if row.stored_type in MCP_TYPES]

    async def put_row(
        self, user_id: str, key: StoredKey, written: TokenRowValues, tx: Transaction
    ) -> TokenRow:
        """Store a row of OAuth tokens in place of the one with *key*.

        Raises:
            DuplicateKeyError: Another request stored it at the same time; the transaction is over.
        """
        place: Doc = {"registry.place": _place(user_id, key)}
        document = await self._tokens.get_pymongo_collection().find_one_and_update(
            _at(user_id, key),
            {
                "$set": self._row(written),
                "$unset": {"registry.access_token": "", LEASE: ""},
                "$setOnInsert": place,
            },
            projection=TokenRow.Settings.projection,
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        return TokenRow.model_validate(document)

    async def replace_row(self, row: TokenRow, written: TokenRowValues, tx: Transaction) -> bool:
        """Replace what is stored in a row; False if it is no longer what was read."""
        changes = {"$set": self._row(written), "$unset": {LEASE: ""}}
        return await matched(self._unchanged(row).update(changes, session=tx)) == 1

    async def take_lease(self, row: TokenRow, holder: str, former: str | None) -> bool:
        """Take the lease of a row; False if the row or the holder of its lease has changed.

        Args:
            row: As it was read.
            holder: Who takes it.
            former: Who held it until now.
        """
        query: Doc = {
            "_id": row.key,
            "token": row.ciphertext,
            f"{LEASE}.holder": {"$exists": False} if former is None else former,
        }
        changes = {"$set": {LEASE: {"holder": holder}}}
        return await matched(self._tokens.find_one(query).update(changes)) == 1

    async def release_lease(self, row: TokenRow, holder: str) -> None:
        """Release the lease of a row, if *holder* still has it."""
        query = {"_id": row.key, f"{LEASE}.holder": holder}
        await self._tokens.find_one(query).update({"$unset": {LEASE: ""}})

    async def note_facts(
        self, row: TokenRow, facts: JsonObject, tx: Transaction | None = None
    ) -> bool:
        """Replace `registry.oauth` of a row and release its lease; False if it has changed."""
        own = {"registry.oauth": {**facts, "of": digest_of(row.ciphertext)}}
        changes = {"$set": own, "$unset": {LEASE: ""}}
        return await matched(self._unchanged(row).update(changes, session=tx)) == 1

    async def delete_rows(
        self, user_id: str, identifiers: Collection[str], types: Collection[str], tx: Transaction
    ) -> int:
        """Remove a user's rows of OAuth tokens with some identifiers; return their number."""
        query: Doc = {
            "userId": ObjectId(user_id),
            "identifier": {"$in": [*identifiers]},
            "type": {"$in": [*types]},
        }
        return await deleted(self._tokens.find(query).delete(session=tx))

    def _unchanged(self, row: TokenRow) -> FindOne[Token]:
        return self._tokens.find_one({"_id": row.key, "token": row.ciphertext})

    def _row(self, written: TokenRowValues) -> Doc:
        ciphertext = self._cipher.encrypt_shared(written.value)
        values: Doc = {
            "token": ciphertext,
            "createdAt": written.created_at,
            "expiresAt": written.expires_at,
            "registry.oauth": {**written.facts, "of": digest_of(ciphertext)},
        }
        if written.metadata is not None:
            values["metadata"] = written.metadata
        if written.tenant_id is not None:
            values["tenantId"] = written.tenant_id
        return values

    async def counts(self, now: datetime, tenants: Tenants = ALL_TENANTS) -> TokenCounts:
        """Count the tokens of known types, from one snapshot of the collection."""
        match: Doc = {"type": {"$in": stored_types()}}
        if not tenants.are_all:
            users = self._users.find(of_tenants(tenants), projection_model=Ownership)
            match["userId"] = {"$in": [user.key for user in await users.to_list()]}
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
        active_users: set[str] = set()
        async for group in self._tokens.aggregate(pipeline):
            count, key = int(group["count"]), group["_id"]
            kind = STORED_TYPES.get(text_of(key["type"]) or "")
            if kind is None:
                # The query also matches an array that contains a type.
                continue
            by_type[kind] += count
            if key["active"]:
                active_by_type[kind] += count
                # A token without a user is only counted.
                active_users |= {user} if (user := id_of(key.get("user"))) is not None else set()
            else:
                expired += count
        active = sum(active_by_type.values())
        return TokenCounts(
            active + expired, by_type, active, expired, len(active_users), active_by_type
        )

    async def unreadable(self) -> list[str]:
        """Return the ids of malformed tokens of known types."""
        # Through the driver, because `read_all` leaves these out.
        rows = self._tokens.get_pymongo_collection().find(
            {"type": {"$in": stored_types()}}, TokenRecord.Settings.projection
        )
        return [str(row["_id"]) async for row in rows if not _is_readable(row)]

    def _values(self, written: NewToken) -> Doc:
        return {
            "token": self._cipher.encrypt_shared(written.value),
            "createdAt": written.created_at,
            "expiresAt": written.expires_at,
            "metadata": written.metadata,
        }


def digest_of(ciphertext: str) -> str:
    """Return what binds `registry.oauth` of a row to the ciphertext that it was written with."""
    return hashlib.sha256(ciphertext.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def since_filter(name: str, moment: datetime | None) -> Doc:
    """Return the query for documents whose time *name* is not before *moment*; None means all."""
    # Documents without the time match too.
    return {} if moment is None else {"$or": [{name: {"$gte": moment}}, {name: None}]}


async def of_other_tenants(
    rows: Sequence[Ownership], tenant_id: str | None, users: type[User], tx: Transaction
) -> list[object]:
    """Return the ids of those of *rows* that belong to users of tenants other than *tenant_id*.

    If a row has no tenant, its user's tenant counts.
    """
    without_tenant = {row.user_id for row in rows if row.tenant_id is None}
    ids = [ObjectId(one) for one in without_tenant if ObjectId.is_valid(one)]
    tenants: dict[str, str | None] = {}
    if ids:
        found = users.find({"_id": {"$in": ids}}, projection_model=Ownership, session=tx)
        tenants = {str(user.key): user.tenant_id for user in await found.to_list()}
    return [row.key for row in rows if (row.tenant_id or tenants.get(row.user_id)) != tenant_id]


def _is_readable(row: Doc) -> bool:
    try:
        TokenRecord.model_validate(row)
    except ValidationError:
        return False
    return True


def _owned(token_id: str, user_id: str) -> Doc:
    return {
        "_id": ObjectId(token_id),
        "userId": ObjectId(user_id),
        "type": {"$in": stored_types()},
    }


def _others(user_id: str, kind: TokenType, except_id: str | None) -> Doc:
    query: Doc = {"userId": ObjectId(user_id), "type": {"$in": stored_types(kind)}}
    if except_id is not None:
        query["_id"] = {"$ne": ObjectId(except_id)}
    return query


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


def _with_identifier(identifier: str) -> list[Doc]:
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


def _access_token_facts(access: TokenRecord) -> Doc:
    facts: Doc = {
        "type": access.stored_type,
        "identifier": access.identifier,
        "metadata": access.metadata,
    }
    if access.given_identifier is not None:
        facts["given_identifier"] = access.given_identifier
    return facts
