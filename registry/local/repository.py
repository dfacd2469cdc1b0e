"""The one user that a fresh local database needs. Elsewhere `users` belongs to jarvis-api."""

from datetime import datetime

from pymongo import ReturnDocument

from packages.database.client import Database
from packages.database.errors import translates_driver_errors

ADMIN_EMAIL = "admin@localhost"


@translates_driver_errors
class LocalUserRepository:
    """Users of a local database."""

    def __init__(self, database: Database) -> None:
        self._users = database.collection("users")

    async def ensure_admin(self, now: datetime) -> str:
        """Create the administrator if there is none and return the id."""
        user = await self._users.find_one_and_update(
            {"email": ADMIN_EMAIL},
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
