"""Reads and writes `aclentries`, which jarvis-api shares with us, and derives list filters.

Writers: this module and jarvis-api.
"""

from datetime import datetime
from typing import Any

from bson import ObjectId

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from registry.access.policy import OWNER, Grant, Permission, ServerScope
from registry.auth.identity import UserContext

RESOURCE_TYPE = "mcpServer"
OWNER_ROLE = "mcpServer_owner"
VIEWER_ROLE = "mcpServer_viewer"


@translates_driver_errors
class AclRepository:
    """Grants on servers."""

    def __init__(self, database: Database, *, admin_sees_private: bool) -> None:
        self._entries = database.collection("aclentries")
        self._roles = database.collection("accessroles")
        self._admin_sees_private = admin_sees_private

    async def grants_of(
        self, server_ids: list[str] | None, now: datetime
    ) -> dict[str, list[Grant]]:
        """Return the unexpired grants of the servers named, or of all, by server id."""
        query: Doc = {"resourceType": RESOURCE_TYPE, **_unexpired(now)}
        if server_ids is not None:
            query["resourceId"] = {"$in": [ObjectId(item) for item in server_ids]}
        grants: dict[str, list[Grant]] = {}
        async for entry in self._entries.find(query):
            grants.setdefault(str(entry["resourceId"]), []).append(_grant(entry))
        return grants

    async def visible_filter(self, user: UserContext, now: datetime) -> Doc:
        """Return the query over `mcpservers` that matches what *user* may see.

        The same rules as `policy.decide(user, VIEW, ...)`, so that totals and pages are right.
        """
        me = ObjectId(user.user_id)
        private = ServerScope.PRIVATE_USER.value
        if user.is_admin:
            if self._admin_sees_private:
                return {}
            return {"$or": [{"scope": {"$ne": private}}, {"author": me}]}
        shared_app = ServerScope.SHARED_APP.value
        rules: list[Doc] = [{"author": me}, {"scope": shared_app}]
        granted = await self._granted_ids(user, now)
        if granted:
            rules.append({"_id": {"$in": granted}, "scope": {"$nin": [private, shared_app]}})
        return {"$or": rules}

    async def grant_owner(
        self, server_id: str, author: str, now: datetime, tx: Transaction
    ) -> None:
        """Give *author* all rights, so that jarvis-api shows them the server at all."""
        await self._grant(
            {
                "principalType": "user",
                "principalId": ObjectId(author),
                "principalModel": "User",
                "resourceType": RESOURCE_TYPE,
                "resourceId": ObjectId(server_id),
            },
            OWNER,
            OWNER_ROLE,
            granted_by=author,
            now=now,
            tx=tx,
        )

    async def set_public(
        self, server_id: str, granted_by: str, now: datetime, tx: Transaction, *, public: bool
    ) -> None:
        """Let everyone see the server in the other application too, or end that."""
        key = {
            "principalType": "public",
            "resourceType": RESOURCE_TYPE,
            "resourceId": ObjectId(server_id),
        }
        if not public:
            await self._entries.delete_many(key, session=tx)
            return
        await self._grant(key, Permission.VIEW, VIEWER_ROLE, granted_by=granted_by, now=now, tx=tx)

    async def delete_of(self, server_id: str, tx: Transaction) -> None:
        """Remove all entries about a server."""
        await self._entries.delete_many(
            {"resourceType": RESOURCE_TYPE, "resourceId": ObjectId(server_id)}, session=tx
        )

    async def _grant(
        self,
        key: Doc,
        permissions: Permission,
        role: str,
        *,
        granted_by: str,
        now: datetime,
        tx: Transaction,
    ) -> None:
        stored_role = await self._roles.find_one({"accessRoleId": role}, {"_id": 1}, session=tx)
        values: Doc = {
            "permBits": permissions.value,
            "grantedBy": ObjectId(granted_by),
            "grantedAt": now,
            "updatedAt": now,
        }
        if stored_role is not None:
            values["roleId"] = stored_role["_id"]
        await self._entries.update_one(
            key,
            {"$set": values, "$setOnInsert": {"createdAt": now, "__v": 0}},
            upsert=True,
            session=tx,
        )

    async def _granted_ids(self, user: UserContext, now: datetime) -> list[ObjectId]:
        principals: list[Doc] = [
            {"principalType": "public"},
            {"principalType": "user", "principalId": ObjectId(user.user_id)},
            {"principalType": "role", "principalId": {"$in": [user.role, user.role.upper()]}},
        ]
        if user.groups:
            members = [ObjectId(group) for group in user.groups]
            principals.append({"principalType": "group", "principalId": {"$in": members}})
        entries = self._entries.find(
            {
                "resourceType": RESOURCE_TYPE,
                "permBits": {"$bitsAllSet": Permission.VIEW.value},
                "$and": [{"$or": principals}, _unexpired(now)],
            },
            {"resourceId": 1, "_id": 0},
        )
        return [entry["resourceId"] async for entry in entries]


def _unexpired(now: datetime) -> Doc:
    return {"$or": [{"expiredAt": {"$exists": False}}, {"expiredAt": {"$gt": now}}]}


def _grant(entry: dict[str, Any]) -> Grant:
    principal = entry.get("principalId")
    return Grant(
        principal_type=str(entry.get("principalType")),
        principal_id=None if principal is None else str(principal),
        permissions=Permission(int(entry.get("permBits") or 0) & OWNER.value),
        expires_at=entry.get("expiredAt"),
    )
