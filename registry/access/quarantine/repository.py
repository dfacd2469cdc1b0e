"""Repository of `quarantines`. The only module that writes it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from bson import ObjectId

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import matched
from packages.database.errors import translates_driver_errors
from packages.database.stored import moment_of, text_of
from packages.models.quarantine import QuarantineDocument
from packages.models.states import QuarantineKind
from registry.access.policies.repository import person_of, stored_person
from registry.access.policies.values import PolicyEditor
from registry.access.quarantine.values import NewQuarantine, Quarantine
from registry.auth.identity import tenant_of
from registry.core.json import choice_of

log = structlog.get_logger()

MAX_LISTED = 500


@translates_driver_errors
class QuarantineRepository:
    """Stores quarantines."""

    def __init__(self, database: Database) -> None:
        self._documents = database.document(QuarantineDocument)
        self._rows = self._documents.get_pymongo_collection()

    async def unlifted(self) -> Sequence[Quarantine]:
        """Return all that nobody has lifted; unreadable ones are logged."""
        rows = self._rows.find({"lifted_at": {"$exists": False}})
        found = []
        async for row in rows:
            quarantine = _quarantine(row)
            if quarantine is None:
                log.error("quarantine_unreadable", quarantine_id=str(row["_id"]))
            else:
                found.append(quarantine)
        return found

    async def latest(self) -> list[Quarantine]:
        """Return the newest quarantines, lifted and expired ones included."""
        rows = self._rows.find({}, sort=[("created_at", -1)], limit=MAX_LISTED)
        found = [_quarantine(row) async for row in rows]
        return [one for one in found if one is not None]

    async def get(self, quarantine_id: str) -> Quarantine | None:
        """Return one; None if there is none, or it cannot be read."""
        row = await self._rows.find_one({"_id": ObjectId(quarantine_id)})
        return None if row is None else _quarantine(row)

    async def insert(
        self,
        new: NewQuarantine,
        name: str,
        tenant_id: str | None,
        person: PolicyEditor,
        now: datetime,
        tx: Transaction,
    ) -> Quarantine:
        """Store a new one."""
        quarantine_id = ObjectId()
        document = self._documents(
            id=quarantine_id,
            kind=new.kind,
            subject=new.subject,
            tool=new.tool,
            name=name,
            reason=new.reason,
            ends_calls=new.ends_calls,
            tenant_id=tenant_id,
            created_at=now,
            created_by=stored_person(person) or {},
            updated_at=now,
            expires_at=new.expires_at,
        )
        await document.insert(session=tx)
        return Quarantine(
            str(quarantine_id),
            new.kind,
            new.subject,
            name,
            new.reason,
            now,
            person,
            new.tool,
            new.ends_calls,
            tenant_id,
            new.expires_at,
        )

    async def lift(
        self, quarantine_id: str, person: PolicyEditor, now: datetime, tx: Transaction
    ) -> bool:
        """End one; return False if that was done already."""
        found = self._documents.find_one(
            {"_id": ObjectId(quarantine_id), "lifted_at": {"$exists": False}}
        )
        changes: Doc = {"lifted_at": now, "lifted_by": stored_person(person), "updated_at": now}
        return await matched(found.update({"$set": changes}, session=tx)) == 1


def _quarantine(row: dict[str, Any]) -> Quarantine | None:
    kind, subject = choice_of(QuarantineKind, row.get("kind")), text_of(row.get("subject"))
    created_at = moment_of(row.get("created_at"))
    if kind is None or not subject or created_at is None:
        return None
    return Quarantine(
        str(row["_id"]),
        kind,
        subject,
        text_of(row.get("name")) or subject,
        text_of(row.get("reason")) or "",
        created_at,
        person_of(row.get("created_by")),
        text_of(row.get("tool")),
        row.get("ends_calls") is True,
        tenant_of(row.get("tenant_id")),
        # One that cannot be read does not end by itself.
        moment_of(row.get("expires_at")),
        moment_of(row.get("lifted_at")),
        person_of(row.get("lifted_by")),
    )
