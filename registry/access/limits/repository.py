"""Repository of `limits`. The only module that writes it."""

from collections.abc import Collection, Mapping
from typing import Any

import structlog
from bson import ObjectId
from pymongo.errors import DuplicateKeyError
from pymongo.results import UpdateResult

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored, deleted
from packages.database.errors import translates_driver_errors
from packages.database.stored import moment_of, text_of, whole_of
from packages.models.limits import LimitDocument
from registry.access.limits.errors import LimitExistsError
from registry.access.limits.values import (
    Dimension,
    Limit,
    LimitRecord,
    OnDatabaseLoss,
    Period,
    Rate,
)
from registry.access.policies.repository import (
    person_of,
    read_member,
    stored_person,
    subjects_of,
    target_of,
)
from registry.access.policies.values import EVERYONE, Subjects
from registry.core.paging import Page, PageRequest

log = structlog.get_logger()

SORT = [("name", 1), ("_id", 1)]
OPTIONAL = ("description", "owner_id", "source_type", "in_flight", "on_database_loss")


@translates_driver_errors
class LimitRepository:
    """Limits on calls of tools."""

    def __init__(self, database: Database) -> None:
        self._limits = database.document(LimitDocument)
        # Limits are read as they are stored: one that cannot be read must refuse, not be absent.
        self._rows = self._limits.get_pymongo_collection()

    async def every(self) -> Mapping[str, Limit]:
        """Return all limits by their ids, unreadable ones included."""
        found = [limit_of(row) async for row in self._rows.find({})]
        for limit in found:
            if limit.problem is not None:
                log.error("limit_unreadable", limit_id=limit.id, error=limit.problem)
        return {limit.id: limit for limit in found}

    async def list_page(
        self, owners: Collection[str | None] | None, owner_id: str | None, page: PageRequest
    ) -> Page[LimitRecord]:
        """Return one page in the order of names.

        Args:
            owners: Only limits about one of these servers, None among them for those about all
                servers; None for all limits.
            owner_id: Only those about this server.
            page: The page.
        """
        query: Doc = {}
        if owner_id is not None:
            is_seen = owners is None or owner_id in owners
            query["owner_id"] = ObjectId(owner_id) if is_seen else {"$in": []}
        elif owners is not None:
            ids = [None if one is None else ObjectId(one) for one in owners]
            query["owner_id"] = {"$in": ids}
        total = await self._limits.find(query).count()
        cursor = self._rows.find(query, sort=SORT, skip=page.offset, limit=-page.per_page)
        return Page(tuple(record_of(row) for row in await cursor.to_list()), total, page)

    async def get(self, limit_id: str, tx: Transaction | None = None) -> LimitRecord | None:
        """Return one limit. No access check."""
        row = await self._rows.find_one({"_id": ObjectId(limit_id)}, session=tx)
        return None if row is None else record_of(row)

    async def count_about(self, owner_id: str | None, tx: Transaction) -> int:
        """Return the number of limits about a server, or, for None, about all servers."""
        owner = None if owner_id is None else ObjectId(owner_id)
        return await self._limits.find({"owner_id": owner}, session=tx).count()

    async def insert(self, record: LimitRecord, tx: Transaction) -> None:
        """Store a new limit.

        Raises:
            LimitExistsError: The name is taken.
        """
        try:
            await self._document(record).insert(session=tx)
        except DuplicateKeyError as exc:
            raise LimitExistsError(record.limit.name) from exc

    async def update(self, record: LimitRecord, tx: Transaction) -> bool:
        """Replace a limit by a new revision; return whether the former one was the latest.

        Raises:
            LimitExistsError: The name is taken.
        """
        document = as_stored(self._document(record))
        key = {"_id": document.pop("_id"), "revision": record.revision - 1}
        operations: Doc = {"$set": document}
        gone = [name for name in OPTIONAL if name not in document]
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")
        try:
            result = await self._limits.find_one(key).update(operations, session=tx)
        except DuplicateKeyError as exc:
            raise LimitExistsError(record.limit.name) from exc
        return isinstance(result, UpdateResult) and result.matched_count == 1

    async def delete(self, limit_id: str, tx: Transaction) -> bool:
        """Remove one limit; return whether there was one."""
        found = self._limits.find_one({"_id": ObjectId(limit_id)})
        return await deleted(found.delete(session=tx)) == 1

    async def delete_of(self, owner_id: str, tx: Transaction) -> int:
        """Remove all limits about one server; return how many there were."""
        found = self._limits.find({"owner_id": ObjectId(owner_id)})
        return await deleted(found.delete(session=tx))

    def _document(self, record: LimitRecord) -> LimitDocument:
        limit = record.limit
        target, subjects = limit.target, limit.subjects
        loss = limit.on_database_loss
        return self._limits(
            id=ObjectId(limit.id),
            name=limit.name,
            description=record.description,
            is_enabled=limit.is_enabled,
            source_type=target.source_type,
            owner_id=None if target.owner_id is None else ObjectId(target.owner_id),
            tools=list(target.tools),
            metadata=dict(target.metadata),
            users=[ObjectId(user_id) for user_id in sorted(subjects.users)],
            groups=[ObjectId(group_id) for group_id in sorted(subjects.groups)],
            roles=sorted(role.value for role in subjects.roles),
            scopes=sorted(subjects.scopes),
            everyone=subjects.everyone,
            per=[one.value for one in limit.per],
            rates=[{"count": rate.count, "per": rate.period.value} for rate in limit.rates],
            in_flight=limit.in_flight,
            on_database_loss=None if loss is None else loss.value,
            revision=record.revision,
            created_at=record.created_at,
            created_by=stored_person(record.created_by),
            updated_at=record.updated_at,
            updated_by=stored_person(record.updated_by),
        )


def new_limit_id() -> str:
    """Return a new limit id."""
    return str(ObjectId())


def record_of(row: Mapping[str, Any]) -> LimitRecord:
    """Convert a stored limit to a value."""
    return LimitRecord(
        limit=limit_of(row),
        description=text_of(row.get("description")),
        revision=whole_of(row.get("revision")) or 0,
        created_at=moment_of(row.get("created_at")),
        created_by=person_of(row.get("created_by")),
        updated_at=moment_of(row.get("updated_at")),
        updated_by=person_of(row.get("updated_by")),
    )


def limit_of(row: Mapping[str, Any]) -> Limit:
    """Return the limit for decisions.

    An unreadable limit is never left out: it refuses everything that it may apply to, unless it is
    readably disabled.
    """
    problems: list[str] = []
    target, subjects = target_of(row, problems), subjects_of(row, problems)

    def read(name: str, parse: Any, otherwise: Any) -> Any:
        return read_member(row, name, parse, otherwise, problems)

    limit_id, name = str(row["_id"]), row.get("name")
    if subjects == Subjects():
        problems.append("subjects")
    limit = Limit(
        id=limit_id,
        name=name if isinstance(name, str) else limit_id,
        target=target,
        subjects=subjects,
        per=read("per", lambda value: tuple(map(Dimension, value or ())), ()),
        rates=read("rates", _rates, ()),
        in_flight=read("in_flight", _in_flight, None),
        on_database_loss=read("on_database_loss", _on_loss, None),
        is_enabled=row.get("is_enabled") is not False,
    )
    if not limit.rates and limit.in_flight is None and not problems:
        problems.append("rates")
    if not problems:
        return limit
    return Limit(
        id=limit.id,
        name=limit.name,
        target=target,
        subjects=EVERYONE,
        # Counted in nothing: whoever it may apply to is refused.
        in_flight=0,
        is_enabled=limit.is_enabled,
        problem=f"unreadable: {', '.join(problems)}",
    )


def _rates(value: object) -> tuple[Rate, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError
    rates = []
    for one in value:
        if not isinstance(one, dict):
            raise TypeError
        count = whole_of(one.get("count"))
        if count is None or count < 0:
            raise ValueError
        rates.append(Rate(count, Period(str(one.get("per")))))
    return tuple(rates)


def _in_flight(value: object) -> int | None:
    if value is None:
        return None
    count = whole_of(value)
    if count is None or count < 0:
        raise ValueError
    return count


def _on_loss(value: object) -> OnDatabaseLoss | None:
    return None if value is None else OnDatabaseLoss(str(value))
