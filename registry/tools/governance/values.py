"""Values about decisions on tools, shared by several modules."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from bson import ObjectId
from pydantic import Field, PlainValidator, ValidationInfo

from packages.database.stored import (
    NotJsonError,
    Projection,
    StoredId,
    StoredText,
    StoredTime,
    StoredWhole,
    TextOrEmpty,
    WholeOrZero,
    json_of,
    moment_of,
)
from packages.models.states import ExposureState, RegistrationState
from registry.core.json import JsonObject, members
from registry.tools.documents import json_text_of


def person_of(stored: object) -> Mapping[str, str] | None:
    """Return the user named in a stored object, or None."""
    named = {name: one for name, one in members(stored).items() if isinstance(one, str)}
    return named or None


def _changes(stored: object) -> Iterator[JsonObject]:
    for change in stored if isinstance(stored, list | tuple) else ():
        with suppress(NotJsonError):
            yield members(json_of(change))


def _created(stored: object, info: ValidationInfo) -> datetime:
    # Another program may store a version without this time; its id holds one too.
    return moment_of(stored) or ObjectId(info.data.get("id")).generation_time


Person = Annotated[Mapping[str, str] | None, PlainValidator(person_of)]


class ToolVersionRecord(Projection):
    """One version.

    Attributes:
        changes: The differences from the version *compared_with*, the greatest weight first.
    """

    id: Annotated[StoredId, Field(alias="_id")] = None
    version: WholeOrZero = 0
    state: TextOrEmpty = ""
    origin: TextOrEmpty = ""
    discovery_hash: TextOrEmpty = ""
    definition: Annotated[str, PlainValidator(lambda stored: json_text_of(stored) or "{}")] = "{}"
    weight: StoredText = None
    compatibility: StoredText = None
    changes: Annotated[
        tuple[JsonObject, ...], PlainValidator(lambda stored: tuple(_changes(stored)))
    ] = ()
    compared_with: StoredWhole = None
    created_at: Annotated[datetime, PlainValidator(_created)] = Field(
        default=None, validate_default=True
    )
    created_by: Person = None
    decided_at: StoredTime = None
    decided_by: Person = None


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Filter of a list of tools.

    Attributes:
        reviews: Only tools in the review queue for one of these reasons, see `review_of`; empty
            for all.
        flags: Flags of `metadata` and their values.
        tags: The tool has all of them.
        text: Searched in names, titles, descriptions and tags.
        with_stale: Also tools that their server no longer offers.
        with_disabled: Also disabled or deleted tools.
    """

    owner_id: str | None = None
    source_type: str | None = None
    registration_state: RegistrationState | None = None
    exposure_state: ExposureState | None = None
    reviews: tuple[str, ...] = ()
    flags: Mapping[str, bool | str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    text: str | None = None
    with_stale: bool = False
    with_disabled: bool = False


@dataclass(frozen=True, slots=True)
class ToolPatch:
    """Changes to a tool by a person.

    Attributes:
        given: Names of the given members; all others are ignored.
        metadata: Members to set; a value of None removes one.
        tags: Replaces all tags.
        add_tags: Tags to add.
        remove_tags: Tags to remove.
    """

    given: frozenset[str]
    display_name: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    registration_state: RegistrationState | None = None
    exposure_state: ExposureState | None = None
