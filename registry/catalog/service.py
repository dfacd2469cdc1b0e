"""Operations on the catalog, each on behalf of a caller.

The catalog is of the whole installation: who has `read:catalog` reads all of it, and it is changed
by administrators who see all tenants. Source: docs/decisions/0070-the-catalog.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from pydantic import ValidationError

from packages.database.client import Database, Transaction
from packages.models.states import CatalogKind
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import UserContext
from registry.catalog.errors import (
    CatalogForbiddenError,
    CatalogJobNotFoundError,
    CatalogServerModifiedError,
    CatalogServerNotFoundError,
    CatalogSourceNotFoundError,
    DuplicateCatalogEntriesError,
    ImportOpenError,
    ImportUnreadableError,
)
from registry.catalog.formats import entries_in
from registry.catalog.identity import keys_of
from registry.catalog.importing import ImportResult, ImportRunner, Progress, packed
from registry.catalog.jobs import CatalogJobRecord, CatalogJobs, CatalogTask
from registry.catalog.links import is_instance, key_of
from registry.catalog.presenter import listed_package, recorded
from registry.catalog.registering import default_name, filled, package_to_record
from registry.catalog.repository import CatalogRepository, taken_key
from registry.catalog.values import (
    CatalogContent,
    CatalogEntry,
    CatalogFilter,
    CatalogRow,
    CatalogSeen,
    CatalogToolInput,
    CatalogVersionRow,
    ImportRequest,
    MatchReport,
    SourceRow,
    json_text,
)
from registry.core.clock import Clock
from registry.core.errors import RegistryError, ValidationFailedError, problem_of
from registry.core.json import JsonObject
from registry.core.paging import Page, PageRequest
from registry.servers.changes import FieldChanges
from registry.servers.errors import ServerForbiddenError, ServerNotFoundError
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from registry.servers.storage.repository import ServerRepository
from registry.servers.values import ServerRecord, ServerStatus

if TYPE_CHECKING:
    from registry.catalog.schemas import CatalogServerPatch, RegisterBody

log = structlog.get_logger()

UPDATE_ATTEMPTS = 5
REMOVED_AT_ONCE = 100
MAX_PAYLOAD_BYTES = 12 * 1024 * 1024
"""Of a document that is stored with its job, compressed: a document has at most 16 MiB."""

COLLECTION = "mcpservers_registry"
REMATCHES = FieldChanges(rematches=True)


class ListedEntries(Protocol):
    """All servers of the catalog, in memory."""

    def listed(self, narrowed: CatalogFilter) -> Collection[CatalogRow]:
        """Return the servers that pass a filter, in their order."""


class CatalogChanges(Protocol):
    """Notified of committed changes, so that lists follow at once on this replica."""

    async def table_changed(self, collection: str, document_id: str) -> None:
        """Handle a change of a document."""


@dataclass(frozen=True, slots=True)
class CatalogStore:
    """What the catalog is kept in.

    Attributes:
        catalog: The collections.
        jobs: What is still to be done.
        imports: Imports lists of servers.
        listed: Lists of the catalog, in memory.
        registered: Registered servers, without an access check.
    """

    catalog: CatalogRepository
    jobs: CatalogJobs
    imports: ImportRunner
    listed: ListedEntries
    registered: ServerRepository


class CatalogService:
    """Reads and writes the catalog.

    Args:
        servers: Registers servers and changes their links.
        changes: Is told of changes.
        wake: Called when there is a new job.
    """

    def __init__(
        self,
        database: Database,
        store: CatalogStore,
        servers: ServerService,
        audit: AuditTrail,
        changes: CatalogChanges,
        wake: Callable[[], None],
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalog = store.catalog
        self._jobs = store.jobs
        self.imports = store.imports
        self._listed = store.listed
        self._registered = store.registered
        self._servers = servers
        self._audit = audit
        self._changes = changes
        self._wake = wake
        self._clock = clock

    def page(self, narrowed: CatalogFilter, page: PageRequest) -> Page[CatalogRow]:
        """Return one page of the catalog: best match first, or by name."""
        found = list(self._listed.listed(narrowed))
        items = tuple(found[page.offset : page.offset + page.per_page])
        return Page(items, len(found), page)

    async def get(self, entry_id: str, user: UserContext) -> CatalogSeen:
        """Return one server with its tools, and how many linked servers *user* may see.

        Raises:
            CatalogServerNotFoundError: There is none.
        """
        entry = await self._require(entry_id)
        tools = await self._catalog.tools(entry_id)
        return CatalogSeen(entry, tools, await self._servers.count_linked(entry_id, user))

    async def entry(self, entry_id: str) -> CatalogEntry:
        """Return one server without its tools.

        Raises:
            CatalogServerNotFoundError: There is none.
        """
        return await self._require(entry_id)

    async def named(self, name: str) -> CatalogEntry:
        """Return the server of that name.

        Raises:
            CatalogServerNotFoundError: There is none.
        """
        entry = await self._catalog.by_name(name)
        if entry is None:
            raise CatalogServerNotFoundError
        return entry

    async def versions(self, entry_id: str) -> list[CatalogVersionRow]:
        """Return the versions of a server, the latest first.

        Raises:
            CatalogServerNotFoundError: There is no such server.
        """
        await self._require(entry_id)
        return await self._catalog.versions(entry_id)

    async def sources(self) -> list[SourceRow]:
        """Return where servers were imported from."""
        return await self._catalog.sources()

    async def open_import(
        self, request: ImportRequest, user: UserContext
    ) -> tuple[CatalogJobRecord, bool]:
        """Open an import; return its job, and whether one of the source was already open.

        Raises:
            CatalogForbiddenError: *user* may not.
            ImportUnreadableError: The given document is no list of servers, or too large.
            ImportOpenError: One with other content is open.
        """
        require_writer(user)
        payload = None
        if request.document is not None:
            await asyncio.to_thread(entries_in, request.document)
            payload = packed(request.document)
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise ImportUnreadableError(
                    "The document is too large for a request; import it with "
                    "`registry catalog import`."
                )
        source_id = None
        if not request.dry_run:
            now = self._clock.now()
            source_id = (await self._catalog.require_source(request.source, request.url, now)).id
        asked = _options(request)
        job, was_open = await self._jobs.open_import(
            source_id, request.source, asked, payload, user
        )
        if was_open and (payload is not None or job.request != asked):
            raise ImportOpenError(request.source, job.id)
        if not was_open:
            if not request.dry_run:
                await self._note_import(request, user)
            log.info("catalog_import_opened", job_id=job.id, source=request.source)
            self._wake()
        return job, was_open

    async def import_now(
        self, request: ImportRequest, user: UserContext, *, progress: Progress
    ) -> ImportResult:
        """Import without a job: what a command does, whose user waits for it.

        Raises:
            CatalogForbiddenError: *user* may not.
            ValidationFailedError: The URL may not be contacted.
            ImportUnreadableError: It is no list of servers.
            RegistryUnavailableError: The registry cannot be read.
        """
        require_writer(user)
        if request.document is not None:
            await asyncio.to_thread(entries_in, request.document)
        if not request.dry_run:
            await self._note_import(request, user)
        if request.url is None:
            return await self.imports.import_document(
                request.source,
                request.document or b"",
                dry_run=request.dry_run,
                progress=progress,
            )
        return await self.imports.import_registry(
            request.source,
            request.url,
            headers=request.headers,
            full=request.full,
            dry_run=request.dry_run,
            progress=progress,
        )

    async def _note_import(self, request: ImportRequest, user: UserContext) -> None:
        after: JsonObject = {"import": request.source, **_options(request)}
        event = AuditEvent(AuditAction.UPDATE, EntityType.CATALOG_SERVER, None, {"after": after})
        await self._audit.note(user, event)

    async def import_job(self, job_id: str) -> CatalogJobRecord:
        """Return one import.

        Raises:
            CatalogJobNotFoundError: There is none.
        """
        job = await self._jobs.details(job_id)
        if job is None or job.task is not CatalogTask.IMPORT:
            raise CatalogJobNotFoundError
        return job

    async def import_jobs(self) -> list[CatalogJobRecord]:
        """Return the latest imports, newest first."""
        return await self._jobs.imports()

    async def create(self, content: CatalogContent, user: UserContext) -> CatalogSeen:
        """Store a server.

        Raises:
            CatalogForbiddenError: *user* may not.
            CatalogServerExistsError: Its name, URL or package is taken.
        """
        require_writer(user)

        async def write(tx: Transaction) -> str:
            await self._require_free(content, None, tx)
            entry_id = await self._catalog.insert(
                content, source=None, digest=None, user=user, now=self._clock.now(), tx=tx
            )
            entry = await self._catalog.get(entry_id, tx)
            await self._record(AuditAction.CREATE, None, entry, user, tx)
            return entry_id

        entry_id = await self._database.transaction(write)
        await self._changed(entry_id, AuditAction.CREATE, user)
        # No server is linked to what is new.
        return CatalogSeen(await self._require(entry_id), await self._catalog.tools(entry_id), 0)

    async def update(
        self,
        entry_id: str,
        patch: CatalogServerPatch,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> CatalogSeen:
        """Change the given members only; linked servers follow a new name.

        Raises:
            CatalogForbiddenError: *user* may not.
            CatalogServerNotFoundError: There is no such server.
            CatalogServerModifiedError: It changed since the caller read it.
            CatalogServerExistsError: The new name, URL or package is taken.
            ValidationFailedError: It would have both a URL and a package, or neither.
        """
        require_writer(user)
        for _ in range(UPDATE_ATTEMPTS):
            entry = await self._require(entry_id)
            _require_unmodified(entry, expected_etag)
            content = changed(entry, patch)
            if await self._try_update(entry, content, user):
                await self._changed(entry_id, AuditAction.UPDATE, user)
                return await self.get(entry_id, user)
        raise CatalogServerModifiedError((await self._require(entry_id)).etag, expected_etag)

    async def _try_update(
        self, entry: CatalogEntry, content: CatalogContent, user: UserContext
    ) -> bool:
        follows = content.name != entry.name or content.description != entry.description

        async def write(tx: Transaction) -> bool:
            now = self._clock.now()
            await self._require_free(content, entry.id, tx)
            is_written = await self._catalog.update(
                entry.id, entry.revision, content, digest=None, user=user, now=now, tx=tx
            )
            if not is_written:
                return False
            if content.name != entry.name:
                await self._catalog.note_removed([entry], now, tx)
            if follows:
                await self._jobs.ensure_links(entry.id, content.name, user, now, tx)
            after = await self._catalog.get(entry.id, tx)
            await self._record(AuditAction.UPDATE, entry, after, user, tx)
            return True

        is_written = await self._database.transaction(write)
        if is_written and follows:
            self._wake()
        return is_written

    async def delete(
        self, entry_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> None:
        """Remove a server with its tools; the links of registered servers end soon after.

        Raises:
            CatalogForbiddenError: *user* may not.
            CatalogServerNotFoundError: There is no such server.
            CatalogServerModifiedError: It changed since the caller read it.
        """
        require_writer(user)
        for _ in range(UPDATE_ATTEMPTS):
            entry = await self._require(entry_id)
            _require_unmodified(entry, expected_etag)

            async def write(tx: Transaction, entry: CatalogEntry = entry) -> bool:
                if not await self._catalog.delete(entry.id, entry.revision, tx):
                    return False
                now = self._clock.now()
                await self._catalog.note_removed([entry], now, tx)
                await self._jobs.ensure_links(entry.id, entry.name, user, now, tx)
                await self._record(AuditAction.DELETE, entry, None, user, tx)
                return True

            if await self._database.transaction(write):
                self._wake()
                await self._changed(entry_id, AuditAction.DELETE, user)
                return
        raise CatalogServerModifiedError((await self._require(entry_id)).etag, expected_etag)

    async def remove_source(self, name: str, user: UserContext) -> int:
        """Remove all servers that were imported from a source, and the source; return how many.

        A hundred at a time: what was interrupted is completed by the next attempt.

        Raises:
            CatalogForbiddenError: *user* may not.
            CatalogSourceNotFoundError: Nothing was imported from it.
        """
        require_writer(user)
        removed = 0
        while entries := await self._catalog.of_source(name, REMOVED_AT_ONCE):

            async def write(
                tx: Transaction, entries: Sequence[CatalogEntry] = entries
            ) -> Sequence[CatalogEntry]:
                now = self._clock.now()
                gone = await self._catalog.delete_all(entries, name, tx)
                await self._catalog.note_removed(gone, now, tx)
                for entry in gone:
                    if entry.link_writes:
                        await self._jobs.ensure_links(entry.id, entry.name, user, now, tx)
                    await self._record(AuditAction.DELETE, entry, None, user, tx)
                return gone

            gone = await self._database.transaction(write)
            removed += len(gone)
            for entry in gone:
                await self._changes.table_changed(COLLECTION, entry.id)
        self._wake()
        if not await self._catalog.delete_source(name) and not removed:
            raise CatalogSourceNotFoundError(name)
        log.info("catalog_source_removed", source=name, servers=removed, user_id=user.user_id)
        return removed

    async def register(
        self, entry_id: str, asked: RegisterBody, user: UserContext, *, strict: bool
    ) -> ServerRecord:
        """Register a remote of a server of the catalog, or record a package; it is linked.

        Raises:
            CatalogServerNotFoundError: There is none.
            NotRegistrableError: It has no URL to connect to.
            MissingInputsError: Values are missing, unknown or not possible.
            RegistryError: As of any registration.
        """
        entry = await self._require(entry_id)
        wanted: dict[str, Any] = {
            "server_name": asked.server_name or default_name(entry),
            "scope": asked.scope,
        }
        if asked.package is not None:
            given = [f"variables.{name}" for name in asked.variables]
            given += [f"headers.{name.lower()}" for name in asked.headers]
            wanted["package"] = package_to_record(entry, asked.package, given)
            wanted["status"] = ServerStatus.INACTIVE
        else:
            made = filled(entry, asked.variables, asked.headers, asked.remote)
            wanted |= {
                "type": made.transport,
                "url": made.url,
                "headers": dict(made.headers) or None,
            }
        try:
            request = ServerCreate.model_validate(wanted)
        except ValidationError as exc:
            problem = exc.errors(include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "url"
            raise ValidationFailedError(place, problem_of(problem)) from None
        return await self._servers.register(request.from_catalog(entry.id), user, strict=strict)

    async def match(self, server_ids: Collection[str] | None, user: UserContext) -> MatchReport:
        """Match registered servers that *user* may change anew.

        Args:
            server_ids: Which; None for all.
            user: Who asks.
        """
        counts: Counter[str] = Counter()
        problems: list[tuple[str, str]] = []
        entries: dict[str, list[CatalogRow]] = {}
        for one in await self._catalog.rows():
            for key in one.match_keys:
                entries.setdefault(key, []).append(one)
        for server in await self._registered.identities_unchecked():
            if server_ids is not None and server.id not in server_ids:
                continue
            outcome = _outcome(server, entries)
            if outcome == "unlinked" and await self._is_kept(server):
                outcome = "unchanged"
            try:
                # Also where nothing changes: who may not see a server does not learn of it.
                await self._servers.require_editable(server.id, user)
                if isinstance(outcome, DuplicateCatalogEntriesError):
                    raise outcome
                if outcome != "unchanged":
                    await self._servers.change(server.id, _rematched, user)
            except (ServerNotFoundError, ServerForbiddenError):
                continue
            except RegistryError as exc:
                counts["failed"] += 1
                problems.append((server.server_name, exc.message))
                continue
            counts[str(outcome)] += 1
        log.info("catalog_matched", user_id=user.user_id, **counts)
        return MatchReport(counts, problems)

    async def _is_kept(self, server: ServerRecord) -> bool:
        """Whether a linked server that no key matches is still an instance of its entry."""
        entry = await self._catalog.get(str(server.registry.get("registry_server_id")))
        key = key_of(server.config, server.registry.get("package"))
        return entry is not None and is_instance(entry, key)

    async def _require(self, entry_id: str) -> CatalogEntry:
        entry = await self._catalog.get(entry_id)
        if entry is None:
            raise CatalogServerNotFoundError
        return entry

    async def _require_free(
        self, content: CatalogContent, entry_id: str | None, tx: Transaction
    ) -> None:
        """Refuse a URL or package of another server; an index may be missing after a restore.

        Raises:
            CatalogServerExistsError: It is taken.
        """
        for other in await self._catalog.with_keys(content.keys, tx):
            if other.id != entry_id:
                raise taken_key(content, other.name)

    async def _record(
        self,
        action: AuditAction,
        before: CatalogEntry | None,
        after: CatalogEntry | None,
        user: UserContext,
        tx: Transaction,
    ) -> None:
        one = after or before
        changes = changes_of(
            None if before is None else recorded(before),
            None if after is None else recorded(after),
        )
        entry_id = None if one is None else one.id
        event = AuditEvent(action, EntityType.CATALOG_SERVER, entry_id, changes)
        await self._audit.record(user, event, tx)

    async def _changed(self, entry_id: str, action: AuditAction, user: UserContext) -> None:
        log.info("catalog_changed", entry_id=entry_id, action=action.value, user_id=user.user_id)
        await self._changes.table_changed(COLLECTION, entry_id)


def _options(request: ImportRequest) -> JsonObject:
    """Return what is asked for, without the document."""
    asked: JsonObject = {"full": request.full, "dry_run": request.dry_run}
    return asked if request.url is None else {**asked, "url": request.url}


async def _rematched(_current: ServerRecord) -> FieldChanges:
    return REMATCHES


def _outcome(
    server: ServerRecord, entries: dict[str, list[CatalogRow]]
) -> str | DuplicateCatalogEntriesError:
    """Return what a match would do with a registered server."""
    key = key_of(server.config, server.registry.get("package"))
    found = entries.get(key or "", [])
    if len(found) > 1:
        return DuplicateCatalogEntriesError([one.name for one in found])
    linked = server.registry.get("registry_server_id")
    wanted = found[0].id if found else None
    if wanted == linked:
        return "unchanged"
    if linked is None:
        return "linked"
    return "unlinked" if wanted is None else "relinked"


def require_writer(user: UserContext) -> None:
    """Refuse who may not change the catalog.

    Raises:
        CatalogForbiddenError: They may not.
    """
    if not user.sees_all_tenants:
        raise CatalogForbiddenError


def _require_unmodified(entry: CatalogEntry, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != entry.etag:
        raise CatalogServerModifiedError(entry.etag, expected_etag)


def changed(entry: CatalogEntry, patch: CatalogServerPatch) -> CatalogContent:
    """Return a server of the catalog as it is after a change.

    Raises:
        ValidationFailedError: It would have both a URL and a package, or neither.
    """
    given = patch.model_fields_set
    for required in ("name", "status"):
        if required in given and getattr(patch, required) is None:
            raise ValidationFailedError(required, "cannot be removed")
    document = dict(json_text(entry.document))
    plain: dict[str, Any] = {}
    for member in ("name", "title", "description", "version", "status"):
        if member in given:
            plain[member] = getattr(patch, member)
            if member != "status":
                _put(document, member, plain[member])
    if "tags" in given:
        plain["tags"] = tuple(patch.tags or ())
    if "tools" in given:
        plain["tools"] = tuple(
            CatalogToolInput(one.name, one.title, one.description, one.input_schema)
            for one in patch.tools or ()
        )
    stored = CatalogContent(
        name=entry.name,
        kind=entry.kind,
        keys=tuple(entry.match_keys),
        document=document,
        url=entry.url,
        package=entry.package,
        title=entry.title,
        description=entry.description,
        version=entry.version,
        status=entry.status,
        tags=entry.tags,
        published_at=entry.published_at,
    )
    if {"url", "package"} & given:
        stored = _moved(stored, patch)
    return replace(stored, **plain)


def _moved(content: CatalogContent, patch: CatalogServerPatch) -> CatalogContent:
    """Return a server of the catalog at another URL, or with another package."""
    if (patch.url is None) == (patch.package is None):
        raise ValidationFailedError("url", "either url or package is required, and not both")
    document = {
        name: value
        for name, value in content.document.items()
        if name not in {"remotes", "packages"}
    }
    package = None
    if patch.package is None:
        document["remotes"] = [{"type": "streamable-http", "url": patch.url}]
    else:
        package = patch.package.package()
        document["packages"] = [listed_package(package)]
    keys = keys_of([] if patch.url is None else [patch.url], package)
    if not keys:
        raise ValidationFailedError("url", "must be an HTTP URL with a host")
    kind = CatalogKind.REMOTE if package is None else CatalogKind.CONTAINER
    return replace(
        content, document=document, kind=kind, keys=keys, url=patch.url, package=package
    )


def _put(document: JsonObject, member: str, value: str | None) -> None:
    if value is None:
        document.pop(member, None)
    else:
        document[member] = value
