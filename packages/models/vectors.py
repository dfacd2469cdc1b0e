"""`embeddings`: vectors of texts, and the texts that wait for one. Ours alone.

A text's row is also the job of embedding it: whoever needs the vector inserts the row, and a
worker takes it. Rows hold nothing that cannot be made again.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import ASCENDING, IndexModel

UNUSED_SECONDS = 30 * 86_400
"""How long a vector is kept that no replica uses."""


class Embedding(Document):
    """The vector of a text, or the request for it. Its `_id` is a digest of model and text.

    Attributes:
        model: Id of the model.
        text: The text, until it is embedded: tools of private servers are nobody else's business.
        state: `error` if it failed at least once; it is tried again.
        vector: Numbers of two bytes (IEEE 754, little-endian), of length 1 together.
        attempts: How often a worker has begun.
        error: Why the last attempt failed.
        due_at: When a worker may take it, by the database's clock: for one that was taken, when
            its worker counts as dead. Absent once there is a vector.
        lease_id: Identifies the attempt; writes of an earlier one are refused.
        used_at: When a replica last used it, within a day; the database removes it later.
    """

    id: Annotated[str, Field(min_length=1)]  # type: ignore[assignment]  # a digest
    model: Annotated[str, Field(min_length=1)]
    state: Literal["pending", "ready", "error"]
    text: str | None = None
    vector: bytes | None = None
    attempts: Annotated[int, Field(ge=0)] = 0
    error: str | None = None
    due_at: datetime | None = None
    lease_id: PydanticObjectId | None = None
    used_at: datetime

    class Settings:
        """Where it is stored."""

        name = "embeddings"
        keep_nulls = False
        # A text without a time would never be embedded, and a vector is what it is about.
        rules: ClassVar[dict[str, Any]] = {
            "anyOf": [
                {"required": ["vector"], "properties": {"state": {"enum": ["ready"]}}},
                {
                    "required": ["text", "due_at"],
                    "properties": {"state": {"enum": ["pending", "error"]}},
                },
            ]
        }
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("due_at", ASCENDING)], sparse=True),
            IndexModel([("lease_id", ASCENDING)], sparse=True),
            IndexModel([("used_at", ASCENDING)], expireAfterSeconds=UNUSED_SECONDS),
        ]
