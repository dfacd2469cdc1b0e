"""Documents bound to databases, projections, and validators derived from fields."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from beanie import Document, PydanticObjectId
from beanie.exceptions import CollectionWasNotInitialized
from bson import ObjectId
from pydantic import AliasPath, ConfigDict, Field

from packages.database.client import Database
from packages.database.documents import read_all, validator_of
from packages.database.stored import DocumentId, Projection, StoredText, StoredTexts, StoredWhole

ODD = {"number": 2.0, "labels": ["a", 3], "where": {"room": 4}}


class State(StrEnum):
    """A closed set."""

    OPEN = "open"
    DONE = "done"


class Ticket(Document):
    """A document with a field of each kind."""

    model_config = ConfigDict(extra="allow")

    title: Annotated[str, Field(min_length=1, max_length=80)]
    state: State
    kind: Literal["bug", "wish"] | None = None
    owner_id: PydanticObjectId
    number: Annotated[int, Field(ge=1)] = 1
    labels: list[Annotated[str, Field(max_length=9)]] = Field(default_factory=list, max_length=3)

    class Settings:
        """Where it is stored."""

        name = "tickets"
        keep_nulls = False
        rules: ClassVar[dict[str, Any]] = {"anyOf": [{"required": ["labels"]}]}


class TicketSummary(Projection):
    """What is read of it."""

    id: Annotated[DocumentId, Field(alias="_id")]
    title: str
    number: StoredWhole = None
    labels: StoredTexts = ()
    place: Annotated[StoredText, Field(validation_alias=AliasPath("where", "room"))] = None


def test_a_validator_has_the_types_and_limits_of_the_fields() -> None:
    assert validator_of(Ticket) == {
        "$jsonSchema": {
            "bsonType": "object",
            "required": ["title", "state", "owner_id"],
            "properties": {
                "title": {"bsonType": "string", "minLength": 1, "maxLength": 80},
                "state": {"enum": ["open", "done"]},
                "kind": {"enum": ["bug", "wish", None]},
                "owner_id": {"bsonType": "objectId"},
                "number": {"bsonType": ["int", "long"], "minimum": 1},
                "labels": {
                    "bsonType": "array",
                    "items": {"bsonType": "string", "maxLength": 9},
                    "maxItems": 3,
                },
            },
            "anyOf": [{"required": ["labels"]}],
        }
    }


def test_a_projection_names_stored_members_and_paths() -> None:
    assert TicketSummary.Settings.projection == {
        "_id": 1,
        "labels": 1,
        "number": 1,
        "title": 1,
        "where.room": 1,
    }


def test_a_projection_has_expressions_and_leaves_out_what_is_not_stored() -> None:
    class Counted(Projection):
        computed: ClassVar[Mapping[str, object]] = {"labels": {"$size": "$labels"}}

        labels: int = 0
        rights: Annotated[int, Field(exclude=True)] = 0

    assert Counted.Settings.projection == {"labels": {"$size": "$labels"}}


def test_a_class_that_is_bound_nowhere_cannot_be_used(database: Database) -> None:
    database.document(Ticket)

    with pytest.raises(CollectionWasNotInitialized):
        Ticket(title="One", state=State.OPEN, owner_id=PydanticObjectId())


@pytest.mark.wire
async def test_two_clients_of_one_database_do_not_share_a_connection(
    database: Database, database_uri: str
) -> None:
    other = Database(database_uri, timeout_ms=5000)
    tickets, theirs = database.document(Ticket), other.document(Ticket)
    await tickets(title="One", state=State.OPEN, owner_id=PydanticObjectId()).insert()

    found = await theirs.find_one({"title": "One"})
    await other.close()

    assert found is not None
    assert isinstance(found, Ticket)
    assert await tickets.find({}).count() == 1


@pytest.mark.wire
async def test_what_cannot_be_read_costs_only_itself(database: Database) -> None:
    rows = [
        {
            "_id": ObjectId(),
            "title": "One",
            "number": 2.0,
            "labels": ["a", 3],
            "where": {"room": 4},
        },
        {"_id": ObjectId(), "title": 7},
        {"_id": ObjectId(), "title": "Three", "where": "nowhere"},
    ]
    await database.db["tickets"].insert_many(rows)
    tickets = database.document(Ticket)

    found = await read_all(tickets.find({}, projection_model=TicketSummary).sort("_id"))

    assert found == [
        TicketSummary(id=str(rows[0]["_id"]), title="One", number=2, labels=("a",)),
        TicketSummary(id=str(rows[2]["_id"]), title="Three"),
    ]
