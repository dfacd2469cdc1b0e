"""Types and defaults that the generated models use."""

from datetime import UTC, datetime
from typing import Annotated

from beanie import PydanticObjectId
from pydantic import BeforeValidator


def _reject_null(value: object) -> object:
    # PydanticObjectId(None) creates a new id, which would turn a missing author into a random one.
    if value is None:
        raise ValueError("an ObjectId is required")
    return value


ObjectIdField = Annotated[PydanticObjectId, BeforeValidator(_reject_null)]
"""A reference to another document. Text of 24 hexadecimal digits is taken as its id."""


def now() -> datetime:
    """Return the current time in UTC, cut to the milliseconds that MongoDB keeps."""
    moment = datetime.now(UTC)  # noqa: TID251 - registry.core.clock lies above this package
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
