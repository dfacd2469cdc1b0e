"""Jobs of the catalog: imports, and links that follow a rename or removal.

The only writer of `catalog_jobs`. Leases, attempts and retries are those of `sync.repository`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from bson import ObjectId
from pydantic import Field, PlainValidator
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored, parsed
from packages.database.errors import translates_driver_errors
from packages.database.stored import StoredText
from packages.models.catalog import CatalogJob
from packages.models.states import JobState, SourceType, Trigger
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject, choice_of, members
from registry.sync.errors import JobsContendedError
from registry.sync.repository import JobRepository
from registry.sync.values import SyncJobRecord

MAX_SHOWN = 50
OPEN_ATTEMPTS = 5


class CatalogTask(StrEnum):
    """What a job does."""

    IMPORT = "import"
    LINKS = "links"


def _problems(stored: object) -> tuple[JsonObject, ...]:
    rows = stored if isinstance(stored, list) else []
    return tuple(members(row) for row in rows if isinstance(row, dict))


class CatalogJobRecord(SyncJobRecord):
    """A job as it is stored.

    Attributes:
        request: What to import: `url`, `full`, `dry_run`.
        payload: The given document, compressed, if it is not fetched.
        resume: The cursor of the next page.
        problems: Entries that could not be taken: where, and why.
    """

    task: Annotated[
        CatalogTask | None, PlainValidator(lambda stored: choice_of(CatalogTask, stored))
    ] = None
    request: Annotated[JsonObject, PlainValidator(members)] = Field(default_factory=dict)
    resume: StoredText = None
    problems: Annotated[tuple[JsonObject, ...], PlainValidator(_problems)] = ()


@translates_driver_errors
class CatalogJobs(JobRepository):
    """Stores jobs of the catalog."""

    def __init__(self, database: Database, *, retention: timedelta, clock: Clock) -> None:
        self._documents = database.document(CatalogJob)
        super().__init__(database, retention=retention, clock=clock, jobs=self._documents)
        self._rows = self._documents.get_pymongo_collection()

    async def ensure_links(
        self, entry_id: str, name: str, user: UserContext, now: datetime, tx: Transaction
    ) -> None:
        """Have the links to a server of the catalog follow, once *tx* is committed."""
        owner = ObjectId(entry_id)
        asked = {"trigger": Trigger.MANUAL.value}
        row = await self._rows.find_one_and_update(
            {"open_owner_id": owner}, {"$set": {"repeat": asked}}, {"_id": 1}, session=tx
        )
        if row is None:
            job = self._job(CatalogTask.LINKS, owner, name, user, now)
            await self._rows.insert_one(as_stored(job), session=tx)

    async def ensure_links_later(self, entry_id: str, name: str, user: UserContext) -> None:
        """Have the links to a server of the catalog compared; see `ensure_links`."""
        job = self._job(CatalogTask.LINKS, ObjectId(entry_id), name, user, self._clock.now())
        try:
            await self._rows.insert_one(as_stored(job))
        except DuplicateKeyError:
            return

    async def open_import(
        self,
        source_id: str | None,
        source: str,
        request: Mapping[str, Any],
        payload: bytes | None,
        user: UserContext,
    ) -> tuple[CatalogJobRecord, bool]:
        """Open an import; return it, and whether one of its source was already open.

        A dry run is of no source: it is not in the way of an import, and leaves nothing.
        """
        owner = ObjectId(source_id)
        for _ in range(OPEN_ATTEMPTS):
            job = self._job(CatalogTask.IMPORT, owner, source, user, self._clock.now())
            job.request, job.payload = dict(request), payload
            document = as_stored(job)
            try:
                await self._rows.insert_one(document)
            except DuplicateKeyError:
                row = await self._rows.find_one({"open_owner_id": owner}, WITHOUT_PAYLOAD)
                if row is not None:
                    return CatalogJobRecord.model_validate(row), True
            else:
                return CatalogJobRecord.model_validate(document), False
        raise JobsContendedError

    async def details(self, job_id: str) -> CatalogJobRecord | None:
        """Return one job; None if there is none, or it cannot be read."""
        row = await self._rows.find_one({"_id": ObjectId(job_id)}, WITHOUT_PAYLOAD)
        return None if row is None else parsed(CatalogJobRecord, row, self._rows.name)

    async def payload(self, job_id: str) -> bytes | None:
        """Return the document that was given with a job."""
        row = await self._rows.find_one({"_id": ObjectId(job_id)}, {"payload": 1})
        stored = None if row is None else row.get("payload")
        return stored if isinstance(stored, bytes) else None

    async def imports(self) -> list[CatalogJobRecord]:
        """Return the latest imports, newest first."""
        query = {"task": CatalogTask.IMPORT.value}
        rows = self._rows.find(query, WITHOUT_PAYLOAD, sort=[("_id", -1)], limit=MAX_SHOWN)
        found = [parsed(CatalogJobRecord, row, self._rows.name) async for row in rows]
        return [one for one in found if one is not None]

    async def note_page(
        self,
        job: SyncJobRecord,
        resume: str | None,
        counts: Mapping[str, int],
        problems: Sequence[Mapping[str, str]],
        lease_seconds: float,
    ) -> bool:
        """Record how far an import is, and renew its lease; False if another attempt has begun."""
        changes: Doc = {
            "counts": {"$literal": dict(counts)},
            "problems": {"$literal": [dict(one) for one in problems]},
            "progress": {"phase": "writing", "tools_read": sum(counts.values())},
            "due_at": {"$add": ["$$NOW", round(lease_seconds * 1000)]},
        }
        if resume is not None:
            changes["resume"] = {"$literal": resume}
        key = {"_id": ObjectId(job.id), "lease_id": ObjectId(job.lease_id or job.id)}
        row = await self._rows.find_one_and_update(
            key, [{"$set": changes}], {"_id": 1}, return_document=ReturnDocument.AFTER
        )
        return row is not None

    def _job(
        self, task: CatalogTask, owner: ObjectId, name: str, user: UserContext, now: datetime
    ) -> CatalogJob:
        return self._documents(
            id=ObjectId(),
            owner_id=owner,
            owner_name=name,
            source_type=SourceType.MCP,
            task=task.value,
            trigger=Trigger.MANUAL,
            requested_by={"user_id": user.user_id, "username": user.username},
            state=JobState.QUEUED,
            due_at=now,
            open_owner_id=owner,
            attempts=0,
            created_at=now,
        )


WITHOUT_PAYLOAD = {"payload": 0}
