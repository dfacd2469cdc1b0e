"""Reads users and groups, which jarvis-api manages, and what is revoked. Writes nothing."""

from datetime import datetime

from bson import ObjectId

from packages.database.client import Database
from packages.database.errors import translates_driver_errors
from packages.models.sessions import RevokedToken
from registry.auth.revocation import Revocation, RevocationKind
from registry.auth.values import DirectoryEntry


@translates_driver_errors
class DirectoryRepository:
    """Looks people up in `users` and `groups`."""

    def __init__(self, database: Database) -> None:
        self._users = database.collection("users")
        self._groups = database.collection("groups")

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return a user's role, name and groups, or None when there is no such user.

        A group lists its members by `idOnTheSource`, or by the id where a user has none.
        """
        user = await self._users.find_one(
            {"_id": ObjectId(user_id)}, {"role": 1, "username": 1, "idOnTheSource": 1}
        )
        if user is None:
            return None
        source_id = user.get("idOnTheSource")
        members = [user_id] if not isinstance(source_id, str) else [source_id, user_id]
        groups = self._groups.find({"memberIds": {"$in": members}}, {"_id": 1})
        stored_role = user.get("role")
        return DirectoryEntry(
            role=stored_role if isinstance(stored_role, str) else None,
            username=str(user.get("username") or ""),
            groups=frozenset([str(group["_id"]) async for group in groups]),
        )


@translates_driver_errors
class RevocationRepository:
    """Reads `revoked_tokens`, which `registry.tokens.families` writes."""

    def __init__(self, database: Database) -> None:
        self._revoked = database.collection(RevokedToken.Settings.name)

    async def unexpired(self, now: datetime) -> list[Revocation]:
        """Return everything that still refuses something."""
        rows = self._revoked.find({"expires_at": {"$gt": now}})
        return [
            Revocation(
                RevocationKind(row["kind"]), row["subject"], row["revoked_at"], row["expires_at"]
            )
            async for row in rows
        ]
