"""Imports lists of servers: what is new is added, what changed is updated, the same is left alone.

An entry is known by its source and name there, and a version of it by its digest, so that an
import can end at any write and be repeated. Each transaction writes a hundred entries at most.
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from packages.database.client import Database, Transaction
from registry.auth.identity import SYNCHRONISER, UserContext
from registry.catalog.errors import CatalogServerExistsError, ImportUnreadableError
from registry.catalog.fetching import RegistryFetcher, page_url
from registry.catalog.formats import BrokenEntry, ReadEntry, entries_in, is_newer
from registry.catalog.jobs import CatalogJobRecord, CatalogJobs
from registry.catalog.repository import UNVERSIONED, CatalogRepository
from registry.catalog.values import CatalogContent, KnownEntry
from registry.core.clock import Clock
from registry.core.text import timestamp
from registry.sync.errors import LeaseLostError

log = structlog.get_logger()

ENTRIES_AT_ONCE = 100
WRITE_ATTEMPTS = 5
MAX_PROBLEMS = 200
"""Problems that are kept with an import; all are counted."""

MAX_PAGES = 10_000
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
OVERLAP = timedelta(minutes=5)
"""What changed shortly before the last import is asked for again: clocks differ."""

OUTCOMES = ("added", "updated", "versions", "unchanged", "duplicates", "broken")


@dataclass(slots=True)
class ImportResult:
    """What an import did so far.

    Attributes:
        counts: Entries by outcome.
        problems: Entries that were not taken: `place` and `reason`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)

    def report(self, outcome: str, place: str, reason: str) -> None:
        """Note an entry that is not taken."""
        self.counts[outcome] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"place": place, "reason": reason})


@dataclass(slots=True)
class _Versions:
    """The versions of one server that one transaction writes.

    Attributes:
        known: What is stored; None for a server that is new.
        latest: What becomes its latest version; None if the stored one stays.
        others: Its other versions.
    """

    known: KnownEntry | None
    latest: ReadEntry | None = None
    others: list[ReadEntry] = field(default_factory=list)

    @property
    def version(self) -> str | None:
        """Return what is its latest version by now."""
        if self.latest is not None:
            return self.latest.content.version
        return None if self.known is None else self.known.version

    def take(self, entry: ReadEntry) -> bool:
        """Add a version; return whether it is the latest."""
        if self.latest is None and self.known is None:
            self.latest = entry
            return True
        if not _is_latest(entry, self.version):
            self.others.append(entry)
            return False
        if self.latest is not None and self.latest.content.version != entry.content.version:
            self.others.append(self.latest)
        self.latest = entry
        return True


@dataclass(slots=True)
class _Plan:
    """What one transaction writes, by the name in the source."""

    servers: dict[str, _Versions] = field(default_factory=dict)

    @property
    def new(self) -> list[tuple[ReadEntry, _Versions]]:
        """Return the servers that are new, with their latest versions."""
        return [
            (one.latest, one)
            for one in self.servers.values()
            if one.known is None and one.latest is not None
        ]

    @property
    def changed(self) -> list[tuple[KnownEntry, ReadEntry]]:
        """Return the servers that have another latest version."""
        return [
            (one.known, one.latest)
            for one in self.servers.values()
            if one.known is not None and one.latest is not None
        ]

    @property
    def versions(self) -> list[tuple[KnownEntry, ReadEntry]]:
        """Return other versions of servers that are known."""
        return [
            (one.known, other)
            for one in self.servers.values()
            if one.known is not None
            for other in one.others
        ]


Progress = Callable[[ImportResult, str | None], Awaitable[None]]
"""Called after each transaction or page, with the cursor to go on with."""


async def _ignore(_result: ImportResult, _resume: str | None) -> None:
    """Ignore the progress."""


class ImportRunner:
    """Runs imports. Implements `worker.Imports`."""

    def __init__(
        self,
        database: Database,
        catalog: CatalogRepository,
        jobs: CatalogJobs,
        fetcher: RegistryFetcher,
        *,
        clock: Clock,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._jobs = jobs
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._fetcher = fetcher

    async def run(self, job: CatalogJobRecord) -> dict[str, int]:
        """Run an import that a job asks for.

        Raises:
            LeaseLostError: Another attempt has begun.
            ImportUnreadableError: What was given or fetched is no list of servers.
            RegistryUnavailableError: The registry cannot be read now.
        """
        result = ImportResult(Counter(job.counts), _stored_problems(job))

        async def progress(so_far: ImportResult, resume: str | None) -> None:
            is_ours = await self._jobs.note_page(
                job, resume, so_far.counts, so_far.problems, self._lease_seconds
            )
            if not is_ours:
                raise LeaseLostError

        dry_run = job.request.get("dry_run") is True
        url = job.request.get("url")
        if isinstance(url, str):
            await self.import_registry(
                job.owner_name,
                url,
                full=job.request.get("full") is True,
                dry_run=dry_run,
                resume=job.resume,
                result=result,
                progress=progress,
            )
        else:
            packed = await self._jobs.payload(job.id)
            content = _unpacked(packed or b"")
            resume = job.resume or ""
            start = int(resume) if resume.isdecimal() else 0
            await self.import_document(
                job.owner_name,
                content,
                dry_run=dry_run,
                start=start,
                result=result,
                progress=progress,
            )
        return dict(result.counts)

    async def import_document(
        self,
        source: str,
        content: bytes,
        *,
        dry_run: bool = False,
        start: int = 0,
        result: ImportResult | None = None,
        progress: Progress = _ignore,
    ) -> ImportResult:
        """Import a file.

        Raises:
            ImportUnreadableError: It is no list of servers.
        """
        result = result or ImportResult()
        listed = await asyncio.to_thread(entries_in, content)
        items = listed.items
        claimed: dict[str, str] = {}
        for at in range(start, len(items), ENTRIES_AT_ONCE):
            part = replace(listed, items=items[at : at + ENTRIES_AT_ONCE])
            await self._take(source, part.read(), result, claimed, dry_run=dry_run)
            await progress(result, str(at + len(part.items)))
        if not dry_run:
            now = self._clock.now()
            stored = await self._catalog.require_source(source, None, now)
            await self._catalog.note_imported(stored.id, _counts(result), None, now)
        return result

    async def import_registry(
        self,
        source: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        full: bool = False,
        dry_run: bool = False,
        resume: str | None = None,
        result: ImportResult | None = None,
        progress: Progress = _ignore,
    ) -> ImportResult:
        """Import all pages of a registry, or those entries that it changed since the last time.

        Raises:
            ValidationFailedError: The URL may not be contacted.
            ImportUnreadableError: A page is no list of servers.
            RegistryUnavailableError: A page cannot be fetched.
        """
        result = result or ImportResult()
        began_at = self._clock.now()
        if dry_run:
            stored = await self._catalog.source_named(source)
        else:
            stored = await self._catalog.require_source(source, url, began_at)
        since = None
        if not full and stored is not None and stored.imported_until is not None:
            since = timestamp(stored.imported_until - OVERLAP)
        claimed: dict[str, str] = {}
        cursor = resume
        for _ in range(MAX_PAGES):
            content = await self._fetcher.fetch(page_url(url, cursor, since), headers)
            page = await asyncio.to_thread(entries_in, content)
            await self._take(source, page.read(), result, claimed, dry_run=dry_run)
            if page.next_cursor is not None and page.next_cursor == cursor:
                raise ImportUnreadableError("The registry answers with the same page again.")
            cursor = page.next_cursor
            await progress(result, cursor)
            if cursor is None:
                break
        if stored is not None and not dry_run:
            now = self._clock.now()
            await self._catalog.note_imported(stored.id, _counts(result), began_at, now)
        return result

    async def _take(
        self,
        source: str,
        entries: Iterable[ReadEntry | BrokenEntry],
        result: ImportResult,
        claimed: dict[str, str],
        *,
        dry_run: bool,
    ) -> None:
        waiting: list[ReadEntry] = []
        for entry in entries:
            if isinstance(entry, BrokenEntry):
                result.report("broken", entry.place, entry.reason)
            else:
                waiting.append(entry)
        for at in range(0, len(waiting), ENTRIES_AT_ONCE):
            batch = waiting[at : at + ENTRIES_AT_ONCE]
            await self._write(source, batch, result, claimed, dry_run=dry_run)

    async def _write(
        self,
        source: str,
        batch: Sequence[ReadEntry],
        result: ImportResult,
        claimed: dict[str, str],
        *,
        dry_run: bool,
    ) -> None:
        for attempt in range(WRITE_ATTEMPTS):
            counted = ImportResult()
            plan = await self._plan(source, batch, counted, claimed, dry_run=dry_run)
            if not dry_run:
                try:
                    await self._store(source, plan, SYNCHRONISER)
                except CatalogServerExistsError:
                    # Somebody added one of them since the plan was made.
                    if attempt == WRITE_ATTEMPTS - 1:
                        raise
                    continue
            for entry, _ in plan.new:
                claimed[f"name:{entry.content.name}"] = entry.content.name
                for key in entry.content.keys:
                    claimed[key] = entry.content.name
            result.counts += counted.counts
            room = MAX_PROBLEMS - len(result.problems)
            result.problems += counted.problems[:room]
            return

    async def _plan(
        self,
        source: str,
        batch: Sequence[ReadEntry],
        result: ImportResult,
        claimed: Mapping[str, str],
        *,
        dry_run: bool,
    ) -> _Plan:
        """Return what is to be written, and count it."""
        names = [entry.content.name for entry in batch]
        keys = [key for entry in batch for key in entry.content.keys]
        found = await self._catalog.known_by_names(names, source)
        holders = {
            key: one for one in await self._catalog.known_by_keys(keys) for key in one.match_keys
        }
        ours = {one.imported_name: one for one in found if one.source == source}
        taken = {one.name: one for one in found}
        digests: dict[tuple[str | None, str], str | None] = {
            (version.server_id, version.version): version.digest
            for version in await self._catalog.digests_of([one.id for one in ours.values()])
        }
        held = dict(claimed)
        plan = _Plan()
        for entry in batch:
            content = entry.content
            known = ours.get(content.name)
            planned = plan.servers.get(content.name)
            # In a dry run, what was added in earlier batches is not stored.
            is_ours = (
                known is not None
                or planned is not None
                or (dry_run and f"name:{content.name}" in claimed)
            )
            other = next(
                (
                    holders[key].name
                    for key in content.keys
                    if key in holders and (known is None or holders[key].id != known.id)
                ),
                None,
            ) or next((held[key] for key in content.keys if key in held and known is None), None)
            owner = content.name if known is None else known.id
            version = content.version or UNVERSIONED
            if other is not None and other != content.name:
                result.report(
                    "duplicates", entry.place, f"{content.name}: {other} has the same {_of(entry)}"
                )
            elif other is not None and not is_ours:
                result.report(
                    "duplicates", entry.place, f"{content.name} is there from another source"
                )
            elif not is_ours and (content.name in taken or f"name:{content.name}" in held):
                result.report("duplicates", entry.place, f"{content.name}: the name is taken")
            elif digests.get((owner, version)) == entry.digest and (
                known is None
                or planned is not None
                or content.version != known.version
                or known.digest == entry.digest
            ):
                result.counts["unchanged"] += 1
            else:
                versions = plan.servers.setdefault(content.name, _Versions(known))
                is_new = not is_ours
                is_latest = versions.take(entry)
                digests[(owner, version)] = entry.digest
                if known is None:
                    held |= dict.fromkeys(content.keys, content.name)
                updates = is_latest and known is not None
                result.counts["added" if is_new else "updated" if updates else "versions"] += 1
        return plan

    async def _store(self, source: str, plan: _Plan, user: UserContext) -> None:
        if not plan.servers:
            return

        async def write(tx: Transaction) -> None:
            now = self._clock.now()
            new = plan.new
            ids = await self._catalog.insert_all(
                [(entry.content, entry.digest) for entry, _ in new],
                source=source,
                user=user,
                now=now,
                tx=tx,
            )
            for known, entry in plan.changed:
                content = _renamed(known, entry.content)
                await self._catalog.update(
                    known.id,
                    None,
                    content,
                    digest=entry.digest,
                    user=user,
                    now=now,
                    tx=tx,
                    imported_name=entry.content.name,
                )
                await self._jobs.ensure_links(known.id, content.name, user, now, tx)
            others = [(known.id, entry) for known, entry in plan.versions]
            others += [
                (entry_id, other)
                for entry_id, (_, versions) in zip(ids, new, strict=True)
                for other in versions.others
            ]
            await self._catalog.put_former_versions(
                [(entry_id, entry.content, entry.digest) for entry_id, entry in others], now, tx
            )

        await self._database.transaction(write)


def _renamed(known: KnownEntry, content: CatalogContent) -> CatalogContent:
    """Return what is written of a known entry: a name that people gave it stays."""
    if known.name is None or known.name == known.imported_name:
        return content
    return replace(content, name=known.name)


def _is_latest(entry: ReadEntry, latest: str | None) -> bool:
    """Whether an entry is the latest version of a server whose *latest* is known."""
    version = entry.content.version
    if version == latest:
        return True
    if entry.is_latest is not None:
        return entry.is_latest
    return is_newer(version, latest)


def _of(entry: ReadEntry) -> str:
    return "package" if entry.content.package is not None else "URL"


def _counts(result: ImportResult) -> dict[str, int]:
    return {name: result.counts[name] for name in OUTCOMES if result.counts[name]}


def _stored_problems(job: CatalogJobRecord) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in one.items()} for one in job.problems]


def packed(content: bytes) -> bytes:
    """Return a document as it is stored with a job."""
    return zlib.compress(content)


def _unpacked(stored: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(stored, MAX_DOCUMENT_BYTES)
    except zlib.error as exc:
        raise ImportUnreadableError("The stored document cannot be read.") from exc
    if not unpacking.eof:
        raise ImportUnreadableError("The document is too large.")
    return content
