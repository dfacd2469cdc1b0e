"""Repository of `access_policies`. The only module that writes it."""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, assert_never

import structlog
from bson import ObjectId
from pymongo.errors import DuplicateKeyError
from pymongo.results import DeleteResult, UpdateResult

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored
from packages.database.errors import translates_driver_errors
from packages.database.stored import text_of
from packages.models.policies import AccessPolicy
from packages.models.states import Effect, SourceType
from registry.access.policies.decisions import is_named
from registry.access.policies.errors import PolicyExistsError
from registry.access.policies.values import (
    EVERYONE,
    Policy,
    PolicyEditor,
    PolicyFilter,
    PolicyRecord,
    PolicyTarget,
    Subjects,
    SubjectType,
)
from registry.auth.identity import Role
from registry.core.paging import Page, PageRequest
from registry.tools.metadata import COST_TIER, FLAGS

log = structlog.get_logger()

SORT = [("name", 1), ("_id", 1)]
SEARCHED_FIELDS = ("name", "description")
OBJECT_ID_CHARACTERS = 24


OPTIONAL = ("description", "owner_id", "source_type")
"""Members that a document may lack."""


class _UnreadableError(Exception):
    """A field has an invalid value."""


@translates_driver_errors
class PolicyRepository:
    """Policies for single tools."""

    def __init__(self, database: Database) -> None:
        self._policies = database.document(AccessPolicy)
        # Policies are read as they are stored: one that cannot be read must refuse, not be absent.
        self._rows = self._policies.get_pymongo_collection()

    async def every(self) -> dict[str, Policy]:
        """Return all policies by their ids, for decisions.

        An unreadable one is included, and refuses everything that it may apply to.
        """
        return _noted([policy_of(row) async for row in self._rows.find({})])

    async def some(self, policy_ids: Iterable[str]) -> dict[str, Policy]:
        """Return the existing policies of these ids, in the same form."""
        ids: list[object] = []
        for policy_id in policy_ids:
            ids += [policy_id, ObjectId(policy_id)] if ObjectId.is_valid(policy_id) else []
        rows = self._rows.find({"_id": {"$in": ids}})
        return _noted([policy_of(row) async for row in rows])

    async def about(self, owner_id: str) -> list[Policy]:
        """Return the policies for a server, and those for all."""
        return [policy_of(row) async for row in self._rows.find(_about(owner_id))]

    async def list_page(
        self, owners: Collection[str | None] | None, narrowed: PolicyFilter, page: PageRequest
    ) -> Page[PolicyRecord]:
        """Return one page in the order of names.

        Args:
            owners: Only policies for one of these servers, None among them for those for
                all servers; None for all policies.
            narrowed: The filter.
            page: The page.
        """
        query = _query(owners, narrowed)
        if narrowed.tool is not None:
            rows = self._rows.find(query, {"tools": 1}, sort=SORT)
            ids = [row["_id"] async for row in rows if _is_about(row, narrowed.tool)]
            chosen = ids[page.offset : page.offset + page.per_page]
            found = self._rows.find({"_id": {"$in": chosen}}, sort=SORT)
            return Page(tuple([record_of(row) async for row in found]), len(ids), page)
        total = await self._policies.find(query).count()
        cursor = self._rows.find(query, sort=SORT, skip=page.offset, limit=-page.per_page)
        return Page(tuple(record_of(row) for row in await cursor.to_list()), total, page)

    async def get(self, policy_id: str, tx: Transaction | None = None) -> PolicyRecord | None:
        """Return one policy. No access check."""
        row = await self._rows.find_one({"_id": ObjectId(policy_id)}, session=tx)
        return None if row is None else record_of(row)

    async def count_about(self, owner_id: str | None, tx: Transaction) -> int:
        """Return the number of policies for a server, or, for None, for all servers."""
        owner = None if owner_id is None else ObjectId(owner_id)
        return await self._policies.find({"owner_id": owner}, session=tx).count()

    async def insert(self, record: PolicyRecord, tx: Transaction) -> None:
        """Store a new policy.

        Raises:
            PolicyExistsError: The name is taken.
        """
        try:
            await self._document(record).insert(session=tx)
        except DuplicateKeyError as exc:
            raise PolicyExistsError(record.policy) from exc

    async def update(self, record: PolicyRecord, tx: Transaction) -> bool:
        """Replace a policy by a new revision; return whether the former one was the latest.

        Raises:
            PolicyExistsError: The name is taken.
        """
        document = as_stored(self._document(record))
        key = {"_id": document.pop("_id"), "revision": record.revision - 1}
        operations: Doc = {"$set": document}
        gone = [name for name in OPTIONAL if name not in document]
        if gone:
            operations["$unset"] = dict.fromkeys(gone, "")
        try:
            result = await self._policies.find_one(key).update(operations, session=tx)
        except DuplicateKeyError as exc:
            raise PolicyExistsError(record.policy) from exc
        return isinstance(result, UpdateResult) and result.matched_count == 1

    async def delete(self, policy_id: str, tx: Transaction) -> bool:
        """Remove one policy; return whether there was one."""
        found = self._policies.find_one({"_id": ObjectId(policy_id)})
        return _deleted(await found.delete(session=tx)) == 1

    async def delete_of(self, owner_id: str, tx: Transaction) -> int:
        """Remove all policies for one server; return how many there were."""
        found = self._policies.find({"owner_id": ObjectId(owner_id)})
        return _deleted(await found.delete(session=tx))

    def _document(self, record: PolicyRecord) -> AccessPolicy:
        policy = record.policy
        target, subjects = policy.target, policy.subjects
        return self._policies(
            id=ObjectId(policy.id),
            name=policy.name,
            description=record.description,
            effect=policy.effect,
            is_enabled=policy.is_enabled,
            source_type=target.source_type,
            owner_id=None if target.owner_id is None else ObjectId(target.owner_id),
            tools=list(target.tools),
            metadata=dict(target.metadata),
            users=[ObjectId(user_id) for user_id in sorted(subjects.users)],
            groups=[ObjectId(group_id) for group_id in sorted(subjects.groups)],
            roles=sorted(role.value for role in subjects.roles),
            scopes=sorted(subjects.scopes),
            everyone=subjects.everyone,
            revision=record.revision,
            created_at=record.created_at,
            created_by=stored_person(record.created_by),
            updated_at=record.updated_at,
            updated_by=stored_person(record.updated_by),
        )


def _deleted(result: DeleteResult | None) -> int:
    return 0 if result is None else result.deleted_count


def new_policy_id() -> str:
    """Return a new policy id."""
    return str(ObjectId())


def record_of(row: dict[str, Any]) -> PolicyRecord:
    """Convert a stored policy to a value."""
    revision = row.get("revision")
    description = row.get("description")
    return PolicyRecord(
        policy=policy_of(row),
        description=description if isinstance(description, str) else None,
        revision=revision if isinstance(revision, int) else 0,
        created_at=_moment(row.get("created_at")),
        created_by=person_of(row.get("created_by")),
        updated_at=_moment(row.get("updated_at")),
        updated_by=person_of(row.get("updated_by")),
    )


def read_member(
    row: Mapping[str, Any], name: str, parse: Any, otherwise: Any, problems: list[str]
) -> Any:
    """Return a member of a document; *otherwise*, and its name in *problems*, if unreadable."""
    try:
        return parse(row.get(name))
    except (_UnreadableError, ValueError, TypeError):
        problems.append(name)
        return otherwise


def target_of(row: Mapping[str, Any], problems: list[str]) -> PolicyTarget:
    """Return the tools that a document names; what is unreadable names all."""
    return PolicyTarget(
        read_member(row, "source_type", _source_type, None, problems),
        read_member(row, "owner_id", _owner, None, problems),
        read_member(row, "tools", _texts, (), problems),
        read_member(row, "metadata", _metadata, {}, problems),
    )


def _source_type(value: object) -> SourceType | None:
    return None if value is None else SourceType(str(value))


def subjects_of(row: Mapping[str, Any], problems: list[str]) -> Subjects:
    """Return the callers that a document names."""
    return Subjects(
        read_member(row, "users", _ids, frozenset(), problems),
        read_member(row, "groups", _ids, frozenset(), problems),
        read_member(
            row, "roles", lambda value: frozenset(map(Role, _texts(value))), frozenset(), problems
        ),
        read_member(row, "scopes", lambda value: frozenset(_texts(value)), frozenset(), problems),
        read_member(
            row,
            "everyone",
            lambda value: _truth(False if value is None else value),
            otherwise=True,
            problems=problems,
        ),
    )


def policy_of(row: dict[str, Any]) -> Policy:
    """Return the policy for decisions.

    An unreadable policy is never left out: it refuses everything that it may apply to, to every
    user, unless it is readably disabled.
    """
    problems: list[str] = []
    target, subjects = target_of(row, problems), subjects_of(row, problems)

    def read(name: str, parse: Any, otherwise: Any) -> Any:
        return read_member(row, name, parse, otherwise, problems)

    effect = read("effect", Effect, Effect.DENY)
    is_enabled = read("is_enabled", _truth, otherwise=True)
    if subjects == Subjects():
        # Without subjects it has no effect: a truncated policy.
        problems.append("subjects")
    policy_id, name = str(row["_id"]), row.get("name")
    name = name if isinstance(name, str) else policy_id
    if problems:
        problem = f"unreadable: {', '.join(problems)}"
        return Policy(policy_id, name, Effect.DENY, target, EVERYONE, is_enabled, problem)
    return Policy(policy_id, name, effect, target, subjects, is_enabled)


def _noted(policies: Iterable[Policy]) -> dict[str, Policy]:
    found = {policy.id: policy for policy in policies}
    for policy in found.values():
        if policy.problem is not None:
            log.error("policy_unreadable", policy_id=policy.id, error=policy.problem)
    return found


def _owner(value: object) -> str | None:
    if value is None or isinstance(value, ObjectId):
        return None if value is None else str(value)
    raise _UnreadableError


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, list) and all(isinstance(one, str) and one for one in value):
        return tuple(value)
    raise _UnreadableError


def _ids(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if isinstance(value, list) and all(isinstance(one, ObjectId) for one in value):
        return frozenset(map(str, value))
    raise _UnreadableError


def _metadata(value: object) -> dict[str, bool | str]:
    if value is None:
        return {}
    if isinstance(value, dict) and all(
        isinstance(fact, bool) if flag in FLAGS else flag == COST_TIER and isinstance(fact, str)
        for flag, fact in value.items()
    ):
        return dict(value)
    raise _UnreadableError


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _UnreadableError


def _moment(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def person_of(value: object) -> PolicyEditor | None:
    """Return who created or changed a document, as far as that can be read."""
    if not isinstance(value, dict):
        return None
    return PolicyEditor(text_of(value.get("user_id")) or "", text_of(value.get("username")) or "")


def _is_about(row: dict[str, Any], tool: str) -> bool:
    try:
        return is_named(_texts(row.get("tools")), tool)
    except _UnreadableError:
        return True


def _about(owner_id: str) -> Doc:
    # An unreadable policy may apply to it too.
    of_all: Doc = {"owner_id": {"$not": {"$type": "objectId"}}}
    return {"$or": [{"owner_id": ObjectId(owner_id)}, of_all]}


def _naming(kind: SubjectType, subject_id: str) -> Doc:
    match kind:
        case SubjectType.EVERYONE:
            return {"everyone": True}
        case SubjectType.USER | SubjectType.GROUP:
            return {f"{kind.value}s": ObjectId(subject_id)}
        case SubjectType.ROLE | SubjectType.SCOPE:
            return {f"{kind.value}s": subject_id}
        case _:
            assert_never(kind)


def _query(owners: Collection[str | None] | None, narrowed: PolicyFilter) -> Doc:
    query: Doc = {}
    if narrowed.owner_id is not None:
        is_seen = owners is None or narrowed.owner_id in owners
        query["owner_id"] = ObjectId(narrowed.owner_id) if is_seen else {"$in": []}
    elif owners is not None:
        # A policy without a server is for all, and null matches that.
        ids = [None if owner_id is None else ObjectId(owner_id) for owner_id in owners]
        query["owner_id"] = {"$in": ids}
    if narrowed.effect is not None:
        query["effect"] = narrowed.effect.value
    if narrowed.is_enabled is not None:
        query["is_enabled"] = narrowed.is_enabled
    if narrowed.text:
        pattern = {"$regex": re.escape(narrowed.text), "$options": "i"}
        query["$or"] = [{name: pattern} for name in SEARCHED_FIELDS]
    if narrowed.subject is not None:
        query |= _naming(*narrowed.subject)
    if narrowed.applies_to is not None:
        return {"$and": [query, _about(narrowed.applies_to)]}
    return query


def stored_person(person: PolicyEditor | None) -> dict[str, str] | None:
    """Return a user as they are stored."""
    return None if person is None else {"user_id": person.user_id, "username": person.username}
