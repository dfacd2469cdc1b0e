"""Repository of users, groups, roles and revocations for authentication. Read only."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import structlog
from bson import ObjectId
from pydantic import Field, PlainValidator

from packages.database.client import Database, Doc
from packages.database.documents import read_all
from packages.database.errors import translates_driver_errors
from packages.database.stored import LATEST, Projection, RequiredId, StoredText, moment_of, text_of
from packages.models import Group, User
from packages.models.sessions import RevocationKind, RevokedToken
from registry.auth.identity import Tenants, tenant_of
from registry.auth.revocation import Revocation
from registry.auth.values import DirectoryEntry, DirectoryPrincipal
from registry.core.json import choice_of

log = structlog.get_logger()

USER, GROUP, ROLE = "user", "group", "role"
BUILT_IN_ROLES = ("ADMIN", "USER")
ADMIN_ROLES = ["ADMIN", "admin", "Admin"]


def of_tenants(tenants: Tenants, field: str = "tenantId") -> Doc:
    """Return the query for documents of *tenants*, which store the tenant in *field*."""
    if tenants.are_all:
        return {}
    return {field: {"$in": [None, ""]} if tenants.one is None else tenants.one}


def _is_set(stored: object) -> bool:
    # Any value but false disables: an odd one must not grant access.
    return stored is not None and stored is not False


TenantId = Annotated[str | None, PlainValidator(tenant_of), Field(alias="tenantId")]


class _StoredUser(Projection):
    """A user, as far as authentication and searches need it."""

    id: Annotated[RequiredId, Field(alias="_id")]
    role: StoredText = None
    name: StoredText = None
    username: StoredText = None
    email: StoredText = None
    source_id: Annotated[StoredText, Field(alias="idOnTheSource")] = None
    is_disabled: Annotated[bool, PlainValidator(_is_set), Field(alias="disabled")] = False
    tenant_id: TenantId = None

    @property
    def principal(self) -> DirectoryPrincipal:
        # Never the email address as the name: all callers see names.
        name = self.name or self.username or self.id
        return DirectoryPrincipal(USER, self.id, name, self.username or None, self.email or None)


class _StoredGroup(Projection):
    """A group, as it is shown to other users."""

    id: Annotated[RequiredId, Field(alias="_id")]
    name: StoredText = None
    email: StoredText = None
    tenant_id: TenantId = None

    @property
    def principal(self) -> DirectoryPrincipal:
        return DirectoryPrincipal(GROUP, self.id, self.name or self.id, None, self.email or None)


@translates_driver_errors
class DirectoryRepository:
    """Reads `users` and `groups`."""

    def __init__(self, database: Database) -> None:
        self._users = database.document(User)
        self._groups = database.document(Group)
        # No schema of it is published.
        self._roles = database.collection("roles")

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return a user's role, name and groups, or None if there is no such user.

        A group lists a member by `idOnTheSource`, or by id if the user has none, as in jarvis-api.
        An entry by the id of a user that has an `idOnTheSource` is not a membership; nor is one in
        a group of another tenant.
        """
        user = await self._users.find_one({"_id": ObjectId(user_id)}, projection_model=_StoredUser)
        if user is None:
            return None
        groups = self._groups.find(
            {"memberIds": user.source_id or user_id}, projection_model=_StoredGroup
        )
        return DirectoryEntry(
            role=user.role,
            username=user.username or "",
            groups=frozenset(
                [group.id for group in await read_all(groups) if group.tenant_id == user.tenant_id]
            ),
            is_disabled=user.is_disabled,
            tenant_id=user.tenant_id,
        )

    async def known(
        self, wanted: Iterable[tuple[str, str]], tenants: Tenants
    ) -> dict[tuple[str, str], DirectoryPrincipal]:
        """Return those of *wanted* (kind and id) that exist in *tenants*."""
        asked = list(wanted)
        found: list[DirectoryPrincipal] = []
        for kind, find in ((USER, self._found_users), (GROUP, self._found_groups)):
            ids = [ObjectId(key) for asked_kind, key in asked if asked_kind == kind]
            if ids:
                found += await find({"_id": {"$in": ids}, **of_tenants(tenants)})
        names = [key for kind, key in asked if kind == ROLE]
        if names:
            found += [role for role in await self._all_roles() if role.id in names]
        return {(person.kind, person.id): person for person in found}

    async def find_users(self, reference: str) -> list[DirectoryPrincipal]:
        """Return the users with that id, or else that email or username, ignoring case."""
        if ObjectId.is_valid(reference):
            people = await self._found_users({"_id": ObjectId(reference)})
            if people:
                return people
        folded = reference.strip().lower()
        for name in ("email", "username"):
            # Both applications store them in lower case.
            people = await self._found_users({name: folded})
            if folded and people:
                return people
        return []

    async def administrators(self) -> list[DirectoryPrincipal]:
        """Return the users whose stored role is administrator."""
        return await self._found_users({"role": {"$in": ADMIN_ROLES}})

    async def _found_users(self, query: Doc, limit: int = 0) -> list[DirectoryPrincipal]:
        found = self._users.find(query, projection_model=_StoredUser, limit=limit)
        return [user.principal for user in await read_all(found)]

    async def _found_groups(self, query: Doc, limit: int = 0) -> list[DirectoryPrincipal]:
        found = self._groups.find(query, projection_model=_StoredGroup, limit=limit)
        return [group.principal for group in await read_all(found)]

    async def search(
        self, text: str, kinds: Iterable[str], limit: int, *, by_email: bool, tenants: Tenants
    ) -> list[DirectoryPrincipal]:
        """Return up to *limit* principals whose names contain *text*; prefix matches first.

        Without *by_email* the result reveals nothing about email addresses. Only principals of
        *tenants* are found.
        """
        tenant = of_tenants(tenants)
        wanted = set(kinds)
        pattern = {"$regex": re.escape(text), "$options": "i"}
        found: list[DirectoryPrincipal] = []
        if USER in wanted:
            names = ("name", "username", *(("email",) if by_email else ()))
            query: Doc = {**tenant, "$or": [{name: pattern} for name in names]}
            found += await self._found_users(query, limit)
        names = ("name", *(("email",) if by_email else ()))
        if GROUP in wanted:
            query = {**tenant, "$or": [{name: pattern} for name in names]}
            found += await self._found_groups(query, limit)
        folded = text.lower()
        if ROLE in wanted:
            found += [role for role in await self._all_roles() if folded in role.id.lower()]
        found.sort(
            key=lambda person: (
                not _begins_with(person, folded, by_email=by_email),
                person.name.lower(),
            )
        )
        return found[:limit]

    async def _all_roles(self) -> list[DirectoryPrincipal]:
        rows = await self._roles.find({}, {"name": 1}).to_list()
        stored = [name for row in rows if (name := text_of(row.get("name")))]
        return [
            DirectoryPrincipal(ROLE, name, name)
            for name in dict.fromkeys((*BUILT_IN_ROLES, *stored))
        ]


@translates_driver_errors
class RevocationRepository:
    """Reads `revoked_tokens`, which `registry.tokens.families` writes."""

    def __init__(self, database: Database) -> None:
        # As they are stored: one that cannot be read must be reported.
        self._revoked = database.document(RevokedToken).get_pymongo_collection()

    async def unexpired(self, now: datetime) -> list[Revocation]:
        """Return all revocations that have not expired."""
        rows = self._revoked.find({"expires_at": {"$gt": now}})
        found = {str(row["_id"]): _revocation(row) async for row in rows}
        for key, revocation in found.items():
            if revocation is None:
                log.error("revocation_unreadable", revocation_id=key)
        return [revocation for revocation in found.values() if revocation is not None]

    async def unreadable(self) -> list[str]:
        """Return the ids of malformed documents."""
        rows = self._revoked.find({})
        return [str(row["_id"]) async for row in rows if _revocation(row) is None]


def _revocation(row: dict[str, Any]) -> Revocation | None:
    """Return a stored revocation; None if it is malformed.

    Without a time it refuses all tokens issued so far, and forever if it does not expire.
    """
    kind, subject = choice_of(RevocationKind, row.get("kind")), text_of(row.get("subject"))
    if kind is None or subject is None:
        return None
    revoked_at = moment_of(row.get("revoked_at")) or LATEST
    return Revocation(kind, subject, revoked_at, moment_of(row.get("expires_at")) or LATEST)


def _begins_with(person: DirectoryPrincipal, text: str, *, by_email: bool) -> bool:
    names = (person.name, person.username or "", (person.email or "") if by_email else "")
    return any(name.lower().startswith(text) for name in names)
