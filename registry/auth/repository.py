"""Repository of users, groups, roles and revocations for authentication. Read only."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog
from bson import ObjectId

from packages.database.client import Database, Doc
from packages.database.errors import translates_driver_errors
from packages.database.stored import LATEST, id_of, moment_of, text_of
from packages.models.sessions import RevokedToken
from registry.auth.identity import Tenants, tenant_of
from registry.auth.revocation import Revocation, RevocationKind
from registry.auth.values import DirectoryEntry, DirectoryPrincipal
from registry.core.json import choice_of

log = structlog.get_logger()

USER, GROUP, ROLE = "user", "group", "role"
BUILT_IN_ROLES = ("ADMIN", "USER")
ADMIN_ROLES = ["ADMIN", "admin", "Admin"]
USER_FIELDS = {"name": 1, "username": 1, "email": 1}
GROUP_FIELDS = {"name": 1, "email": 1}
ENTRY_FIELDS = {"role": 1, "username": 1, "idOnTheSource": 1, "disabled": 1, "tenantId": 1}


def of_tenants(tenants: Tenants, field: str = "tenantId") -> Doc:
    """Return the query for documents of *tenants*, which store the tenant in *field*."""
    if tenants.are_all:
        return {}
    return {field: {"$in": [None, ""]} if tenants.one is None else tenants.one}


@translates_driver_errors
class DirectoryRepository:
    """Reads `users` and `groups`."""

    def __init__(self, database: Database) -> None:
        self._users = database.collection("users")
        self._groups = database.collection("groups")
        self._roles = database.collection("roles")

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return a user's role, name and groups, or None if there is no such user.

        A group lists a member by `idOnTheSource`, or by id if the user has none, as in jarvis-api.
        An entry by the id of a user that has an `idOnTheSource` is not a membership; nor is one in
        a group of another tenant.
        """
        user = await self._users.find_one({"_id": ObjectId(user_id)}, ENTRY_FIELDS)
        if user is None:
            return None
        source_id = user.get("idOnTheSource")
        member_id = source_id if isinstance(source_id, str) and source_id else user_id
        tenant_id = tenant_of(user.get("tenantId"))
        groups = self._groups.find({"memberIds": member_id}, {"_id": 1, "tenantId": 1})
        stored_role, disabled = user.get("role"), user.get("disabled")
        return DirectoryEntry(
            role=stored_role if isinstance(stored_role, str) else None,
            username=text_of(user.get("username")) or "",
            groups=frozenset(
                [
                    str(group["_id"])
                    async for group in groups
                    if isinstance(group["_id"], ObjectId)
                    and tenant_of(group.get("tenantId")) == tenant_id
                ]
            ),
            # Any other stored value must not grant access.
            is_disabled=disabled is not None and disabled is not False,
            tenant_id=tenant_id,
        )

    async def known(
        self, wanted: Iterable[tuple[str, str]], tenants: Tenants
    ) -> dict[tuple[str, str], DirectoryPrincipal]:
        """Return those of *wanted* (kind and id) that exist in *tenants*."""
        asked = list(wanted)
        found: list[DirectoryPrincipal] = []
        for kind, rows, fields in (
            (USER, self._users, USER_FIELDS),
            (GROUP, self._groups, GROUP_FIELDS),
        ):
            ids = [ObjectId(key) for asked_kind, key in asked if asked_kind == kind]
            if ids:
                cursor = rows.find({"_id": {"$in": ids}, **of_tenants(tenants)}, fields)
                found += _people(kind, await cursor.to_list())
        names = [key for kind, key in asked if kind == ROLE]
        if names:
            found += [role for role in await self._all_roles() if role.id in names]
        return {(person.kind, person.id): person for person in found}

    async def find_users(self, reference: str) -> list[DirectoryPrincipal]:
        """Return the users with that id, or else that email or username, ignoring case."""
        if ObjectId.is_valid(reference):
            row = await self._users.find_one({"_id": ObjectId(reference)}, USER_FIELDS)
            if row is not None:
                return _people(USER, [row])
        folded = reference.strip().lower()
        for name in ("email", "username"):
            # Both applications store them in lower case.
            rows = await self._users.find({name: folded}, USER_FIELDS).to_list()
            if folded and rows:
                return _people(USER, rows)
        return []

    async def administrators(self) -> list[DirectoryPrincipal]:
        """Return the users whose stored role is administrator."""
        rows = await self._users.find({"role": {"$in": ADMIN_ROLES}}, USER_FIELDS).to_list()
        return _people(USER, rows)

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
            rows = self._users.find(query, USER_FIELDS, limit=limit)
            found += _people(USER, await rows.to_list())
        names = ("name", *(("email",) if by_email else ()))
        if GROUP in wanted:
            query = {**tenant, "$or": [{name: pattern} for name in names]}
            rows = self._groups.find(query, GROUP_FIELDS, limit=limit)
            found += _people(GROUP, await rows.to_list())
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
        self._revoked = database.collection(RevokedToken.Settings.name)

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


def _people(kind: str, rows: Iterable[dict[str, Any]]) -> list[DirectoryPrincipal]:
    return [person for row in rows if (person := _person(kind, row)) is not None]


def _person(kind: str, row: dict[str, Any]) -> DirectoryPrincipal | None:
    """Return a stored user or group; None if its id is malformed."""
    key = id_of(row["_id"])
    if key is None:
        return None
    username, email = text_of(row.get("username")) or None, text_of(row.get("email")) or None
    # Never the email address: all callers see names.
    name = text_of(row.get("name")) or username or key
    return DirectoryPrincipal(kind, key, name, username, email)


def _begins_with(person: DirectoryPrincipal, text: str, *, by_email: bool) -> bool:
    names = (person.name, person.username or "", (person.email or "") if by_email else "")
    return any(name.lower().startswith(text) for name in names)
