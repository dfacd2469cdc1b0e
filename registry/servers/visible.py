"""Reads what a caller may see of `mcpservers`.

Every read takes the caller and applies the access rules in the query or to what was found.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from bson import ObjectId
from pymongo.errors import OperationFailure

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.database.stored import moment_of
from packages.models import MCPServer
from registry.access.policy import (
    ALL_BITS,
    NO_BITS,
    VIEW_BIT,
    Grants,
    ServerFacts,
    ServerScope,
    Visibility,
    evaluate,
    visibility,
)
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.paging import Page, PageRequest
from registry.servers.documents import RECORD, SEEN_FIELDS, record_of, records_of, scope_of
from registry.servers.queries import SORT, count_index, key_rules, list_query, tenant_rule
from registry.servers.sync_states import SyncStateRepository
from registry.servers.values import ServerFilter, ServerRecord

PUBLIC_SHIFT = 4
PUBLIC_BIT = VIEW_BIT << PUBLIC_SHIFT
"""Beside the four bits that entries give a user: that an entry lets everybody see."""

ENTRIES_DECIDE = (ServerScope.SHARED_USER, None)
"""Scopes as stored of servers that their authors see by entries, where there are any."""

NEVER = datetime.min.replace(tzinfo=UTC)

Key: TypeAlias = tuple[ObjectId, datetime, ServerScope | None]
"""A server's id, `updatedAt` and scope."""

BAD_HINT = 2
"""BadValue: what MongoDB answers when the index of a hint does not exist."""


@translates_driver_errors
class VisibleServers:
    """The servers that a caller may see, and what they may do with them.

    Args:
        admin_sees_private: Whether administrators see other users' private servers.
    """

    def __init__(
        self, database: Database, acl: AclRepository, *, admin_sees_private: bool
    ) -> None:
        self._servers = database.collection(MCPServer.Settings.name)
        self._states = SyncStateRepository(database)
        self._acl = acl
        self._admin_sees_private = admin_sees_private

    async def list_page(
        self, user: UserContext, narrowed: ServerFilter, page: PageRequest, now: datetime
    ) -> Page[ServerRecord]:
        """Return one page of what *user* may see, newest change first.

        Without tool functions, and without what is known of their reading.
        """
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        if visible.everything:
            return await self._page_of_all(narrowed, page, user)
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, narrowed, granted, now, user)
        chosen = keys[page.offset : page.offset + page.per_page]
        cursor = self._servers.find({"_id": {"$in": chosen}}, RECORD)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list()}
        # Looked at again: it may have changed since its id was read.
        records = (self._seen(found[key], user, granted) for key in chosen if key in found)
        items = tuple(record for record in records if record.bits & VIEW_BIT)
        return Page(items, len(keys), page)

    def sees_everything(self, user: UserContext) -> bool:
        """Whether no server is hidden from *user*."""
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        return visible.everything and user.tenant_id is None

    async def rights(self, user: UserContext, now: datetime) -> dict[str, int] | None:
        """Return what *user* may do with each server that they see; None for all with all."""
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        if visible.everything:
            if user.tenant_id is None:
                # What is of a tenant is among it: looking for it would read all servers.
                return None
            cursor = self._servers.find(tenant_rule(user), {"_id": 1})
            return {str(row["_id"]): ALL_BITS for row in await cursor.to_list()}
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, ServerFilter(), granted, now, user)
        cursor = self._servers.find(
            {"_id": {"$in": keys}}, {"author": 1, "scope": 1, "tenantId": 1}
        )
        seen = (self._seen(record_of(row), user, granted) for row in await cursor.to_list())
        return {record.id: record.bits for record in seen if record.bits & VIEW_BIT}

    async def visible(self, user: UserContext, now: datetime) -> list[ServerRecord]:
        """Return all that *user* may see, with `SEEN_FIELDS` alone, last changed first."""
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        if visible.everything:
            cursor = self._servers.find(tenant_rule(user), SEEN_FIELDS, sort=SORT)
            return records_of(await cursor.to_list(), ALL_BITS)
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, ServerFilter(), granted, now, user)
        cursor = self._servers.find({"_id": {"$in": keys}}, SEEN_FIELDS)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list()}
        records = (self._seen(found[key], user, granted) for key in keys if key in found)
        return [record for record in records if record.bits & VIEW_BIT]

    async def get(
        self, server_id: str, user: UserContext, now: datetime, *, whole: bool = True
    ) -> ServerRecord | None:
        """Return a server that *user* may see, or None.

        Args:
            server_id: Which.
            user: On whose behalf.
            now: When, for entries that end.
            whole: With its tool functions, which may be megabytes.
        """
        server = await self._one(server_id, None if whole else RECORD, user, now)
        return None if server is None else await self._states.one(server)

    async def seen(self, server_id: str, user: UserContext, now: datetime) -> ServerRecord | None:
        """Return a server that *user* may see, with `SEEN_FIELDS` alone, or None."""
        return await self._one(server_id, SEEN_FIELDS, user, now)

    async def bits(
        self, server: ServerRecord, user: UserContext, now: datetime, tx: Transaction
    ) -> int:
        """Return what *user* may do with a server by its entries as they are in a transaction."""
        grants = (await self._acl.grants_of([server.id], now, tx)).get(server.id, [])
        return self._judged(server, user, Grants.of(grants)).bits

    async def _one(
        self, server_id: str, fields: Doc | None, user: UserContext, now: datetime
    ) -> ServerRecord | None:
        document = await self._servers.find_one({"_id": ObjectId(server_id)}, fields)
        if document is None:
            return None
        grants = (await self._acl.grants_of([server_id], now)).get(server_id, [])
        judged = self._judged(record_of(document), user, Grants.of(grants))
        return judged if judged.bits & VIEW_BIT else None

    def _seen(
        self, record: ServerRecord, user: UserContext, granted: Mapping[str, int]
    ) -> ServerRecord:
        bits = granted.get(record.id, NO_BITS)
        users = {user.user_id: bits & ALL_BITS} if bits & ALL_BITS else {}
        grants = Grants(users=users, public=bits >> PUBLIC_SHIFT)
        return self._judged(record, user, grants)

    def _judged(self, record: ServerRecord, user: UserContext, grants: Grants) -> ServerRecord:
        facts = ServerFacts(record.author, record.scope, grants, tenant_id=record.tenant_id)
        verdict = evaluate(user, facts, admin_sees_private=self._admin_sees_private)
        return replace(record, bits=verdict.bits)

    async def _visible_keys(
        self,
        visible: Visibility,
        narrowed: ServerFilter,
        granted: dict[str, int],
        now: datetime,
        user: UserContext,
    ) -> list[ObjectId]:
        """Return the ids of all that is visible, in the order of lists.

        One query for each rule, each answered by an index of its own: one query with all rules
        in an `$or` is answered by reading everything, and slowly.
        """
        tenant = tenant_rule(user)
        own_rule, open_rule, *granted_rules = key_rules(visible, granted)
        keys = {key: moment for key, moment, _ in await self._keys(open_rule, narrowed, tenant)}
        shared = [
            key for rule in granted_rules for key in await self._keys(rule, narrowed, tenant)
        ]
        if any(scope is None for _, _, scope in shared):
            for server_id in await self._acl.public_ids(now):
                granted[server_id] = granted.get(server_id, NO_BITS) | PUBLIC_BIT
        for key, moment, scope in shared:
            bits = granted.get(str(key), NO_BITS)
            if bits & VIEW_BIT or (scope is None and bits & PUBLIC_BIT):
                keys[key] = moment
        own = [key for key in await self._keys(own_rule, narrowed, tenant) if key[0] not in keys]
        doubtful = [str(key) for key, _, scope in own if scope in ENTRIES_DECIDE]
        named = await self._acl.grants_of(doubtful, now) if doubtful else {}
        keys |= {
            key: moment for key, moment, _ in own if Grants.of(named.get(str(key), [])).are_none
        }
        # Twice, because the order is descending by time and ascending by id.
        by_id = sorted(keys)
        return sorted(by_id, key=keys.__getitem__, reverse=True)

    async def _keys(self, rule: Doc, narrowed: ServerFilter, tenant: Doc) -> list[Key]:
        query = list_query(rule, narrowed, tenant)
        cursor = self._servers.find(query, {"updatedAt": 1, "scope": 1})
        return [
            (
                document["_id"],
                moment_of(document.get("updatedAt")) or NEVER,
                scope_of(document.get("scope")),
            )
            for document in await cursor.to_list()
            if isinstance(document["_id"], ObjectId)
        ]

    async def _page_of_all(
        self, narrowed: ServerFilter, page: PageRequest, user: UserContext
    ) -> Page[ServerRecord]:
        query = list_query({}, narrowed, tenant_rule(user))
        try:
            return await self._page(query, page, hint=SORT, counted_by=count_index(query))
        except OperationFailure as exc:
            if exc.code != BAD_HINT:
                raise
        # Somebody dropped the index: a slow answer is better than none.
        return await self._page(query, page)

    async def _page(
        self,
        query: Doc,
        page: PageRequest,
        *,
        hint: list[tuple[str, int]] | None = None,
        counted_by: list[tuple[str, int]] | None = None,
    ) -> Page[ServerRecord]:
        by: Doc = {} if counted_by is None else {"hint": counted_by}
        total = await self._servers.count_documents(query, **by)
        cursor = self._servers.find(
            query,
            RECORD,
            sort=SORT,
            hint=hint,
            skip=page.offset,
            # Negative: all in one answer, so that no cursor stays open to be asked or closed.
            limit=-page.per_page,
        )
        documents = await cursor.to_list()
        return Page(tuple(records_of(documents, ALL_BITS)), total, page)
