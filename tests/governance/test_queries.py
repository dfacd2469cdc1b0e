"""What lists of tools ask the database for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.core.paging import PageRequest
from registry.governance.queries import SORT, list_query
from registry.governance.repository import GovernedTools
from registry.governance.values import Sight, ToolFilter
from registry.tools.exposure import REVIEWS
from registry.tools.lifecycle import ACTIVE, UNSELECTED

ONE, TWO, THREE = ("1" * 24, "2" * 24, "3" * 24)
EVERYTHING = Sight(everything=True)
PAGE = PageRequest(1, 50)

FILTERS = {
    "nothing": (ToolFilter(), SORT),
    "owner": (ToolFilter(owner_id=ONE), None),
    "source": (ToolFilter(source_type="mcp"), SORT),
    "registration": (ToolFilter(registration_state=UNSELECTED), None),
    "exposure": (ToolFilter(exposure_state=ACTIVE), None),
    "queue": (ToolFilter(reviews=REVIEWS), None),
    "queue of an owner": (ToolFilter(reviews=REVIEWS, owner_id=ONE), None),
    "tag": (ToolFilter(tags=("billing", "eu")), None),
    "flag": (ToolFilter(flags={"read_only": True}), None),
    "queue with a tag": (ToolFilter(reviews=REVIEWS, tags=("eu",)), None),
    "everything": (ToolFilter(with_stale=True, with_disabled=True), SORT),
}


@pytest.mark.parametrize("name", FILTERS)
def test_what_is_found_by_an_index_stands_beside_no_choice(name: str) -> None:
    narrowed, hint = FILTERS[name]

    query = list_query(EVERYTHING, narrowed)

    choices = {field for field, value in query.found_by.items() if "$in" in str(value)}
    assert query.hint == hint
    assert choices <= {"facets"}
    assert not {"$or", "$and"} & query.found_by.keys()


def test_those_who_may_decide_nothing_ask_for_what_is_served_alone() -> None:
    query = list_query(Sight(viewed=frozenset({ONE, TWO})), ToolFilter())

    assert query.found_by["owner_id"] == {"$in": [ObjectId(ONE), ObjectId(TWO)]}
    assert query.alternatives == (
        ({"registration_state": "selected", "exposure_state": "active"},),
    )


def test_of_an_owner_that_is_not_seen_nothing_is_asked() -> None:
    sight = Sight(viewed=frozenset({ONE}), governed=frozenset({TWO}))

    assert list_query(sight, ToolFilter(owner_id=THREE)).is_empty
    assert list_query(sight, ToolFilter(owner_id=ONE, reviews=REVIEWS)).is_empty
    assert list_query(Sight(), ToolFilter()).is_empty


def test_an_owner_that_may_be_decided_about_needs_no_alternatives() -> None:
    sight = Sight(viewed=frozenset({ONE, TWO}), governed=frozenset({TWO}))

    query = list_query(sight, ToolFilter(owner_id=TWO))

    assert query.found_by["owner_id"] == ObjectId(TWO)
    assert query.alternatives == ()


def row(owner: str, name: str, **fields: Any) -> dict[str, Any]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "source_type": "mcp",
        "owner_id": ObjectId(owner),
        "name": name,
        "definition": "{}",
        "input_schema": "{}",
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0",
        "served_version": 1,
        "versions": 1,
        "facets": [],
        "last_discovered_at": now,
        "last_synced_at": now,
        "created_at": now,
        "updated_at": now,
        **fields,
    }


DRAFT = {
    "registration_state": "unselected",
    "exposure_state": "draft",
    "review": "new",
    "facets": ["review:new"],
}


@pytest.mark.wire
async def test_each_caller_gets_what_they_may_see_and_the_right_total(database: Database) -> None:
    await database.collection("mcp_tools").insert_many(
        [
            row(ONE, "served"),
            row(ONE, "draft", **DRAFT),
            row(TWO, "mine"),
            row(TWO, "mine_draft", **DRAFT),
            row(THREE, "hidden"),
        ]
    )
    tools = GovernedTools(database)
    sight = Sight(viewed=frozenset({ONE, TWO}), governed=frozenset({TWO}))

    async def names(sight: Sight, narrowed: ToolFilter) -> tuple[int, list[str]]:
        page = await tools.page(sight, narrowed, PAGE)
        return page.total, [tool.stored.name for tool in page.items]

    assert await names(sight, ToolFilter()) == (3, ["served", "mine", "mine_draft"])
    assert await names(sight, ToolFilter(text="draft")) == (1, ["mine_draft"])
    assert await names(sight, ToolFilter(reviews=REVIEWS)) == (1, ["mine_draft"])
    assert await names(sight, ToolFilter(owner_id=ONE)) == (1, ["served"])
    assert await names(sight, ToolFilter(owner_id=THREE)) == (0, [])
    assert await names(EVERYTHING, ToolFilter(reviews=REVIEWS)) == (2, ["draft", "mine_draft"])
    assert (await names(EVERYTHING, ToolFilter()))[0] == 5


@pytest.mark.wire
async def test_a_queue_is_answered_without_its_index(database: Database) -> None:
    await database.collection("mcp_tools").insert_one(row(ONE, "draft", **DRAFT))
    await database.collection("mcp_tools").drop_index([("facets", 1), ("_id", 1)])

    page = await GovernedTools(database).page(EVERYTHING, ToolFilter(reviews=REVIEWS), PAGE)

    assert page.total == 1
