"""Reads and writes `mcpservers`, which jarvis-api shares with us.

Every read on behalf of a caller takes the caller and applies the access rules in the query.
Updates set single fields, so that what the other application wrote beside them stays.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from beanie import PydanticObjectId
from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.models import MCPConfig, MCPServer
from registry.access.policy import ServerScope
from registry.access.repository import AclRepository
from registry.auth.identity import UserContext
from registry.core.json import JsonObject
from registry.core.paging import Page, PageRequest
from registry.servers.errors import PathTakenError, ServerExistsError
from registry.servers.values import (
    ServerCounts,
    ServerFilter,
    ServerRecord,
    ServerStatus,
    Transport,
)

SORT = [("updatedAt", DESCENDING), ("_id", ASCENDING)]
PATH_INDEX = "registry_path"
INDEXES = [
    IndexModel([("scope", ASCENDING), ("status", ASCENDING)], name="registry_scope_status"),
    IndexModel(
        [("path", ASCENDING)],
        name=PATH_INDEX,
        unique=True,
        partialFilterExpression={"path": {"$exists": True}},
    ),
]
"""Ours, besides the published ones. Documents without a path are not in the unique one."""

SEARCHED_FIELDS = ("serverName", "config.title", "config.description", "tags")
WITHOUT_FUNCTIONS = {"config.toolFunctions": 0}

BAD_HINT = 2
"""BadValue: what MongoDB answers when the index of a hint does not exist."""


@translates_driver_errors
class ServerRepository:
    """Registered servers."""

    def __init__(self, database: Database, acl: AclRepository) -> None:
        self._servers = database.collection(MCPServer.Settings.name)
        self._acl = acl

    async def list_page(
        self, user: UserContext, narrowed: ServerFilter, page: PageRequest, now: datetime
    ) -> Page[ServerRecord]:
        """Return one page of what *user* may see, newest change first, without tool functions."""
        query = self.list_query(await self._acl.visible_filter(user, now), narrowed)
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
            WITHOUT_FUNCTIONS,
            sort=SORT,
            hint=hint,
            skip=page.offset,
            # Negative: all in one answer, so that no cursor stays open to be asked or closed.
            limit=-page.per_page,
        )
        items = tuple(_record(document) for document in await cursor.to_list())
        return Page(items, total, page)

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

    async def get(self, server_id: str, user: UserContext, now: datetime) -> ServerRecord | None:
        """Return a server that *user* may see, or None."""
        visible = await self._acl.visible_filter(user, now)
        query = (
            {"$and": [{"_id": ObjectId(server_id)}, visible]}
            if visible
            else {"_id": ObjectId(server_id)}
        )
        document = await self._servers.find_one(query)
        return None if document is None else _record(document)

    async def get_unchecked(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerRecord | None:
        """Return a server whoever asks; for the gateway's snapshot and for refusals."""
        document = await self._servers.find_one({"_id": ObjectId(server_id)}, session=tx)
        return None if document is None else _record(document)

    async def all_unchecked(self) -> list[ServerRecord]:
        """Return all servers without their tool functions; for the gateway's snapshot."""
        cursor = self._servers.find({}, WITHOUT_FUNCTIONS).sort("_id", ASCENDING)
        return [_record(document) async for document in cursor]

    async def tool_functions(self, server_id: str) -> JsonObject:
        """Return the projection of a server's tools, as the other application reads it."""
        document = await self._servers.find_one(
            {"_id": ObjectId(server_id)}, {"config.toolFunctions": 1}
        )
        functions = ((document or {}).get("config") or {}).get("toolFunctions")
        return functions if isinstance(functions, dict) else {}

    async def by_name(self, server_name: str) -> ServerRecord | None:
        """Return the server of that name, whoever asks."""
        document = await self._servers.find_one({"serverName": server_name}, WITHOUT_FUNCTIONS)
        return None if document is None else _record(document)

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
        server = MCPServer(
            **{
                **fields,
                "config": MCPConfig.model_validate(fields["config"]),
                "author": PydanticObjectId(fields["author"]),
            }
        )
        document = server.model_dump(by_alias=True, exclude_none=True)
        document["_id"] = ObjectId()
        try:
            # Not by Beanie's own insert: its binding is global, and ours is to this database.
            await self._servers.insert_one(document, session=tx)
        except DuplicateKeyError as exc:
            raise _taken(exc, fields["serverName"], fields["path"]) from exc
        return str(document["_id"])

    async def update(
        self,
        server_id: str,
        expected_updated_at: datetime | None,
        changes: Mapping[str, object],
        removed: tuple[str, ...],
        tx: Transaction,
    ) -> bool:
        """Change single fields if nobody else did since; say whether that was so.

        Args:
            server_id: Which server.
            expected_updated_at: The `updatedAt` that the change was worked out from.
            changes: Dotted field names in stored spelling, with new values.
            removed: Dotted names of fields to remove.
            tx: The transaction to change it in.

        Raises:
            PathTakenError: The new path is taken.
        """
        operations: Doc = {"$set": dict(changes)}
        if removed:
            operations["$unset"] = dict.fromkeys(removed, "")
        try:
            result = await self._servers.update_one(
                {"_id": ObjectId(server_id), "updatedAt": expected_updated_at},
                operations,
                session=tx,
            )
        except DuplicateKeyError as exc:
            raise _taken(exc, "", str(changes.get("path"))) from exc
        return result.matched_count == 1

    async def delete(self, server_id: str, tx: Transaction) -> bool:
        """Remove a server; say whether it was there."""
        result = await self._servers.delete_one({"_id": ObjectId(server_id)}, session=tx)
        return result.deleted_count == 1

    async def counts(self) -> ServerCounts:
        """Count all servers by one aggregation, so that the numbers agree with each other."""
        names = {
            "$size": {
                "$filter": {
                    "input": {"$split": [{"$ifNull": ["$config.tools", ""]}, ","]},
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


def _taken(error: DuplicateKeyError, server_name: str, path: str) -> Exception:
    details = error.details or {}
    pattern = details.get("keyPattern") or {}
    if "path" in pattern or PATH_INDEX in str(details.get("errmsg", "")):
        return PathTakenError(path)
    return ServerExistsError("serverName", server_name)


def _record(document: Doc) -> ServerRecord:
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
    )


def _scope(stored: object) -> ServerScope | None:
    return ServerScope(stored) if stored in SCOPES else None


def _status(stored: object) -> ServerStatus | None:
    return ServerStatus(stored) if stored in STATUSES else None


SCOPES = frozenset(scope.value for scope in ServerScope)
STATUSES = frozenset(status.value for status in ServerStatus)


def _whole(stored: object) -> int:
    return int(stored) if isinstance(stored, int | float) else 0


def _moment(stored: object) -> datetime | None:
    if not isinstance(stored, datetime):
        return None
    return stored if stored.tzinfo else stored.replace(tzinfo=UTC)
