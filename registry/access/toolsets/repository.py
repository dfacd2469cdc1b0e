"""Repository of `toolsets`. The only module that writes it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from beanie import PydanticObjectId
from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored
from packages.database.errors import translates_driver_errors
from packages.database.stored import id_of, moment_of, text_of
from packages.models.toolsets import ToolsetDocument, ToolsetEntryDocument
from registry.access.policies.values import PolicyEditor
from registry.access.policy import ServerScope
from registry.access.toolsets.errors import ToolsetExistsError
from registry.access.toolsets.values import DefaultFor, Toolset, ToolsetEntry, ToolsetRecord
from registry.auth.identity import Tenants, tenant_of
from registry.core.json import members

log = structlog.get_logger()


@translates_driver_errors
class ToolsetRepository:
    """Stores toolsets."""

    def __init__(self, database: Database) -> None:
        self._toolsets = database.document(ToolsetDocument)
        # They are read as they are stored: an unreadable one must not hide the others.
        self._rows = self._toolsets.get_pymongo_collection()

    async def some(self, ids: Iterable[str] | None) -> dict[str, Toolset]:
        """Return the toolsets with these ids, or all, by their ids. Unreadable ones are left out.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """
        query: Doc = {}
        if ids is not None:
            query = {"_id": {"$in": [ObjectId(one) for one in ids if ObjectId.is_valid(one)]}}
        found = [record_of(row) async for row in self._rows.find(query)]
        return {record.toolset.id: record.toolset for record in found if record is not None}

    async def within(self, tenants: Tenants) -> list[ToolsetRecord]:
        """Return all toolsets of a tenant, or of all, by name."""
        query: Doc = {} if tenants.are_all else {"tenant_id": tenants.one}
        rows = self._rows.find(query, sort=[("name", 1), ("_id", 1)])
        return [record async for row in rows if (record := record_of(row)) is not None]

    async def get(self, toolset_id: str, tx: Transaction | None = None) -> ToolsetRecord | None:
        """Return one toolset. No access check."""
        row = await self._rows.find_one({"_id": ObjectId(toolset_id)}, session=tx)
        return None if row is None else record_of(row)

    async def named(self, name: str, tenant_id: str | None) -> list[ToolsetRecord]:
        """Return the toolsets of a tenant with a name, the oldest first. No access check."""
        query = {"name": name, "tenant_id": tenant_id}
        rows = self._rows.find(query, sort=[("_id", 1)])
        return [record async for row in rows if (record := record_of(row)) is not None]

    async def id_of(self, name: str, tenant_id: str | None, authors: Sequence[str]) -> str | None:
        """Return the id of the toolset of a tenant that a name means, if there is one.

        Args:
            name: Its name.
            tenant_id: Whose it is.
            authors: Users whose own come first, in this order; others' count if they are shared.
        """
        found = [record.toolset for record in await self.named(name, tenant_id)]
        for author in authors:
            for toolset in found:
                if toolset.author == author:
                    return toolset.id
        shared = [one.id for one in found if one.scope is not ServerScope.PRIVATE_USER]
        return shared[0] if shared else None

    async def count_of(self, author: str, tx: Transaction) -> int:
        """Return how many toolsets a user has made."""
        return await self._rows.count_documents({"author": ObjectId(author)}, session=tx)

    async def default_for(
        self, keys: Sequence[str], toolset: Toolset, tx: Transaction
    ) -> tuple[str, str] | None:
        """Return a caller among *keys* with another default toolset, and that one's name."""
        if not keys:
            return None
        row = await self._rows.find_one(
            {
                "tenant_id": toolset.tenant_id,
                "default_for": {"$in": list(keys)},
                "_id": {"$ne": ObjectId(toolset.id)},
            },
            session=tx,
        )
        if row is None:
            return None
        held = row.get("default_for")
        key = next(one for one in keys if isinstance(held, list) and one in held)
        return key, str(row.get("name"))

    async def insert(self, record: ToolsetRecord, tx: Transaction) -> None:
        """Store a new toolset.

        Raises:
            ToolsetExistsError: Its author has another of that name.
        """
        try:
            await self._document(record).insert(session=tx)
        except DuplicateKeyError as exc:
            raise ToolsetExistsError(record.toolset.name) from exc

    async def update(self, record: ToolsetRecord, tx: Transaction) -> bool:
        """Replace a toolset by a new revision; return whether the former one was the latest.

        Raises:
            ToolsetExistsError: Its author has another of that name.
        """
        document = as_stored(self._document(record))
        key = {"_id": document.pop("_id"), "revision": record.toolset.revision - 1}
        operations: Doc = {"$set": document}
        gone = [one for one in ("title", "description", "default_for") if one not in document]
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")
        try:
            result = await self._rows.update_one(key, operations, session=tx)
        except DuplicateKeyError as exc:
            raise ToolsetExistsError(record.toolset.name) from exc
        return result.matched_count == 1

    async def delete(self, toolset_id: str, tx: Transaction) -> bool:
        """Remove one toolset; return whether there was one."""
        result = await self._rows.delete_one({"_id": ObjectId(toolset_id)}, session=tx)
        return result.deleted_count == 1

    async def follow_sharing(
        self, toolset_id: str, scope: ServerScope, now: datetime, tx: Transaction
    ) -> None:
        """Write the scope that follows from the access entries; readers of changes see it."""
        await self._rows.update_one(
            {"_id": ObjectId(toolset_id)},
            {"$set": {"scope": scope.value, "updated_at": now}, "$inc": {"revision": 1}},
            session=tx,
        )

    def _document(self, record: ToolsetRecord) -> ToolsetDocument:
        toolset = record.toolset
        return self._toolsets(
            id=ObjectId(toolset.id),
            tenant_id=toolset.tenant_id,
            name=toolset.name,
            title=toolset.title,
            description=toolset.description,
            author=ObjectId(toolset.author),
            scope=toolset.scope.value,
            entries=[_stored_entry(entry) for entry in toolset.entries],
            default_for=list(toolset.default_for.keys) or None,
            revision=toolset.revision,
            created_at=record.created_at,
            created_by=_stored_person(record.created_by),
            updated_at=record.updated_at,
            updated_by=_stored_person(record.updated_by),
        )


def new_toolset_id() -> str:
    """Return a new toolset id."""
    return str(ObjectId())


def record_of(row: Mapping[str, Any]) -> ToolsetRecord | None:
    """Convert a stored toolset to a value; None if it cannot be read.

    One that is left out serves nothing, which narrows.
    """
    try:
        entries = tuple(_entry(one) for one in row["entries"])
        revision = row.get("revision")
        keys = row.get("default_for") or []
        toolset = Toolset(
            id=str(row["_id"]),
            name=_required(row.get("name")),
            tenant_id=tenant_of(row.get("tenant_id")),
            author=_required(id_of(row.get("author"))),
            scope=ServerScope(_required(row.get("scope"))),
            entries=entries,
            title=text_of(row.get("title")),
            description=text_of(row.get("description")),
            default_for=DefaultFor.of(tuple(one for one in keys if isinstance(one, str))),
            revision=revision if isinstance(revision, int) else 1,
        )
    except (KeyError, ValueError, TypeError) as exc:
        log.warning("toolset_unreadable", toolset_id=str(row.get("_id")), error=type(exc).__name__)
        return None
    return ToolsetRecord(
        toolset,
        created_at=moment_of(row.get("created_at")),
        created_by=_person(row.get("created_by")),
        updated_at=moment_of(row.get("updated_at")),
        updated_by=_person(row.get("updated_by")),
    )


def _entry(stored: Any) -> ToolsetEntry:
    row = members(stored)
    server, version = row.get("server_id"), row.get("version")
    server_id = id_of(server)
    if server is not None and server_id is None:
        raise ValueError("server_id")
    metadata = {
        flag: value
        for flag, value in members(row.get("metadata")).items()
        if isinstance(value, bool | str)
    }
    entry = ToolsetEntry(
        server_id=server_id,
        tool=text_of(row.get("tool")),
        tag=text_of(row.get("tag")),
        metadata=tuple(sorted(metadata.items())),
        name=text_of(row.get("name")),
        title=text_of(row.get("title")),
        description=text_of(row.get("description")),
        arguments=text_of(row.get("arguments")) or "",
        version=version if isinstance(version, int) else None,
    )
    if entry.tool is None and entry.tag is None and not entry.metadata:
        # An entry without a condition would take everything.
        raise ValueError("entries")
    return entry


def _required(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("A required text is missing.")


def _stored_entry(entry: ToolsetEntry) -> ToolsetEntryDocument:
    return ToolsetEntryDocument(
        server_id=None if entry.server_id is None else PydanticObjectId(entry.server_id),
        tool=entry.tool,
        tag=entry.tag,
        metadata=dict(entry.metadata) or None,
        name=entry.name,
        title=entry.title,
        description=entry.description,
        arguments=entry.arguments or None,
        version=entry.version,
    )


def _person(value: object) -> PolicyEditor | None:
    if not isinstance(value, dict):
        return None
    return PolicyEditor(text_of(value.get("user_id")) or "", text_of(value.get("username")) or "")


def _stored_person(person: PolicyEditor | None) -> dict[str, str] | None:
    return None if person is None else {"user_id": person.user_id, "username": person.username}
