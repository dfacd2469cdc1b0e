"""Reads and writes `mcpservers`, which jarvis-api shares with us.

What moves at every reading of a server is kept apart, and joined here.

Every read on behalf of a caller takes the caller and applies the access rules in the query.
Updates set single fields, so that what the other application wrote beside them stays.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from beanie import PydanticObjectId
from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from packages.database.batch import Batch
from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.database.slices import slices
from packages.models import MCPConfig, MCPServer
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
from registry.access.ports import Resource
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.policies.ports import Owner
from registry.servers.errors import PathTakenError, ServerExistsError, ServerUnusableError
from registry.servers.naming import slug_of
from registry.servers.sync_states import SyncStateRepository
from registry.servers.values import (
    OURS,
    SYNC_FIELDS,
    ServerCounts,
    ServerFilter,
    ServerRecord,
    ServerStatus,
    Transport,
)
from registry.tools.naming import normalized_server_name

SORT = [("updatedAt", DESCENDING), ("_id", ASCENDING)]
PATH_INDEX = "registry_path"
INDEXES = [
    IndexModel([("serverName", ASCENDING), ("tenantId", ASCENDING)], unique=True, background=True),
    IndexModel([("scope", ASCENDING), ("status", ASCENDING)], name="registry_scope_status"),
    IndexModel(
        [("path", ASCENDING)],
        name=PATH_INDEX,
        unique=True,
        partialFilterExpression={"path": {"$exists": True}},
    ),
]
"""Besides the published ones. The first is jarvis-api's since 0.0.51, word for word; as we write
no tenant, it makes names unique. Documents without a path are not in the unique one over paths."""

SEARCHED_FIELDS = ("serverName", "config.title", "config.description", "tags")
NAMES_AT_ONCE = 50
"""The embedded database compares each document that it finds with all names of a query."""
WITHOUT_FUNCTIONS = {"config.toolFunctions": 0}
READ_FIELDS = (
    *("serverName", "author", "scope", "status", "path", "tags", "numStars"),
    *("lastConnected", "lastError", "errorMessage", "createdAt", "updatedAt", "registry"),
)
"""What `record_of` reads besides the id and `config`."""

CONFIG_WITHOUT_FUNCTIONS: Doc = {
    "$arrayToObject": {
        "$filter": {
            "input": {"$objectToArray": "$config"},
            "cond": {"$ne": ["$$this.k", "toolFunctions"]},
        }
    }
}
RECORD: Doc = {
    **dict.fromkeys(READ_FIELDS, 1),
    "config": {
        "$cond": [{"$eq": [{"$type": "$config"}, "object"]}, CONFIG_WITHOUT_FUNCTIONS, "$config"]
    },
}
"""What is read of servers. Said so, because the embedded database copies a whole document before
it leaves something out: 14 ms for 500 tools."""

PUBLIC_SHIFT = 4
PUBLIC_BIT = VIEW_BIT << PUBLIC_SHIFT
"""Beside the four bits that entries give a user: that an entry lets everybody see."""

ENTRIES_LOOKED_UP = 200
"""Up to so many granted servers are looked up one by one; for more, the shared ones are read."""

ENTRIES_DECIDE = (ServerScope.SHARED_USER.value, None)
"""Scopes as stored of servers that their authors see by entries, where there are any."""

NEVER = datetime.min.replace(tzinfo=UTC)

Key: TypeAlias = tuple[ObjectId, datetime, str | None]
"""A server's id, `updatedAt` and scope."""

NO_PLACE = frozenset({2, 14, 28})
"""BadValue, TypeMismatch and PathNotViable: a member was to be set in what is no object, or
increased that is no number."""

FAILURES = "registry.consecutive_failures"
TROUBLE = ("lastError", "errorMessage", FAILURES)
"""What is stored of failures, and removed by a success."""

SEEN_FIELDS = {
    "serverName": 1,
    "path": 1,
    "author": 1,
    "scope": 1,
    "status": 1,
    "updatedAt": 1,
    "lastConnected": 1,
    "config.requiresOAuth": 1,
    "config.headers": 1,
    "config.apiKey": 1,
    "config.customUserVars": 1,
}
"""What says who may do what with a server, and how connections to it stand. A document may be
megabytes, of which little more than these are not tools."""

BAD_HINT = 2
"""BadValue: what MongoDB answers when the index of a hint does not exist."""


@translates_driver_errors
class ServerRepository:
    """Registered servers."""

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
            return await self._page_of_all(narrowed, page)
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, narrowed, granted, now)
        chosen = keys[page.offset : page.offset + page.per_page]
        cursor = self._servers.find({"_id": {"$in": chosen}}, RECORD)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list()}
        # Looked at again: it may have changed since its id was read.
        records = (self._seen(found[key], user, granted) for key in chosen if key in found)
        items = tuple(record for record in records if record.bits & VIEW_BIT)
        return Page(items, len(keys), page)

    async def rights(self, user: UserContext, now: datetime) -> dict[str, int] | None:
        """Return what *user* may do with each server that they see; None for all with all."""
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        if visible.everything:
            return None
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, ServerFilter(), granted, now)
        cursor = self._servers.find({"_id": {"$in": keys}}, {"author": 1, "scope": 1})
        seen = (self._seen(record_of(row), user, granted) for row in await cursor.to_list())
        return {record.id: record.bits for record in seen if record.bits & VIEW_BIT}

    async def visible(self, user: UserContext, now: datetime) -> list[ServerRecord]:
        """Return all that *user* may see, with `SEEN_FIELDS` alone, last changed first."""
        visible = visibility(user, admin_sees_private=self._admin_sees_private)
        if visible.everything:
            cursor = self._servers.find({}, SEEN_FIELDS, sort=SORT)
            return [record_of(document, ALL_BITS) for document in await cursor.to_list()]
        granted: dict[str, int] = {}
        if visible.granted_scopes:
            granted = await self._acl.granted(user, now)
        keys = await self._visible_keys(visible, ServerFilter(), granted, now)
        cursor = self._servers.find({"_id": {"$in": keys}}, SEEN_FIELDS)
        found = {document["_id"]: record_of(document) for document in await cursor.to_list()}
        records = (self._seen(found[key], user, granted) for key in keys if key in found)
        return [record for record in records if record.bits & VIEW_BIT]

    def _seen(
        self, record: ServerRecord, user: UserContext, granted: Mapping[str, int]
    ) -> ServerRecord:
        bits = granted.get(record.id, NO_BITS)
        users = {user.user_id: bits & ALL_BITS} if bits & ALL_BITS else {}
        grants = Grants(users=users, public=bits >> PUBLIC_SHIFT)
        return self._judged(record, user, grants)

    def _judged(self, record: ServerRecord, user: UserContext, grants: Grants) -> ServerRecord:
        facts = ServerFacts(record.author, record.scope, grants)
        verdict = evaluate(user, facts, admin_sees_private=self._admin_sees_private)
        return replace(record, bits=verdict.bits)

    async def _visible_keys(
        self,
        visible: Visibility,
        narrowed: ServerFilter,
        granted: dict[str, int],
        now: datetime,
    ) -> list[ObjectId]:
        """Return the ids of all that is visible, in the order of lists.

        One query for each rule, each answered by an index of its own: one query with all rules
        in an `$or` is answered by reading everything, and slowly.
        """
        own_rule, open_rule, *granted_rules = key_rules(visible, granted)
        keys = {key: moment for key, moment, _ in await self._keys(open_rule, narrowed)}
        shared = [key for rule in granted_rules for key in await self._keys(rule, narrowed)]
        if any(scope is None for _, _, scope in shared):
            for server_id in await self._acl.public_ids(now):
                granted[server_id] = granted.get(server_id, NO_BITS) | PUBLIC_BIT
        for key, moment, scope in shared:
            bits = granted.get(str(key), NO_BITS)
            if bits & VIEW_BIT or (scope is None and bits & PUBLIC_BIT):
                keys[key] = moment
        own = [key for key in await self._keys(own_rule, narrowed) if key[0] not in keys]
        doubtful = [str(key) for key, _, scope in own if scope in ENTRIES_DECIDE]
        named = await self._acl.grants_of(doubtful, now) if doubtful else {}
        keys |= {
            key: moment for key, moment, _ in own if Grants.of(named.get(str(key), [])).are_none
        }
        # Twice, because the order is descending by time and ascending by id.
        by_id = sorted(keys)
        return sorted(by_id, key=keys.__getitem__, reverse=True)

    async def _keys(self, rule: Doc, narrowed: ServerFilter) -> list[Key]:
        cursor = self._servers.find(self.list_query(rule, narrowed), {"updatedAt": 1, "scope": 1})
        return [
            (document["_id"], _moment(document.get("updatedAt")) or NEVER, document.get("scope"))
            for document in await cursor.to_list()
        ]

    async def _page_of_all(self, narrowed: ServerFilter, page: PageRequest) -> Page[ServerRecord]:
        query = self.list_query({}, narrowed)
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
        return Page(tuple(record_of(document, ALL_BITS) for document in documents), total, page)

    @staticmethod
    def list_query(visible: Doc, narrowed: ServerFilter) -> Doc:
        """Return the query of a list: the access rules and the caller's filters, all to hold."""
        rules: list[Doc] = [visible] if visible else []
        if narrowed.scope is not None:
            rules.append({"scope": narrowed.scope.value})
        if narrowed.status is not None:
            rules.append({"status": narrowed.status.value})
        if narrowed.author is not None:
            rules.append({"author": ObjectId(narrowed.author)})
        if narrowed.query:
            # Written as an operator: a regex value on an indexed field is not understood by
            # every compatible server. The text is taken literally.
            pattern = {"$regex": re.escape(narrowed.query), "$options": "i"}
            rules.append({"$or": [{name: pattern} for name in SEARCHED_FIELDS]})
        if len(rules) == 1:
            return rules[0]
        return {"$and": rules} if rules else {}

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
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, None if whole else RECORD
        )
        if document is None:
            return None
        record = record_of(document)
        grants = (await self._acl.grants_of([server_id], now)).get(server_id, [])
        judged = self._judged(record, user, Grants.of(grants))
        return await self._states.one(judged) if judged.bits & VIEW_BIT else None

    async def seen(self, server_id: str, user: UserContext, now: datetime) -> ServerRecord | None:
        """Return a server that *user* may see, with `SEEN_FIELDS` alone, or None."""
        record = await self.facts_unchecked(server_id)
        if record is None:
            return None
        grants = (await self._acl.grants_of([server_id], now)).get(server_id, [])
        judged = self._judged(record, user, Grants.of(grants))
        return judged if judged.bits & VIEW_BIT else None

    async def facts_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server with `SEEN_FIELDS` alone, whoever asks."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, SEEN_FIELDS, session=tx
        )
        return None if document is None else record_of(document)

    async def bits(
        self, server: ServerRecord, user: UserContext, now: datetime, tx: Transaction
    ) -> int:
        """Return what *user* may do with a server by its entries as they are in a transaction."""
        grants = (await self._acl.grants_of([server.id], now, tx)).get(server.id, [])
        return self._judged(server, user, Grants.of(grants)).bits

    async def get_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server without its tool functions, whoever asks."""
        document = await self._servers.find_one({"_id": ObjectId(server_id)}, RECORD, session=tx)
        return None if document is None else await self._states.one(record_of(document), tx)

    async def ids_unchecked(self) -> list[str]:
        """Return the ids of all servers; for the gateway's snapshot."""
        cursor = self._servers.find({}, {"_id": 1}).sort("_id", ASCENDING)
        return [str(row["_id"]) for row in await cursor.to_list() if _is_id(row["_id"])]

    async def by_ids_unchecked(self, server_ids: Iterable[str]) -> list[ServerRecord]:
        """Return servers without their tool functions and what is known of their reading.

        What is no id of a server is left out.
        """
        ids = [ObjectId(server_id) for server_id in server_ids if ObjectId.is_valid(server_id)]
        cursor = self._servers.find({"_id": {"$in": ids}}, RECORD)
        return [record_of(document) for document in await cursor.to_list()]

    async def read_state(self, servers: Iterable[ServerRecord]) -> list[ServerRecord]:
        """Return *servers* with what is known of their reading."""
        return await self._states.joined(servers)

    async def tool_functions(self, server_id: str, tx: Transaction | None = None) -> JsonObject:
        """Return the projection of a server's tools, as the other application reads it."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, {"config.toolFunctions": 1}, session=tx
        )
        return members(members((document or {}).get("config")).get("toolFunctions"))

    async def by_name(self, server_name: str) -> ServerRecord | None:
        """Return the server of that name, whoever asks."""
        document = await self._servers.find_one({"serverName": server_name}, RECORD)
        return None if document is None else record_of(document)

    async def ids_by_names(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the servers of each of these names that there is, whoever asks."""
        found: dict[str, list[str]] = {}
        for some in slices(names, NAMES_AT_ONCE):
            query = {"serverName": {"$in": some}}
            async for document in self._servers.find(query, {"serverName": 1}, sort=[("_id", 1)]):
                found.setdefault(document["serverName"], []).append(str(document["_id"]))
        return found

    async def path_is_taken(self, path: str) -> bool:
        """Whether a stored server has that gateway path."""
        return await self._servers.find_one({"path": path}, {"_id": 1}) is not None

    async def insert(self, fields: Doc, tx: Transaction) -> str:
        """Store a new server and return its id.

        Args:
            fields: Root fields in stored spelling, `author` as 24 hexadecimal characters.
            tx: The transaction to store it in.

        Raises:
            ServerExistsError: The name is taken.
            PathTakenError: The path is taken.
        """
        ours: Mapping[str, object] = fields.get("registry") or {}
        states = {name: value for name, value in ours.items() if OURS + name in SYNC_FIELDS}
        server = MCPServer(
            **{
                **fields,
                "registry": {name: value for name, value in ours.items() if name not in states},
                "config": MCPConfig.model_validate(fields["config"]),
                "author": PydanticObjectId(fields["author"]),
            }
        )
        document = server.model_dump(by_alias=True, exclude_none=True)
        document["_id"] = ObjectId()
        # jarvis-api 0.0.71 finds servers by it and refuses those that lack it.
        document["normalizedServerName"] = normalized_server_name(server.server_name)
        try:
            # Not by Beanie's own insert: its binding is global, and ours is to this database.
            await self._servers.insert_one(document, session=tx)
        except DuplicateKeyError as exc:
            raise _taken(exc, fields["serverName"], fields["path"]) from exc
        server_id = str(document["_id"])
        await self._states.insert(server_id, states, tx)
        return server_id

    def update(
        self,
        server_id: str,
        expected_updated_at: datetime | None,
        changes: Mapping[str, object],
        removed: tuple[str, ...],
        batch: Batch,
        outdated: Callable[[], Exception],
    ) -> None:
        """Change single fields if nobody else did since, with other writes of a transaction.

        Args:
            server_id: Which server.
            expected_updated_at: The `updatedAt` that the change was worked out from.
            changes: Dotted field names in stored spelling, with new values.
            removed: Dotted names of fields to remove.
            batch: The writes of the transaction to change it in. `send` raises PathTakenError when
                the new path is taken, and ServerUnusableError when the stored document has no
                place for the fields.
            outdated: What `send` raises when somebody else did.
        """
        states = {name: value for name, value in changes.items() if name in SYNC_FIELDS}
        gone_states = [name for name in removed if name in SYNC_FIELDS]
        operations: Doc = {
            "$set": {name: value for name, value in changes.items() if name not in states}
        }
        gone = [name for name in removed if name not in SYNC_FIELDS]
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")

        def refused(error: WriteError) -> Exception:
            if isinstance(error, DuplicateKeyError):
                return _taken(error, "", str(changes.get("path")))
            return ServerUnusableError() if error.code in NO_PLACE else error

        async def unmatched() -> None:
            raise outdated()

        batch.update(
            MCPServer.Settings.name,
            {"_id": ObjectId(server_id), "updatedAt": expected_updated_at},
            operations,
            unmatched=unmatched,
            refused=refused,
        )
        if states or gone_states:
            self._states.add(server_id, states, gone_states, batch)

    async def note_read(
        self,
        server_id: str,
        expected_updated_at: datetime | None,
        changes: Mapping[str, object],
        removed: Sequence[str],
        tx: Transaction,
        *,
        settled_as: str | None = None,
    ) -> bool:
        """Note a reading that found nothing new, of a server that nobody changed since.

        Its document is left as it is. False when it was changed, was never read, or its tools are
        not known to agree with what has the digest *settled_as*.
        """
        query = {"_id": ObjectId(server_id), "updatedAt": expected_updated_at}
        if await self._servers.find_one(query, {"_id": 1}, session=tx) is None:
            return False
        return await self._states.write(server_id, changes, removed, tx, settled_as=settled_as)

    def unsettle(self, server_id: str, batch: Batch) -> None:
        """Have the next reading of a server compare all tools, because somebody changed one."""
        self._states.unsettle(server_id, batch)

    async def note_connected(self, server_id: str, at: datetime, *, quiet_since: datetime) -> bool:
        """Note when a server was connected to; say whether anything was written.

        Neither its `updatedAt` nor anything else that people change is touched. Nothing is written
        of a server that is off or in error, that failed after *at*, or of which all this is known
        since *quiet_since*.
        """
        # Looked at first: as an alternative in the update's own query it would keep compatible
        # servers from finding the document by its id.
        key = {"_id": ObjectId(server_id)}
        known = await self._servers.find_one(key, dict.fromkeys(("lastConnected", *TROUBLE), 1))
        if known is None or not _is_news(known, quiet_since):
            return False
        result = await self._servers.update_one(
            {
                **key,
                "status": {"$nin": [ServerStatus.INACTIVE.value, ServerStatus.ERROR.value]},
                "lastError": {"$not": {"$gt": at}},
            },
            {"$max": {"lastConnected": at}, "$unset": dict.fromkeys(TROUBLE, "")},
        )
        return result.matched_count == 1

    async def is_in_error(self, server_id: str) -> bool:
        """Whether a server's status says that it failed."""
        query = {"_id": ObjectId(server_id), "status": ServerStatus.ERROR.value}
        return await self._servers.find_one(query, {"_id": 1}) is not None

    async def recover(self, server_id: str, at: datetime, tx: Transaction) -> bool:
        """Take a server that is in error, not since *at*, back to active; say whether it was."""
        result = await self._servers.update_one(
            {
                "_id": ObjectId(server_id),
                "status": ServerStatus.ERROR.value,
                "lastError": {"$not": {"$gt": at}},
            },
            {
                "$set": {"status": ServerStatus.ACTIVE.value},
                "$max": {"lastConnected": at},
                "$unset": dict.fromkeys(TROUBLE, ""),
            },
            session=tx,
        )
        return result.matched_count == 1

    async def note_failed(
        self, server_id: str, at: datetime, message: str, *, failures: int, is_anew: bool
    ) -> int:
        """Note attempts that failed; return how many did in a row, or 0 if nothing was written.

        Nothing is written of a server that is off, or was connected to after *at*.

        Args:
            server_id: Which server.
            at: When the last of them failed.
            message: Why.
            failures: How many.
            is_anew: Whether those that are counted already were before a success.

        Raises:
            ServerUnusableError: The stored document has no place for it.
        """
        operations: Doc = {"$set": {"lastError": at, "errorMessage": message}}
        if is_anew:
            operations["$set"][FAILURES] = failures
        else:
            operations["$inc"] = {FAILURES: failures}
        try:
            document = await self._servers.find_one_and_update(
                {
                    "_id": ObjectId(server_id),
                    "status": {"$ne": ServerStatus.INACTIVE.value},
                    "lastConnected": {"$not": {"$gt": at}},
                },
                operations,
                projection={FAILURES: 1},
                return_document=ReturnDocument.AFTER,
            )
        except OperationFailure as exc:
            if exc.code not in NO_PLACE:
                raise
            raise ServerUnusableError from exc
        return 0 if document is None else int(document["registry"]["consecutive_failures"])

    async def give_up(self, server_id: str, failures: int, tx: Transaction) -> bool:
        """Mark an active server as in error that has failed so often; say whether it was one."""
        result = await self._servers.update_one(
            {
                "_id": ObjectId(server_id),
                "status": {"$in": [ServerStatus.ACTIVE.value, None]},
                FAILURES: {"$gte": failures},
            },
            {"$set": {"status": ServerStatus.ERROR.value}},
            session=tx,
        )
        return result.matched_count == 1

    async def due_for_sync(self, now: datetime, most: int) -> list[ServerRecord]:
        """Return servers in mode `scheduled` whose time has come, whoever asks."""
        due = await self._states.due(now, most)
        return await self._states.joined(await self.by_ids_unchecked(due)) if due else []

    async def schedule_next(self, server: ServerRecord, due_at: datetime | None) -> bool:
        """Set when a server is due next, or that it is not; False when others did so already."""
        return await self._states.schedule_next(server, due_at)

    async def set_webhook_secret(
        self, server_id: str, sealed: str | None, tx: Transaction
    ) -> ServerRecord | None:
        """Store the sealed secret of a webhook, or remove it; return the server as it was."""
        name = "registry.webhook_secret"
        change = {"$unset": {name: ""}} if sealed is None else {"$set": {name: sealed}}
        document = await self._servers.find_one_and_update(
            {"_id": ObjectId(server_id)}, change, projection=WITHOUT_FUNCTIONS, session=tx
        )
        return None if document is None else record_of(document)

    async def delete(
        self, server_id: str, expected_updated_at: datetime | None, tx: Transaction
    ) -> bool:
        """Remove a server if nobody changed it since; say whether that was so."""
        result = await self._servers.delete_one(
            {"_id": ObjectId(server_id), "updatedAt": expected_updated_at}, session=tx
        )
        if result.deleted_count != 1:
            return False
        await self._states.delete_of(server_id, tx)
        return True

    async def touch(self, server_id: str, tx: Transaction) -> ServerRecord | None:
        """Return a server as it is in a transaction that no other change of it may overlap.

        Raises:
            ServerUnusableError: The stored document has no place for what is touched.
        """
        try:
            document = await self._servers.find_one_and_update(
                {"_id": ObjectId(server_id)},
                {"$inc": {"registry.access_version": 1}},
                projection=WITHOUT_FUNCTIONS,
                session=tx,
            )
        except OperationFailure as exc:
            if exc.code not in NO_PLACE:
                raise
            raise ServerUnusableError from exc
        return None if document is None else record_of(document)

    async def shared(self, resource_id: str, tx: Transaction | None = None) -> Resource | None:
        """Return what sharing needs to know of a server, whoever asks."""
        document = await self._servers.find_one(
            {"_id": ObjectId(resource_id)}, {"serverName": 1, "author": 1, "scope": 1}, session=tx
        )
        if document is None:
            return None
        record = record_of(document)
        return Resource(record.id, record.server_name, record.author, record.scope)

    async def follow_sharing(
        self, resource: Resource, scope: ServerScope | None, now: datetime, tx: Transaction
    ) -> None:
        """Write the scope that follows from a server's entries, and touch it in any case."""
        operations: Doc = {"$inc": {"registry.access_version": 1}}
        if scope is not None and scope is not resource.scope:
            # Not before the time that is stored, which may be ahead of our clock.
            operations["$set"] = {"scope": scope.value}
            operations["$max"] = {"updatedAt": now}
        await self._servers.update_one({"_id": ObjectId(resource.id)}, operations, session=tx)

    async def policy_owner(self, owner_id: str) -> Owner | None:
        """Return what policies need to know of a server, whoever asks."""
        found = await self._servers.find_one({"_id": ObjectId(owner_id)}, RECORD)
        return None if found is None else _owner(record_of(found))

    async def policy_owner_at(self, path: str) -> Owner | None:
        """Return likewise the server at a gateway path."""
        found = await self._servers.find_one({"path": path}, RECORD)
        if found is not None:
            return _owner(record_of(found))
        # The other application stores no path: the default follows from the name.
        server = await self.by_name(slug_of(path) or "")
        return None if server is None or server.effective_path != path else _owner(server)

    async def held_policy_owner(self, owner_id: str, tx: Transaction) -> Owner | None:
        """Return likewise a server that no other change may overlap before the end of *tx*."""
        server = await self.touch(owner_id, tx)
        return None if server is None else _owner(server)

    async def counts(self) -> ServerCounts:
        """Count all servers by one aggregation, so that the numbers agree with each other."""
        is_text = {"$eq": [{"$type": "$config.tools"}, "string"]}
        names = {
            "$size": {
                "$filter": {
                    "input": {"$split": [{"$cond": [is_text, "$config.tools", ""]}, ","]},
                    "cond": {"$ne": [{"$trim": {"input": "$$this"}}, ""]},
                }
            }
        }
        pipeline: list[Doc] = [
            {
                "$group": {
                    "_id": {"scope": "$scope", "status": "$status", "type": "$config.type"},
                    "count": {"$sum": 1},
                    "tools": {"$sum": names},
                }
            }
        ]
        by_scope = dict.fromkeys(ServerScope, 0)
        by_status = dict.fromkeys(ServerStatus, 0)
        by_transport: dict[str, int] = {transport.value: 0 for transport in Transport}
        total = tools = 0
        async for group in await self._servers.aggregate(pipeline):
            count = int(group["count"])
            key = group["_id"]
            total += count
            tools += int(group["tools"])
            by_scope[_scope(key.get("scope")) or ServerScope.PRIVATE_USER] += count
            by_status[_status(key.get("status")) or ServerStatus.ACTIVE] += count
            transport = str(key.get("type") or Transport.SSE.value)
            transport = Transport.STREAMABLE_HTTP.value if transport == "http" else transport
            by_transport[transport] = by_transport.get(transport, 0) + count
        return ServerCounts(total, by_scope, by_status, by_transport, tools)


def count_index(query: Doc) -> list[tuple[str, int]] | None:
    """Return the index to name for counting, or None when the one condition has its own.

    Without it other counts scan the collection; with it, they read what an index names.
    """
    # `status` alone leads nowhere: it comes second in its index.
    if any(isinstance(query.get(name), str | ObjectId) for name in ("scope", "author")):
        return None
    return SORT


def key_rules(visible: Visibility, granted: Collection[str]) -> list[Doc]:
    """Return the queries that together find what a list shows.

    The first one finds the caller's own servers, the second those that it shows whoever the
    caller is; the others find what is shown if it is in *granted*, ids of servers.
    """
    rules: list[Doc] = [
        {"author": ObjectId(visible.author)},
        {"scope": _one_of(visible.scopes)},
    ]
    if not visible.granted_scopes:
        return rules
    scope = _one_of(visible.granted_scopes)
    if len(granted) > ENTRIES_LOOKED_UP:
        return [*rules, {"scope": scope}]
    ids = [ObjectId(server_id) for server_id in granted]
    if ids:
        rules.append({"_id": {"$in": ids}, "scope": scope})
    # What the other application wrote may be open to the public by its entries alone.
    return [*rules, {"scope": None}]


def _one_of(scopes: Sequence[ServerScope | None]) -> Doc:
    return {"$in": [None if scope is None else scope.value for scope in scopes]}


def _taken(error: DuplicateKeyError, server_name: str, path: str) -> Exception:
    details = error.details or {}
    pattern = details.get("keyPattern") or {}
    if "path" in pattern or PATH_INDEX in str(details.get("errmsg", "")):
        return PathTakenError(path)
    return ServerExistsError("serverName", server_name)


def record_of(document: Doc, bits: int = NO_BITS) -> ServerRecord:
    """Return a stored document as a value, whatever it lacks."""
    config = document.get("config")
    ours = document.get("registry")
    tags = document.get("tags")
    path = document.get("path")
    return ServerRecord(
        id=str(document["_id"]),
        server_name=str(document.get("serverName") or ""),
        author=str(document.get("author") or ""),
        scope=_scope(document.get("scope")),
        status=_status(document.get("status")),
        path=path if isinstance(path, str) and path else None,
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        num_stars=_whole(document.get("numStars")),
        last_connected=_moment(document.get("lastConnected")),
        last_error=_moment(document.get("lastError")),
        error_message=document.get("errorMessage"),
        created_at=_moment(document.get("createdAt")),
        updated_at=_moment(document.get("updatedAt")),
        config=config if isinstance(config, dict) else {},
        registry=ours if isinstance(ours, dict) else {},
        bits=bits,
    )


def _scope(stored: object) -> ServerScope | None:
    """Read a stored scope. One that we do not know is for nobody but the author."""
    if stored is None:
        return None
    if isinstance(stored, str) and stored in SCOPES:
        return ServerScope(stored)
    return ServerScope.PRIVATE_USER


def _status(stored: object) -> ServerStatus | None:
    return ServerStatus(stored) if isinstance(stored, str) and stored in STATUSES else None


def _is_news(known: Doc, quiet_since: datetime) -> bool:
    """Whether a connection just now says more than what is stored of a server."""
    registry = known.get("registry")
    has_failed = isinstance(registry, dict) and FAILURES.removeprefix("registry.") in registry
    connected = _moment(known.get("lastConnected"))
    is_known = connected is not None and connected > quiet_since
    return has_failed or not known.keys().isdisjoint(TROUBLE) or not is_known


def _is_id(stored: object) -> bool:
    return isinstance(stored, ObjectId)


SCOPES = frozenset(scope.value for scope in ServerScope)
STATUSES = frozenset(status.value for status in ServerStatus)


def _whole(stored: object) -> int:
    return int(stored) if isinstance(stored, int | float) and math.isfinite(stored) else 0


def _moment(stored: object) -> datetime | None:
    if not isinstance(stored, datetime):
        return None
    return stored if stored.tzinfo else stored.replace(tzinfo=UTC)


def _owner(server: ServerRecord) -> Owner:
    config = server.config
    is_usable = (
        slug_of(server.effective_path) is not None
        and config.get("type") in {"streamable-http", "http", "sse", None}
        and isinstance(config.get("url"), str)
    )
    return Owner(
        id=server.id,
        name=server.server_name,
        path=server.effective_path,
        author=server.author,
        scope=server.scope,
        status=server.effective_status.value,
        is_usable=is_usable,
        is_described_elsewhere="auto_expose" not in server.registry,
    )
