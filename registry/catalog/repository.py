"""Repository of the catalog. It checks no access.

The only writer of `mcpservers_registry`, `tools_registry`, `catalog_versions` and
`catalog_sources`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReplaceOne, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored, parsed, read_all
from packages.database.errors import DUPLICATE_KEY, translates_driver_errors
from packages.database.slices import slices
from packages.models.catalog import (
    NAME_INDEX,
    CatalogRemoval,
    CatalogServer,
    CatalogSource,
    CatalogTool,
    CatalogVersion,
)
from registry.auth.identity import UserContext
from registry.catalog.errors import CatalogServerExistsError
from registry.catalog.identity import Package
from registry.catalog.values import (
    CatalogContent,
    CatalogEntry,
    CatalogHead,
    CatalogRemovalRow,
    CatalogRow,
    CatalogToolInput,
    CatalogToolRow,
    CatalogVersionRow,
    KnownEntry,
    SourceRow,
    VersionDigest,
)
from registry.core.json import dump_text

NAMES_AT_ONCE = 50
"""The embedded database compares each document that it finds with all names of a query."""

MAX_DUPLICATES = 5
REMOVALS_KEPT = timedelta(days=90)
"""How long others can ask what was removed."""

MAX_REMOVALS = 10_000


@dataclass(frozen=True, slots=True)
class Linked:
    """The server of the catalog that a registered one is linked to."""

    id: str
    name: str
    description: str | None


@translates_driver_errors
class CatalogRepository:
    """Stores the catalog."""

    def __init__(self, database: Database) -> None:
        self._servers = database.document(CatalogServer)
        self._tools = database.document(CatalogTool)
        self._versions = database.document(CatalogVersion)
        self._sources = database.document(CatalogSource)
        self._removals = database.document(CatalogRemoval)
        self._removal_rows = self._removals.get_pymongo_collection()
        self._rows = self._servers.get_pymongo_collection()
        self._tool_rows = self._tools.get_pymongo_collection()
        self._version_rows = self._versions.get_pymongo_collection()
        self._source_rows = self._sources.get_pymongo_collection()

    async def rows(self, ids: Iterable[str] | None = None) -> list[CatalogRow]:
        """Return these servers, or all; unreadable ones are logged and left out."""
        if ids is None:
            return await read_all(self._servers.find({}, projection_model=CatalogRow))
        found: list[CatalogRow] = []
        known = [ObjectId(one) for one in ids if ObjectId.is_valid(one)]
        for some in slices(known, NAMES_AT_ONCE):
            query = self._servers.find({"_id": {"$in": some}}, projection_model=CatalogRow)
            found += await read_all(query)
        return found

    async def heads(self) -> dict[str, int]:
        """Return the revisions of all servers, by id."""
        found = await read_all(self._servers.find({}, projection_model=CatalogHead))
        return {one.id: one.revision for one in found}

    async def get(self, entry_id: str, tx: Transaction | None = None) -> CatalogEntry | None:
        """Return one server; None if there is none, or it cannot be read."""
        return await self._one({"_id": ObjectId(entry_id)}, tx)

    async def by_name(self, name: str) -> CatalogEntry | None:
        """Return the server of that name."""
        return await self._one({"name": name}, None)

    async def _one(self, query: Doc, tx: Transaction | None) -> CatalogEntry | None:
        row = await self._rows.find_one(query, session=tx)
        return None if row is None else parsed(CatalogEntry, row, self._rows.name)

    async def with_keys(
        self, keys: Collection[str], tx: Transaction | None = None
    ) -> list[CatalogRow]:
        """Return up to a few servers with any of these keys."""
        query: Doc = {"match_keys": {"$in": list(keys)}}
        rows = self._rows.find(query, session=tx).limit(MAX_DUPLICATES)
        found = [parsed(CatalogRow, row, self._rows.name) async for row in rows]
        return [one for one in found if one is not None]

    async def linked_to(self, entry_id: str, tx: Transaction) -> Linked | None:
        """Return a server to link to, and lock out its rename and removal until *tx* ends."""
        row = await self._rows.find_one_and_update(
            {"_id": ObjectId(entry_id)},
            {"$inc": {"link_writes": 1}},
            projection={"name": 1, "description": 1},
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        if row is None or not isinstance(row.get("name"), str):
            return None
        description = row.get("description")
        return Linked(entry_id, row["name"], description if isinstance(description, str) else None)

    async def insert(
        self,
        content: CatalogContent,
        *,
        source: str | None,
        digest: str | None,
        user: UserContext,
        now: datetime,
        tx: Transaction,
    ) -> str:
        """Store a new server with its tools and version; return its id.

        Raises:
            CatalogServerExistsError: Its name, URL or package is taken.
        """
        document = self._document(content, source=source, digest=digest, user=user, now=now)
        try:
            await self._rows.insert_one(document, session=tx)
        except DuplicateKeyError as exc:
            raise _taken(exc, content) from exc
        entry_id = str(document["_id"])
        await self._put_tools(entry_id, content.tools or (), now, tx, is_new=True)
        await self._put_version(entry_id, content, digest, now, tx)
        return entry_id

    async def insert_all(
        self,
        contents: Sequence[tuple[CatalogContent, str]],
        *,
        source: str,
        user: UserContext,
        now: datetime,
        tx: Transaction,
    ) -> list[str]:
        """Store new servers with their digests; none of their names and keys may be taken.

        Raises:
            CatalogServerExistsError: One is, since the caller looked.
        """
        if not contents:
            return []
        documents = [
            self._document(content, source=source, digest=digest, user=user, now=now)
            for content, digest in contents
        ]
        try:
            await self._rows.insert_many(documents, session=tx)
        except Exception as exc:
            if _is_duplicate(exc):
                first = contents[0][0]
                raise CatalogServerExistsError("name", first.name) from exc
            raise
        ids = [str(document["_id"]) for document in documents]
        tools: list[Doc] = []
        versions: list[Doc] = []
        for entry_id, (content, digest) in zip(ids, contents, strict=True):
            tools += self._tool_documents(entry_id, content.tools or (), now)
            versions.append(self._version_document(entry_id, content, digest, now))
        if tools:
            await self._tool_rows.insert_many(tools, session=tx)
        await self._version_rows.insert_many(versions, session=tx)
        return ids

    async def update(
        self,
        entry_id: str,
        revision: int | None,
        content: CatalogContent,
        *,
        digest: str | None,
        user: UserContext,
        now: datetime,
        tx: Transaction,
        imported_name: str | None = None,
    ) -> bool:
        """Replace the latest version of a server; None for *content.tools* keeps them.

        Returns:
            Whether the former *revision* was the current one; with None, whether it exists.

        Raises:
            CatalogServerExistsError: Its name, URL or package is taken.
        """
        fields = _fields(content)
        fields |= {"updated_at": now, "updated_by": _person(user)}
        if content.tools is not None:
            fields["num_tools"] = len(content.tools)
        if digest is not None:
            fields["digest"] = digest
        if imported_name is not None:
            fields["imported_name"] = imported_name
        gone = [name for name, value in fields.items() if value is None]
        key: Doc = {"_id": ObjectId(entry_id)}
        if revision is not None:
            key["revision"] = revision
        operations: Doc = {
            "$set": {name: value for name, value in fields.items() if value is not None},
            "$inc": {"revision": 1},
        }
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")
        try:
            result = await self._rows.update_one(key, operations, session=tx)
        except DuplicateKeyError as exc:
            raise _taken(exc, content) from exc
        if result.matched_count == 0:
            return False
        if content.tools is not None:
            await self._put_tools(entry_id, content.tools, now, tx)
        await self._put_version(entry_id, content, digest, now, tx)
        return True

    async def delete(self, entry_id: str, revision: int, tx: Transaction) -> bool:
        """Remove a server with its tools and versions, if it is unchanged."""
        key = {"_id": ObjectId(entry_id), "revision": revision}
        result = await self._rows.delete_one(key, session=tx)
        if result.deleted_count == 0:
            return False
        of_server = {"server_id": ObjectId(entry_id)}
        await self._tool_rows.delete_many(of_server, session=tx)
        await self._version_rows.delete_many(of_server, session=tx)
        return True

    async def note_removed(
        self, entries: Sequence[CatalogEntry], now: datetime, tx: Transaction
    ) -> None:
        """Keep what those who follow the catalog need of servers that it has no more."""
        writes = [
            ReplaceOne(
                {"name": entry.name},
                self._removal_document(entry, now),
                upsert=True,
            )
            for entry in entries
        ]
        if writes:
            await self._removal_rows.bulk_write(writes, session=tx)

    def _removal_document(self, entry: CatalogEntry, now: datetime) -> Doc:
        document = as_stored(
            self._removals(
                name=entry.name,
                version=entry.version or UNVERSIONED,
                document=entry.document or "{}",
                published_at=entry.published_at,
                removed_at=now,
                expires_at=now + REMOVALS_KEPT,
            )
        )
        document.pop("_id", None)
        return document

    async def removals(self, since: datetime | None) -> list[CatalogRemovalRow]:
        """Return what was removed since then, or as far back as it is known."""
        query: Doc = {} if since is None else {"removed_at": {"$gte": since}}
        found = self._removals.find(query, projection_model=CatalogRemovalRow).limit(MAX_REMOVALS)
        return await read_all(found)

    async def of_source(self, source: str, most: int) -> list[CatalogEntry]:
        """Return some of the servers that were imported from a source."""
        rows = self._rows.find({"source": source}).limit(most)
        found = [parsed(CatalogEntry, row, self._rows.name) async for row in rows]
        return [one for one in found if one is not None]

    async def delete_all(
        self, entries: Sequence[CatalogEntry], source: str, tx: Transaction
    ) -> list[CatalogEntry]:
        """Remove servers of a source with their tools and versions; return those still there."""
        ids = [ObjectId(entry.id) for entry in entries]
        query: Doc = {"_id": {"$in": ids}, "source": source}
        left = {row["_id"] async for row in self._rows.find(query, {"_id": 1}, session=tx)}
        await self._rows.delete_many(query, session=tx)
        of_servers = {"server_id": {"$in": list(left)}}
        await self._tool_rows.delete_many(of_servers, session=tx)
        await self._version_rows.delete_many(of_servers, session=tx)
        return [entry for entry in entries if ObjectId(entry.id) in left]

    async def delete_source(self, name: str) -> bool:
        """Forget a source; return whether it was there."""
        result = await self._source_rows.delete_one({"name": name})
        return result.deleted_count > 0

    async def tools(self, entry_id: str) -> list[CatalogToolRow]:
        """Return the tools of a server, by name."""
        query = {"server_id": ObjectId(entry_id)}
        found = await read_all(self._tools.find(query, projection_model=CatalogToolRow))
        return sorted(found, key=lambda one: one.name)

    async def tools_of(self, ids: Sequence[str]) -> list[CatalogToolRow]:
        """Return the tools of some servers."""
        found: list[CatalogToolRow] = []
        for some in slices([ObjectId(one) for one in ids], NAMES_AT_ONCE):
            query = {"server_id": {"$in": some}}
            found += await read_all(self._tools.find(query, projection_model=CatalogToolRow))
        return found

    async def versions(self, entry_id: str) -> list[CatalogVersionRow]:
        """Return the versions of a server, the latest first."""
        query = {"server_id": ObjectId(entry_id)}
        found = await read_all(self._versions.find(query, projection_model=CatalogVersionRow))
        return sorted(found, key=_recency, reverse=True)

    async def versions_of(self, ids: Sequence[str]) -> list[CatalogVersionRow]:
        """Return all versions of some servers."""
        found: list[CatalogVersionRow] = []
        for some in slices([ObjectId(one) for one in ids], NAMES_AT_ONCE):
            query = {"server_id": {"$in": some}}
            found += await read_all(self._versions.find(query, projection_model=CatalogVersionRow))
        return sorted(found, key=_recency, reverse=True)

    async def digests_of(self, ids: Sequence[str]) -> list[VersionDigest]:
        """Return the digests of all versions of some servers."""
        found: list[VersionDigest] = []
        for some in slices([ObjectId(one) for one in ids], NAMES_AT_ONCE):
            query = {"server_id": {"$in": some}}
            found += await read_all(self._versions.find(query, projection_model=VersionDigest))
        return found

    async def _put_version(
        self,
        entry_id: str,
        content: CatalogContent,
        digest: str | None,
        now: datetime,
        tx: Transaction,
    ) -> None:
        """Store the latest version of a server; it takes the place of the former."""
        document = self._version_document(entry_id, content, digest, now)
        del document["_id"]
        of_server = {"server_id": document["server_id"]}
        former = {**of_server, "is_latest": True, "version": {"$ne": document["version"]}}
        await self._version_rows.update_many(former, {"$set": {"is_latest": False}}, session=tx)
        key = {**of_server, "version": document["version"]}
        await self._version_rows.update_one(key, {"$set": document}, upsert=True, session=tx)

    async def put_former_versions(
        self,
        versions: Sequence[tuple[str, CatalogContent, str]],
        now: datetime,
        tx: Transaction,
    ) -> None:
        """Store versions of servers, by id and with their digests, that are not the latest."""
        if not versions:
            return
        writes: list[UpdateOne] = []
        for entry_id, content, digest in versions:
            document = self._version_document(entry_id, content, digest, now, is_latest=False)
            del document["_id"]
            key = {name: document[name] for name in ("server_id", "version")}
            writes.append(UpdateOne(key, {"$set": document}, upsert=True))
        await self._version_rows.bulk_write(writes, session=tx)
        # Whoever asks for what changed since gets these versions too.
        ids = list(dict.fromkeys(ObjectId(entry_id) for entry_id, _, _ in versions))
        await self._rows.update_many(
            {"_id": {"$in": ids}},
            {"$set": {"updated_at": now}, "$inc": {"revision": 1}},
            session=tx,
        )

    async def known_by_names(self, names: Sequence[str], source: str) -> list[KnownEntry]:
        """Return the servers with these names, their own or those that *source* gave them."""
        found: dict[str, KnownEntry] = {}
        for some in slices(names, NAMES_AT_ONCE):
            given: Doc = {"source": source, "imported_name": {"$in": some}}
            for asked in ({"name": {"$in": some}}, given):
                query = self._servers.find(asked, projection_model=KnownEntry)
                found |= {one.id: one for one in await read_all(query)}
        return list(found.values())

    async def known_by_keys(self, keys: Sequence[str]) -> list[KnownEntry]:
        """Return the servers with these keys."""
        found: dict[str, KnownEntry] = {}
        for some in slices(keys, NAMES_AT_ONCE):
            query = self._servers.find({"match_keys": {"$in": some}}, projection_model=KnownEntry)
            found |= {one.id: one for one in await read_all(query)}
        return list(found.values())

    async def all_keys(self) -> list[KnownEntry]:
        """Return the keys of all servers."""
        return await read_all(self._servers.find({}, projection_model=KnownEntry))

    async def require_source(self, name: str, url: str | None, now: datetime) -> SourceRow:
        """Return the source of that name, which is made if there is none."""
        source = self._sources(id=ObjectId(), name=name, url=url, created_at=now, updated_at=now)
        document = as_stored(source)
        changed = {"updated_at": document.pop("updated_at")}
        if url is not None:
            changed["url"] = document.pop("url")
        row = await self._source_rows.find_one_and_update(
            {"name": name},
            {"$set": changed, "$setOnInsert": {**document, "name": name}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return SourceRow.model_validate(row)

    async def source_named(self, name: str) -> SourceRow | None:
        """Return the source of that name."""
        row = await self._source_rows.find_one({"name": name})
        return None if row is None else parsed(SourceRow, row, self._source_rows.name)

    async def sources(self) -> list[SourceRow]:
        """Return where servers were imported from, by name."""
        found = await read_all(self._sources.find({}, projection_model=SourceRow))
        return sorted(found, key=lambda one: one.name or "")

    async def note_imported(
        self, source_id: str, counts: Mapping[str, int], until: datetime | None, now: datetime
    ) -> None:
        """Record an import that succeeded."""
        fields: Doc = {"counts": dict(counts), "last_import_at": now, "updated_at": now}
        if until is not None:
            fields["imported_until"] = until
        await self._source_rows.update_one({"_id": ObjectId(source_id)}, {"$set": fields})

    async def _put_tools(
        self,
        entry_id: str,
        tools: Sequence[CatalogToolInput],
        now: datetime,
        tx: Transaction,
        *,
        is_new: bool = False,
    ) -> None:
        if not is_new:
            await self._tool_rows.delete_many({"server_id": ObjectId(entry_id)}, session=tx)
        documents = self._tool_documents(entry_id, tools, now)
        if documents:
            await self._tool_rows.insert_many(documents, session=tx)

    def _tool_documents(
        self, entry_id: str, tools: Sequence[CatalogToolInput], now: datetime
    ) -> list[Doc]:
        unique = {tool.name: tool for tool in tools}
        return [
            as_stored(
                self._tools(
                    id=ObjectId(),
                    server_id=ObjectId(entry_id),
                    name=tool.name,
                    title=tool.title,
                    description=tool.description,
                    definition=dump_text(tool.definition).decode(),
                    updated_at=now,
                )
            )
            for tool in unique.values()
        ]

    def _version_document(
        self,
        entry_id: str,
        content: CatalogContent,
        digest: str | None,
        now: datetime,
        *,
        is_latest: bool = True,
    ) -> Doc:
        return as_stored(
            self._versions(
                id=ObjectId(),
                server_id=ObjectId(entry_id),
                version=content.version or UNVERSIONED,
                status=content.status,
                is_latest=is_latest,
                document=dump_text(content.document).decode(),
                digest=digest,
                published_at=content.published_at,
                updated_at=now,
            )
        )

    def _document(
        self,
        content: CatalogContent,
        *,
        source: str | None,
        digest: str | None,
        user: UserContext,
        now: datetime,
    ) -> Doc:
        return as_stored(
            self._servers(
                id=ObjectId(),
                **_fields(content),
                source=source,
                imported_name=None if source is None else content.name,
                num_tools=len({tool.name for tool in content.tools or ()}),
                digest=digest,
                revision=1,
                created_at=now,
                updated_at=now,
                updated_by=_person(user),
            )
        )


UNVERSIONED = "0.0.0"
"""The version of what has none; the official registry's API requires one."""


def _fields(content: CatalogContent) -> Doc:
    return {
        "name": content.name,
        "title": content.title,
        "description": content.description,
        "kind": content.kind.value,
        "url": content.url,
        "package": _stored_package(content.package),
        "match_key": content.keys[0],
        "match_keys": list(content.keys),
        "version": content.version,
        "status": content.status.value,
        "tags": list(content.tags) or None,
        "document": dump_text(content.document).decode(),
        "published_at": content.published_at,
    }


def _stored_package(package: Package | None) -> dict[str, str] | None:
    if package is None:
        return None
    stored = {"registry_type": package.registry_type, "identifier": package.identifier}
    return stored if package.version is None else {**stored, "version": package.version}


def _person(user: UserContext) -> dict[str, str]:
    return {"user_id": user.user_id, "username": user.username}


def _recency(version: CatalogVersionRow) -> tuple[bool, float, str]:
    moment = version.published_at or version.updated_at
    return version.is_latest, 0.0 if moment is None else moment.timestamp(), version.version


def _is_duplicate(error: Exception) -> bool:
    details: Any = getattr(error, "details", None) or {}
    codes = {one.get("code") for one in details.get("writeErrors", ())}
    return isinstance(error, DuplicateKeyError) or DUPLICATE_KEY in codes


def _taken(error: DuplicateKeyError, content: CatalogContent) -> CatalogServerExistsError:
    details = error.details or {}
    pattern = details.get("keyPattern") or {}
    if "name" in pattern or NAME_INDEX in str(details.get("errmsg", "")):
        return CatalogServerExistsError("name", content.name)
    return taken_key(content)


def taken_key(content: CatalogContent, other: str | None = None) -> CatalogServerExistsError:
    """Return the error about a URL or package that another server of the catalog has."""
    if content.package is not None:
        return CatalogServerExistsError("package", content.package.identifier, other)
    return CatalogServerExistsError("url", content.url or "", other)
