"""Repository of `aclentries`, which is shared with jarvis-api.

Writers: this module and jarvis-api.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from bson import ObjectId
from pydantic import Field
from pymongo import UpdateMany

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all
from packages.database.errors import translates_driver_errors
from packages.database.stored import Projection, RequiredId, id_of, moment_of
from packages.models import AccessRole as AccessRoleDocument
from packages.models import AclEntry
from registry.access.policy import (
    ALL_BITS,
    NO_BITS,
    Grant,
    Permission,
    PrincipalType,
    ServerScope,
)
from registry.access.ports import SERVER_TYPE
from registry.access.sharing import PUBLIC, AccessRole, Entry, Principal
from registry.auth.identity import tenant_of
from registry.core.json import choice_of


@translates_driver_errors
class AclRepository:
    """Grants on resources of one type, which are servers unless said otherwise.

    Args:
        resource_type: `ports.SERVER_TYPE` or `ports.TOOLSET_TYPE`.
    """

    def __init__(self, database: Database, resource_type: str = SERVER_TYPE) -> None:
        self._type = resource_type
        self._entries = database.document(AclEntry)
        # Entries are read as they are stored: any value that is odd must grant nothing.
        self._rows = self._entries.get_pymongo_collection()
        self._roles = database.document(AccessRoleDocument)

    async def grants_of(
        self, server_ids: list[str] | None, now: datetime, tx: Transaction | None = None
    ) -> dict[str, list[Grant]]:
        """Return the unexpired grants of the servers named, or of all, by server id."""
        query: Doc = {"resourceType": self._type}
        if server_ids is not None:
            query["resourceId"] = {"$in": [ObjectId(item) for item in server_ids]}
        grants: dict[str, list[Grant]] = {}
        async for entry in self._rows.find(query, session=tx):
            grant = _grant(entry)
            if isinstance(entry.get("resourceId"), ObjectId) and not _has_expired(grant, now):
                grants.setdefault(str(entry["resourceId"]), []).append(grant)
        return grants

    async def entries_of(
        self, server_id: str, tenant_id: str | None, tx: Transaction | None = None
    ) -> list[Entry]:
        """Return all entries about a server of a tenant, including expired ones.

        Entries of another tenant are left out, as in `Grants.of`.
        """
        rows = self._rows.find(self._about(server_id), session=tx)
        return [
            entry
            async for row in rows
            if tenant_of(row.get("tenantId")) in {None, tenant_id}
            and (entry := _entry(row)) is not None
        ]

    async def follow_scope(
        self,
        server_id: str,
        author: str,
        scope: ServerScope,
        *,
        tenant_id: str | None,
        granted_by: str,
        now: datetime,
        tx: Transaction,
        is_new: bool = False,
    ) -> None:
        """Write the entries that express *scope*.

        The author of a new or private server gets all rights: without an entry jarvis-api would
        not show them the server at all.
        """
        owner = Principal(PrincipalType.USER, author)
        if scope is ServerScope.PRIVATE_USER and not is_new:
            others: Doc = {
                "$or": [
                    {"principalType": {"$ne": PrincipalType.USER.value}},
                    {"principalId": {"$ne": ObjectId(author)}},
                ]
            }
            await self._entries.find({**self._about(server_id), **others}).delete(session=tx)
        if is_new or scope is ServerScope.PRIVATE_USER:
            entry = Entry(owner, ALL_BITS)
            await self.put(server_id, tenant_id, [entry], granted_by, now, tx)
        if scope is ServerScope.SHARED_APP:
            seen = Entry(PUBLIC, AccessRole.VIEWER.bits)
            await self.put(server_id, tenant_id, [seen], granted_by, now, tx)
        elif scope is ServerScope.SHARED_USER and not is_new:
            await self.remove(server_id, PUBLIC, tx)

    async def put(
        self,
        server_id: str,
        tenant_id: str | None,
        entries: Sequence[Entry],
        granted_by: str,
        now: datetime,
        tx: Transaction,
    ) -> None:
        """Replace the stored entries of the same principals.

        They carry the server's tenant: jarvis-api reads only those of its user's tenant.
        """
        if not entries:
            return
        names = [f"{self._type}_{role.value}" for role in AccessRole]
        query: Doc = {"accessRoleId": {"$in": names}}
        roles = self._roles.find(query, projection_model=_StoredRole, session=tx)
        role_ids = {role.name: ObjectId(role.id) for role in await read_all(roles)}
        by: Doc = {"grantedBy": ObjectId(granted_by), "grantedAt": now, "updatedAt": now}
        if tenant_id is not None:
            by["tenantId"] = tenant_id
        # The other application may have written two entries for one principal.
        writes = [
            UpdateMany(
                self._key(server_id, entry.principal),
                _written(entry, by, role_ids, self._type),
                upsert=True,
            )
            for entry in entries
        ]
        await self._rows.bulk_write(writes, session=tx)

    async def remove(self, server_id: str, principal: Principal, tx: Transaction) -> None:
        """Remove the entries of a principal."""
        await self._entries.find(self._key(server_id, principal)).delete(session=tx)

    async def delete_of(self, server_id: str, tx: Transaction) -> int:
        """Remove all entries about a server; return how many there were."""
        result = await self._entries.find(self._about(server_id)).delete(session=tx)
        return 0 if result is None else result.deleted_count

    def _about(self, resource_id: str) -> Doc:
        return {"resourceType": self._type, "resourceId": ObjectId(resource_id)}

    def _key(self, resource_id: str, principal: Principal) -> Doc:
        key: Doc = {**self._about(resource_id), "principalType": principal.type.value}
        if principal.id is not None:
            is_role = principal.type is PrincipalType.ROLE
            key["principalId"] = principal.id if is_role else ObjectId(principal.id)
        return key


class _StoredRole(Projection):
    """A role of jarvis-api that entries name."""

    id: Annotated[RequiredId, Field(alias="_id")]
    name: Annotated[str, Field(alias="accessRoleId", strict=True)]


MAX_BITS = 31
"""All rights of jarvis-api: ours, and `VIEW_INSIGHTS`, which has no meaning here."""

UNKNOWN = "unknown"
"""Kind of principals that entries name in unknown ways: no caller is one."""

ENDED = datetime(1970, 1, 1, tzinfo=UTC)
"""Expiry of an entry whose stored expiry is not a time."""


def _written(entry: Entry, by: Doc, role_ids: Mapping[str, ObjectId], resource_type: str) -> Doc:
    """Return the update that makes a stored entry equal to *entry*."""
    values: Doc = {**by, "permBits": entry.bits}
    unset: Doc = {} if "tenantId" in by else {"tenantId": ""}
    if entry.principal.id is not None:
        values["principalModel"] = entry.principal.type.value.capitalize()
    role = "" if entry.role is None else f"{resource_type}_{entry.role.value}"
    if role in role_ids:
        values["roleId"] = role_ids[role]
    else:
        unset["roleId"] = ""
    if entry.expires_at is None:
        unset["expiredAt"] = ""
    else:
        values["expiredAt"] = entry.expires_at
    changes: Doc = {"$set": values, "$setOnInsert": {"createdAt": by["updatedAt"], "__v": 0}}
    return {**changes, "$unset": unset} if unset else changes


def _entry(row: dict[str, Any]) -> Entry | None:
    """Read a stored entry; None if it names no principal."""
    principal, by = row.get("principalId"), row.get("grantedBy")
    kind = _kind(row)
    if kind is None:
        return None
    return Entry(
        principal=PUBLIC if kind is PrincipalType.PUBLIC else Principal(kind, str(principal)),
        bits=_bits(row.get("permBits")),
        expires_at=_end(row.get("expiredAt")),
        granted_by=id_of(by),
        granted_at=moment_of(row.get("grantedAt")),
    )


def _kind(row: dict[str, Any]) -> PrincipalType | None:
    """Return the kind of principal that an entry names in that kind's form, or None."""
    kind = choice_of(PrincipalType, row.get("principalType"))
    match kind:
        case PrincipalType.PUBLIC | None:
            return kind
        case PrincipalType.ROLE:
            return kind if isinstance(row.get("principalId"), str) else None
        case _:
            # Lists would not find it by an id of another type.
            return kind if isinstance(row.get("principalId"), ObjectId) else None


def _bits(stored: object) -> int:
    # Other programs write here too, some of them all numbers as floats. Any value that is not a
    # non-negative integer grants nothing.
    if isinstance(stored, float) and stored.is_integer():
        stored = int(stored)
    # Above the highest right, no query of the other application finds an entry.
    if not isinstance(stored, int) or not 0 < stored <= MAX_BITS:
        return NO_BITS
    return stored & ALL_BITS


def _end(stored: object) -> datetime | None:
    return None if stored is None else moment_of(stored) or ENDED


def _has_expired(grant: Grant, now: datetime) -> bool:
    # Filtered here and not by the database: an alternative in a query keeps compatible servers
    # from using an index for the rest of it.
    return grant.expires_at is not None and grant.expires_at <= now


def _grant(entry: dict[str, Any]) -> Grant:
    principal = entry.get("principalId")
    return Grant(
        principal_type=_kind(entry) or UNKNOWN,
        principal_id=None if principal is None else str(principal),
        permissions=Permission(_bits(entry.get("permBits"))),
        expires_at=_end(entry.get("expiredAt")),
        entry_id=str(entry["_id"]) if "_id" in entry else None,
        tenant_id=tenant_of(entry.get("tenantId")),
    )
