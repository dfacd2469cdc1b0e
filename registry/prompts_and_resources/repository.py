"""Repository of `mcp_features`. The only module that writes it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
import structlog
from bson import ObjectId
from pymongo import UpdateOne

from packages.database.changes import row_id
from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translated, translates_driver_errors
from packages.database.stored import id_of, text_of, whole_of
from packages.models.features import ServerFeature
from packages.models.states import FeatureKind
from registry.core.json import choice_of
from registry.prompts_and_resources.reconcile import FeatureChanges
from registry.prompts_and_resources.values import Feature, FeatureRow, PlacedFeature

log = structlog.get_logger()


@translates_driver_errors
class FeatureRepository:
    """Prompts, resources and resource templates of MCP servers."""

    def __init__(self, database: Database) -> None:
        self._features = database.document(ServerFeature)
        # For what concerns everything of a server: models and encoders would take longer than the
        # database.
        self._rows = self._features.get_pymongo_collection()

    async def stored(self, owner_id: str, tx: Transaction | None = None) -> list[PlacedFeature]:
        """Return what reconciliation needs of everything stored of one server."""
        rows = self._rows.find(
            {"owner_id": ObjectId(owner_id)},
            {"_id": 0, "kind": 1, "key": 1, "definition": 1, "position": 1},
            session=tx,
        )
        stored: list[PlacedFeature] = []
        async for row in rows:
            kind, key = choice_of(FeatureKind, row.get("kind")), text_of(row.get("key"))
            if kind is not None and key:
                # An unreadable row differs from what is offered, and is written again.
                position = whole_of(row.get("position"))
                feature = Feature(kind, key, text_of(row.get("definition")) or "")
                stored.append(PlacedFeature(feature, -1 if position is None else position))
        return stored

    async def rows(self, owner_ids: Sequence[str]) -> AsyncIterator[FeatureRow]:
        """Yield everything stored of several servers, in each one's order.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        query = {"owner_id": {"$in": [ObjectId(owner_id) for owner_id in owner_ids]}}
        fields = {"owner_id": 1, "kind": 1, "key": 1, "definition": 1}
        async with translated():
            rows = self._rows.find(query, fields, sort=[("position", 1), ("_id", 1)])
            async for row in rows:
                feature, owner_id = _feature(row), id_of(row["owner_id"])
                if feature is None or owner_id is None:
                    log.warning("feature_invalid", feature_id=str(row["_id"]), server_id=owner_id)
                else:
                    yield FeatureRow(row_id(row["_id"]), owner_id, feature)

    async def apply(
        self, owner_id: str, changes: FeatureChanges, now: datetime, tx: Transaction
    ) -> None:
        """Write *changes*; no changes, no write."""
        owner = ObjectId(owner_id)
        if changes.added:
            rows = [_row(owner, placed, now) for placed in changes.added]
            await self._rows.insert_many(rows, session=tx)
        updates = [_update(owner, placed, now) for placed in (*changes.changed, *changes.moved)]
        if updates:
            await self._rows.bulk_write(updates, session=tx)
        for kind in FeatureKind:
            gone = [key for its_kind, key in changes.removed if its_kind is kind]
            if gone:
                query: Doc = {"owner_id": owner, "kind": kind.value, "key": {"$in": gone}}
                await self._features.find(query).delete(session=tx)

    async def delete_of(self, owner_id: str, tx: Transaction) -> int:
        """Remove everything of one server; return the number of documents."""
        owned = self._features.find({"owner_id": ObjectId(owner_id)})
        removed = await owned.delete(session=tx)
        return 0 if removed is None else removed.deleted_count

    async def owner_ids(self) -> set[str]:
        """Return the ids of all owners."""
        found = await self._features.distinct("owner_id")
        return {one for stored in found if (one := id_of(stored)) is not None}


def _feature(row: Mapping[str, Any]) -> Feature | None:
    """Return a stored feature; None for one that clients could not parse."""
    kind, key = choice_of(FeatureKind, row.get("kind")), text_of(row.get("key"))
    definition = text_of(row.get("definition"))
    if kind is None or not key or definition is None:
        return None
    try:
        is_object = isinstance(orjson.loads(definition), dict)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        is_object = False
    return Feature(kind, key, definition) if is_object else None


def _row(owner: ObjectId, placed: PlacedFeature, now: datetime) -> Doc:
    feature = placed.feature
    return {
        "owner_id": owner,
        "kind": feature.kind.value,
        "key": feature.key,
        "definition": feature.definition,
        "position": placed.position,
        "last_synced_at": now,
    }


def _update(owner: ObjectId, placed: PlacedFeature, now: datetime) -> UpdateOne:
    feature = placed.feature
    return UpdateOne(
        {"owner_id": owner, "kind": feature.kind.value, "key": feature.key},
        {
            "$set": {
                "definition": feature.definition,
                "position": placed.position,
                "last_synced_at": now,
            }
        },
    )
