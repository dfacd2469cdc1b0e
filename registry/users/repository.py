"""Repository of `users` and `groups`, in the form of jarvis-api's models.

`registry.auth.repository` reads them for authentication. No index here makes email addresses
unique: jarvis-api has one, and an index of ours could refuse what jarvis-api may write.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.models import Group, User
from registry.auth.identity import Role, Tenants
from registry.auth.repository import of_tenants
from registry.auth.values import DirectoryPrincipal
from registry.core.paging import Page, PageRequest
from registry.users.values import GroupChange, GroupRecord, UserChange, UserRecord

PROVIDER = "registry"
"""`users.provider` of users created by this program, who have no password in jarvis-api."""

LOCAL_EMAIL = "admin@registry.invalid"
"""Email address of local mode's administrator. jarvis-api's model requires the dot after the @;
`.invalid` never receives mail (RFC 2606, 2)."""

FORMER_LOCAL_EMAIL = "admin@localhost"
"""The address that earlier releases stored."""

ADMIN_ROLES = ["ADMIN", "admin", "Admin"]

MONGOOSE: Mapping[str, Any] = {"__v": 0}
"""Version key that jarvis-api's library adds to the documents that it inserts."""


@translates_driver_errors
class UserRepository:
    """Users."""

    def __init__(self, database: Database) -> None:
        self._users = database.document(User)

    async def list_page(
        self, text: str | None, tenants: Tenants, page: PageRequest
    ) -> Page[UserRecord]:
        """Return one page of users whose names or email contain *text*, by email."""
        query = {**of_tenants(tenants), **_holding(text, ("name", "username", "email"))}
        found = self._users.find(query, projection_model=UserRecord)
        total = await found.count()
        rows = found.sort("email", "_id").skip(page.offset).limit(page.per_page)
        return Page(tuple(await rows.to_list()), total, page)

    async def get(self, user_id: str, tx: Transaction | None = None) -> UserRecord | None:
        """Return a user."""
        return await self._users.find_one(
            {"_id": ObjectId(user_id)}, projection_model=UserRecord, session=tx
        )

    async def several(
        self, user_ids: Iterable[str], tx: Transaction | None = None
    ) -> list[UserRecord]:
        """Return those of *user_ids* that exist."""
        query = {"_id": {"$in": [ObjectId(one) for one in user_ids]}}
        found = self._users.find(query, projection_model=UserRecord, session=tx)
        return await found.to_list()

    async def members(
        self, member_ids: Sequence[str], tenant_id: str | None
    ) -> list[DirectoryPrincipal]:
        """Return the users of a tenant with these member ids, by name."""
        by_source = {"idOnTheSource": {"$in": list(member_ids)}}
        ids = [ObjectId(one) for one in member_ids if ObjectId.is_valid(one)]
        found = [
            *await self._users.find(by_source, projection_model=UserRecord).to_list(),
            *await self._users.find({"_id": {"$in": ids}}, projection_model=UserRecord).to_list(),
        ]
        users = {record.id: record for record in found}
        listed = set(member_ids)
        return sorted(
            (
                DirectoryPrincipal(
                    "user", one.id, one.name or one.username, one.username, one.email
                )
                for one in users.values()
                if one.member_id in listed and one.tenant_id == tenant_id
            ),
            key=lambda person: (person.name.lower(), person.id),
        )

    async def taken(
        self,
        email: str | None,
        username: str | None,
        tenant_id: str | None,
        but: str | None,
        tx: Transaction,
    ) -> str | None:
        """Return which of the two another user of the tenant has: `email`, `username`, or None."""
        for field, value in (("email", email), ("username", username)):
            if not value:
                continue
            query = {field: value, **of_tenants(Tenants(tenant_id))}
            rows = self._users.find(query, projection_model=UserRecord, session=tx, limit=2)
            if any(one.id != but for one in await rows.to_list()):
                return field
        return None

    async def insert(
        self,
        *,
        name: str,
        username: str,
        email: str,
        role: Role,
        tenant_id: str | None,
        now: datetime,
        tx: Transaction,
    ) -> str:
        """Insert a user and return the id."""
        user = self._users(
            name=name,
            username=username,
            email=email,
            email_verified=True,
            provider=PROVIDER,
            role=role.value.upper(),
            tenant_id=tenant_id,
            created_at=now,
            updated_at=now,
            **MONGOOSE,
        )
        return str((await user.insert(session=tx)).id)

    async def update(
        self, user_id: str, change: UserChange, now: datetime, tx: Transaction
    ) -> None:
        """Update the given fields only."""
        written: Doc = {"updatedAt": now}
        for name in ("name", "username"):
            if (value := getattr(change, name)) is not None:
                written[name] = value
        if change.role is not None:
            written["role"] = change.role.value.upper()
        update: Doc = {"$set": written}
        if change.is_disabled:
            written["disabled"] = True
        elif change.is_disabled is not None:
            update["$unset"] = {"disabled": ""}
        await self._users.find_one({"_id": ObjectId(user_id)}).update(update, session=tx)

    async def ensure_local_administrator(self, now: datetime) -> str:
        """Create the administrator of local mode if there is none, and return the id."""
        former = {"email": FORMER_LOCAL_EMAIL, "provider": "local", "username": "admin"}
        await self._users.find_one(former).update(
            {"$set": {"email": LOCAL_EMAIL, "updatedAt": now}}
        )
        user = await self._users.get_pymongo_collection().find_one_and_update(
            {"email": LOCAL_EMAIL},
            {
                "$setOnInsert": {
                    "name": "Administrator",
                    "username": "admin",
                    "emailVerified": True,
                    "provider": "local",
                    "role": "ADMIN",
                    "createdAt": now,
                    "updatedAt": now,
                    "__v": 0,
                }
            },
            projection={"_id": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        assert user is not None  # noqa: S101 - an upsert always returns one
        return str(user["_id"])

    async def hold_administrators(
        self, tenant_id: str | None, now: datetime, tx: Transaction
    ) -> list[str]:
        """Return the ids of the enabled administrators who see a tenant.

        They are written to, so that a concurrent change of one of them conflicts with *tx*.
        """
        query: Doc = {
            "role": {"$in": ADMIN_ROLES},
            "disabled": {"$in": [False, None]},
            # Administrators without a tenant see all tenants.
            "tenantId": {"$in": list({None, "", tenant_id})},
        }
        found = await self._users.find(query, projection_model=UserRecord, session=tx).to_list()
        ids = [one.id for one in found]
        held = self._users.find({"_id": {"$in": [ObjectId(one) for one in ids]}})
        await held.update({"$set": {"updatedAt": now}}, session=tx)
        return ids


@translates_driver_errors
class GroupRepository:
    """Groups."""

    def __init__(self, database: Database) -> None:
        self._groups = database.document(Group)

    async def list_page(
        self, text: str | None, tenants: Tenants, page: PageRequest
    ) -> Page[GroupRecord]:
        """Return one page of groups whose names contain *text*, by name."""
        query = {**of_tenants(tenants), **_holding(text, ("name",))}
        found = self._groups.find(query, projection_model=GroupRecord)
        total = await found.count()
        rows = found.sort("name", "_id").skip(page.offset).limit(page.per_page)
        return Page(tuple(await rows.to_list()), total, page)

    async def get(self, group_id: str, tx: Transaction | None = None) -> GroupRecord | None:
        """Return a group."""
        return await self._groups.find_one(
            {"_id": ObjectId(group_id)}, projection_model=GroupRecord, session=tx
        )

    async def find(self, reference: str) -> list[GroupRecord]:
        """Return the groups with that id, or else that name."""
        if ObjectId.is_valid(reference):
            found = await self.get(reference)
            if found is not None:
                return [found]
        named = self._groups.find({"name": reference}, projection_model=GroupRecord)
        return await named.to_list()

    async def is_named(
        self, name: str, tenant_id: str | None, but: str | None, tx: Transaction
    ) -> bool:
        """Whether another group of the tenant has that name."""
        query = {"name": name, **of_tenants(Tenants(tenant_id))}
        rows = self._groups.find(query, projection_model=GroupRecord, session=tx, limit=2)
        return any(one.id != but for one in await rows.to_list())

    async def insert(
        self,
        name: str,
        description: str,
        member_ids: Sequence[str],
        tenant_id: str | None,
        now: datetime,
        tx: Transaction,
    ) -> str:
        """Insert a group and return the id."""
        group = self._groups(
            name=name,
            description=description or None,
            # No idOnTheSource, not even null: jarvis-api's unique index allows null only once.
            source="local",
            member_ids=list(member_ids),
            tenant_id=tenant_id,
            created_at=now,
            updated_at=now,
            **MONGOOSE,
        )
        return str((await group.insert(session=tx)).id)

    async def update(
        self,
        group_id: str,
        change: GroupChange,
        member_ids: Sequence[str],
        now: datetime,
        tx: Transaction,
    ) -> None:
        """Update the given fields, and the members."""
        written: Doc = {"updatedAt": now, "memberIds": list(member_ids)}
        for name in ("name", "description"):
            if (value := getattr(change, name)) is not None:
                written[name] = value
        group = self._groups.find_one({"_id": ObjectId(group_id)})
        await group.update({"$set": written}, session=tx)


def _holding(text: str | None, names: Iterable[str]) -> Doc:
    if not text:
        return {}
    pattern = {"$regex": re.escape(text), "$options": "i"}
    return {"$or": [{name: pattern} for name in names]}
