"""Repository of `embeddings`. The only module that writes them.

Due times are the database's, so that replicas whose clocks differ agree on them. Every write names
the lease that it is made under, so what a worker that counts as dead still sends changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from packages.database.client import Database, Doc
from packages.database.errors import DUPLICATE_KEY, translates_driver_errors
from packages.database.server_time import ServerTime
from packages.database.slices import slices
from packages.database.stored import moment_of, text_of, whole_of
from packages.models.vectors import Embedding
from registry.core.clock import Clock
from registry.search.embedding.composition import from_stored
from registry.search.ports import Vector

READ_AT_ONCE = 500
"""Vectors of one query: less than half a megabyte."""

USED_SECONDS = 86_400
"""How exactly it is recorded when a vector was last used."""

ERROR_CHARACTERS = 200

FIRST_BACKOFF_SECONDS = 5
LONGEST_BACKOFF_SECONDS = 900


def backoff_seconds(attempts: int) -> int:
    """Return the pause after so many failed attempts."""
    return int(min(FIRST_BACKOFF_SECONDS * 2 ** max(attempts - 1, 0), LONGEST_BACKOFF_SECONDS))


class StoredEmbedding(NamedTuple):
    """What is stored of a text.

    Attributes:
        vector: None while it is not there.
        error: Why the last attempt failed.
    """

    vector: Vector | None
    error: str | None


class PendingText(NamedTuple):
    """A text that a worker has taken.

    Attributes:
        attempts: With this one.
    """

    digest: str
    text: str
    attempts: int


@translates_driver_errors
class EmbeddingRepository:
    """Keeps vectors by the digests of their texts, and the texts that wait.

    Args:
        database: Holds them.
        clock: For databases that do not tell their time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._rows = database.document(Embedding).get_pymongo_collection()
        self._time = ServerTime(database, now=clock.now, monotonic=clock.monotonic)

    async def find(
        self, digests: Collection[str], *, dimensions: int
    ) -> dict[str, StoredEmbedding]:
        """Return what is stored of some texts. Vectors that cannot be read are left out."""
        found: dict[str, StoredEmbedding] = {}
        shown = {"vector": 1, "state": 1, "error": 1}
        for some in slices(list(digests), READ_AT_ONCE):
            for row in await self._rows.find({"_id": {"$in": some}}, shown).to_list():
                vector = from_stored(row.get("vector"), dimensions)
                if vector is not None or row.get("state") != "ready":
                    error = text_of(row.get("error")) if row.get("state") == "error" else None
                    found[row["_id"]] = StoredEmbedding(vector, error)
        return found

    async def request(self, model: str, texts: Mapping[str, str]) -> None:
        """Have texts embedded, by digest. Those that are stored already stay as they are.

        What is stored as a vector and is none, because another program changed it, is embedded
        again.
        """
        now = await self._time.now()
        for some in slices(list(texts), READ_AT_ONCE):
            new = [
                {
                    "_id": digest,
                    "model": model,
                    "text": texts[digest],
                    "state": "pending",
                    "attempts": 0,
                    "due_at": now,
                    "used_at": now,
                }
                for digest in some
            ]
            try:
                await self._rows.insert_many(new, ordered=False)
            except BulkWriteError as exc:
                errors = exc.details["writeErrors"]
                if any(one["code"] != DUPLICATE_KEY for one in errors):
                    raise
                taken = [new[one["index"]] for one in errors]
                await self._rows.bulk_write(
                    [
                        UpdateOne(
                            {"_id": row["_id"], "state": "ready"},
                            {
                                "$set": {
                                    name: row[name]
                                    for name in ("text", "state", "due_at", "attempts")
                                },
                                "$unset": {"vector": ""},
                            },
                        )
                        for row in taken
                    ],
                    ordered=False,
                )

    async def claim(self, model: str, most: int, lease_seconds: float) -> "Claim | None":
        """Take texts that are due, including those of workers that died; None if none is.

        A text that failed before is taken alone, so that it can fail no other.
        """
        now = await self._time.now()
        due = {"model": model, "due_at": {"$lte": now}}
        rows = await self._rows.find(due, {"attempts": 1}).sort("due_at", 1).to_list(most)
        if not rows:
            return None
        fresh = [row["_id"] for row in rows if not row.get("attempts")]
        chosen = fresh or [rows[0]["_id"]]
        lease = ObjectId()
        await self._rows.update_many(
            {"_id": {"$in": chosen}, **due},
            {
                "$set": {"lease_id": lease, "due_at": now + timedelta(seconds=lease_seconds)},
                "$inc": {"attempts": 1},
            },
        )
        taken = await self._rows.find({"lease_id": lease}, {"text": 1, "attempts": 1}).to_list()
        texts = [
            PendingText(row["_id"], text_of(row.get("text")) or "", whole_of(row["attempts"]) or 1)
            for row in taken
        ]
        return Claim(lease, texts)

    async def store(self, claim: "Claim", vectors: Mapping[str, bytes]) -> int:
        """Store vectors of texts that are still leased; return of how many, in one command."""
        now = await self._time.now()
        gone = dict.fromkeys(("text", "due_at", "lease_id", "error"), "")
        result = await self._rows.bulk_write(
            [
                UpdateOne(
                    {"_id": digest, "lease_id": claim.lease},
                    {"$set": {"state": "ready", "vector": vector, "used_at": now}, "$unset": gone},
                )
                for digest, vector in vectors.items()
            ],
            ordered=False,
        )
        return result.matched_count

    async def fail(self, claim: "Claim", problem: str) -> None:
        """Record that the texts of a claim could not be embedded; each is due after a pause."""
        now = await self._time.now()
        await self._rows.bulk_write(
            [
                UpdateOne(
                    {"_id": one.digest, "lease_id": claim.lease},
                    {
                        "$set": {
                            "state": "error",
                            "error": problem[:ERROR_CHARACTERS],
                            "due_at": now + timedelta(seconds=backoff_seconds(one.attempts)),
                        },
                        "$unset": {"lease_id": ""},
                    },
                )
                for one in claim.texts
            ],
            ordered=False,
        )

    async def release(self, claim: "Claim") -> None:
        """Give back texts that were not tried."""
        now = await self._time.now()
        await self._rows.update_many(
            {"lease_id": claim.lease},
            {"$set": {"due_at": now}, "$unset": {"lease_id": ""}, "$inc": {"attempts": -1}},
        )

    async def touch(self, digests: Collection[str]) -> None:
        """Record that vectors are used; writes each at most once a day."""
        now = await self._time.now()
        for some in slices(list(digests), READ_AT_ONCE):
            before = now - timedelta(seconds=USED_SECONDS)
            await self._rows.update_many(
                {"_id": {"$in": some}, "used_at": {"$lt": before}}, {"$set": {"used_at": now}}
            )

    async def next_due_seconds(self, model: str) -> float | None:
        """Return the time until the next text is due; None if none waits."""
        row: Doc | None = await self._rows.find_one(
            {"model": model, "due_at": {"$exists": True}}, {"due_at": 1}, sort=[("due_at", 1)]
        )
        if row is None:
            return None
        due_at = moment_of(row["due_at"])
        if due_at is None:
            return None
        return max(0.0, (due_at - await self._time.now()).total_seconds())


class Claim(NamedTuple):
    """Texts that a worker has taken until its lease ends."""

    lease: ObjectId
    texts: Sequence[PendingText]
