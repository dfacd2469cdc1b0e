"""Repository of `budgets`. The only module that writes it."""

from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored
from packages.database.errors import translates_driver_errors
from packages.database.stored import id_of, moment_of, text_of
from packages.models.budgets import BudgetDocument
from registry.access.budgets.errors import BudgetExistsError
from registry.access.budgets.values import Budget, BudgetRecord
from registry.access.policies.values import EVERYONE, PolicyEditor, Subjects
from registry.auth.identity import Role, Tenants
from registry.core.paging import Page, PageRequest

SORT = [("name", ASCENDING), ("_id", ASCENDING)]


@translates_driver_errors
class BudgetRepository:
    """Budgets."""

    def __init__(self, database: Database) -> None:
        self._budgets = database.document(BudgetDocument)
        self._rows = self._budgets.get_pymongo_collection()

    async def every(self) -> list[BudgetRecord]:
        """Return all budgets. An unreadable one is among them."""
        return [record_of(row) async for row in self._rows.find({})]

    async def list_page(self, tenants: Tenants, page: PageRequest) -> Page[BudgetRecord]:
        """Return one page in the order of names."""
        query: Doc = {} if tenants.are_all else {"tenant_id": tenants.one}
        total = await self._rows.count_documents(query)
        rows = self._rows.find(query, sort=SORT, skip=page.offset, limit=-page.per_page)
        return Page(tuple([record_of(row) async for row in rows]), total, page)

    async def get(self, budget_id: str, tx: Transaction | None = None) -> BudgetRecord | None:
        """Return one budget. No access check."""
        row = await self._rows.find_one({"_id": ObjectId(budget_id)}, session=tx)
        return None if row is None else record_of(row)

    async def count(self, tx: Transaction) -> int:
        """Return the number of budgets."""
        return await self._rows.count_documents({}, session=tx)

    async def insert(self, record: BudgetRecord, tx: Transaction) -> None:
        """Store a new budget.

        Raises:
            BudgetExistsError: The name is taken.
        """
        try:
            await self._document(record).insert(session=tx)
        except DuplicateKeyError as exc:
            raise BudgetExistsError(record.budget.name) from exc

    async def update(self, record: BudgetRecord, tx: Transaction) -> bool:
        """Replace a budget by a new revision; return whether the former one was the latest.

        What was reported of it is forgotten if *record* says so: it may have to be reported again.

        Raises:
            BudgetExistsError: The name is taken.
        """
        document = as_stored(self._document(record))
        key = {"_id": document.pop("_id"), "revision": record.revision - 1}
        changes: Doc = {"$set": document}
        if record.noticed is None:
            changes["$unset"] = {"notice": ""}
        try:
            result = await self._rows.update_one(key, changes, session=tx)
        except DuplicateKeyError as exc:
            raise BudgetExistsError(record.budget.name) from exc
        return result.matched_count == 1

    async def delete(self, budget_id: str, tx: Transaction) -> bool:
        """Remove one budget; return whether there was one."""
        result = await self._rows.delete_one({"_id": ObjectId(budget_id)}, session=tx)
        return result.deleted_count == 1

    async def notice(
        self, record: BudgetRecord, month: datetime, percent: int, tx: Transaction
    ) -> bool:
        """Store that this much of a budget is spent; return False if that was known."""
        result = await self._rows.update_one(
            {
                "_id": ObjectId(record.budget.id),
                "revision": record.revision,
                "$nor": [{"notice.month": {"$gte": month}, "notice.percent": {"$gte": percent}}],
            },
            {"$set": {"notice": {"month": month, "percent": percent}}},
            session=tx,
        )
        return result.modified_count == 1

    def _document(self, record: BudgetRecord) -> BudgetDocument:
        budget = record.budget
        return self._budgets(
            id=ObjectId(budget.id),
            name=budget.name,
            tenant_id=budget.tenant_id,
            amount=budget.amount,
            users=[ObjectId(user_id) for user_id in sorted(budget.subjects.users)],
            roles=sorted(role.value for role in budget.subjects.roles),
            everyone=budget.subjects.everyone,
            billing_tags=sorted(budget.billing_tags),
            revision=record.revision,
            created_at=record.created_at,
            created_by=_stored_person(record.created_by),
            updated_at=record.updated_at,
            updated_by=_stored_person(record.updated_by),
        )


def new_budget_id() -> str:
    """Return a new budget id."""
    return str(ObjectId())


def record_of(row: dict[str, Any]) -> BudgetRecord:
    """Convert a stored budget to a value."""
    notice = row.get("notice")
    noticed = None
    if isinstance(notice, dict):
        month, percent = moment_of(notice.get("month")), notice.get("percent")
        if month is not None and isinstance(percent, int):
            noticed = (month, percent)
    revision = row.get("revision")
    return BudgetRecord(
        budget=budget_of(row),
        noticed=noticed,
        revision=revision if isinstance(revision, int) else 0,
        created_at=moment_of(row.get("created_at")),
        created_by=_person(row.get("created_by")),
        updated_at=moment_of(row.get("updated_at")),
        updated_by=_person(row.get("updated_by")),
    )


def budget_of(row: dict[str, Any]) -> Budget:
    """Return the budget for decisions. An unreadable one allows nothing to whom it may name."""
    budget_id, name = str(row["_id"]), text_of(row.get("name"))
    name = budget_id if name is None else name
    tenant_id = text_of(row.get("tenant_id"))
    try:
        subjects = Subjects(
            users=frozenset(_id(one) for one in _list(row, "users")),
            roles=frozenset(Role(_text(one)) for one in _list(row, "roles")),
            everyone=row.get("everyone", False) is True,
        )
        tags = frozenset(_text(one) for one in _list(row, "billing_tags"))
        amount = _amount(row["amount"])
    except (LookupError, TypeError, ValueError) as exc:
        return Budget(budget_id, name, tenant_id, 0, EVERYONE, problem=f"unreadable: {exc}")
    if subjects == Subjects():
        return Budget(budget_id, name, tenant_id, 0, EVERYONE, problem="unreadable: subjects")
    return Budget(budget_id, name, tenant_id, amount, subjects, tags)


def _amount(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("amount")
    return value


def _list(row: dict[str, Any], name: str) -> list[object]:
    value = row.get(name, [])
    if not isinstance(value, list):
        raise TypeError(name)
    return value


def _id(value: object) -> str:
    found = id_of(value)
    if found is None:
        raise ValueError("users")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is a {type(value).__name__}")
    return value


def _person(value: object) -> PolicyEditor | None:
    if not isinstance(value, dict):
        return None
    return PolicyEditor(text_of(value.get("user_id")) or "", text_of(value.get("username")) or "")


def _stored_person(person: PolicyEditor | None) -> dict[str, str] | None:
    if person is None:
        return None
    return {"user_id": person.user_id, "username": person.username}
