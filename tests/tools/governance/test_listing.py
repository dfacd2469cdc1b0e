"""Lists of tools from memory say what queries of the database say."""

import random
import re
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database, Doc
from registry.access.policy import Permission
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.paging import PageRequest
from registry.gateway.view.snapshot import Snapshot
from registry.servers.adapters import ServerOwners
from registry.servers.errors import ListsOutdatedError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.values import ServerFilter
from registry.tools.exposure import REVIEWS, review_of
from registry.tools.governance.errors import HiddenToolsForbiddenError
from registry.tools.governance.history import ToolHistoryReader
from registry.tools.governance.repository import GovernedTools
from registry.tools.governance.service import ToolService
from registry.tools.governance.values import ToolFilter
from registry.tools.lifecycle import ACTIVE, DELETED, DISABLED, DRAFT, SELECTED, STALE, UNSELECTED
from registry.tools.metadata import facet

pytestmark = pytest.mark.wire

SERVERS = 12
TOOLS = 300
WORDS = ["weather", "mail", "search", "file"]
STATES = [
    *[(SELECTED, ACTIVE)] * 5,
    *[(UNSELECTED, DRAFT)] * 2,
    (UNSELECTED, DISABLED),
    (STALE, ACTIVE),
    (SELECTED, DISABLED),
    (UNSELECTED, DELETED),
]
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
BOB = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
OWN = "1" * 24

FILTERS = {
    "nothing": ToolFilter(),
    "owner": ToolFilter(owner_id=OWN),
    "unknown owner": ToolFilter(owner_id="f" * 24),
    "source": ToolFilter(source_type="mcp"),
    "another source": ToolFilter(source_type="openapi"),
    "registration": ToolFilter(registration_state=UNSELECTED),
    "stale": ToolFilter(registration_state=STALE),
    "exposure": ToolFilter(exposure_state=ACTIVE),
    "disabled": ToolFilter(exposure_state=DISABLED),
    "queue": ToolFilter(reviews=REVIEWS),
    "changes": ToolFilter(reviews=("change",)),
    "queue of an owner": ToolFilter(reviews=REVIEWS, owner_id=OWN),
    "tags": ToolFilter(tags=("billing", "eu")),
    "flag": ToolFilter(flags={"read_only": True}),
    "flags": ToolFilter(flags={"read_only": False, "cost_tier": "high"}),
    "queue with a tag": ToolFilter(reviews=REVIEWS, tags=("eu",), flags={"read_only": True}),
    "text": ToolFilter(text="weather"),
    "words": ToolFilter(text="Mail search", tags=("eu",)),
    "everything": ToolFilter(with_stale=True, with_disabled=True),
}


@pytest.fixture
def tools(
    database: Database,
    repositories: ServerRepositories,
    audit: AuditTrail,
    audit_repository: AuditRepository,
    view: Snapshot,
    clock: SystemClock,
) -> ToolService:
    """Return the service under test."""
    governed = GovernedTools(database)
    history = ToolHistoryReader(governed, audit_repository)
    owners = ServerOwners(
        repositories.servers, repositories.visible, repositories.inventory, view, clock
    )
    return ToolService(database, repositories.tools, governed, history, audit, owners, clock=clock)


def row(chance: random.Random, owner: ObjectId, number: int) -> dict[str, Any]:
    """Return a tool as it is stored."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    state = chance.choice(STATES)
    has_pending = state == (SELECTED, ACTIVE) and chance.random() < 0.2
    review = review_of(state, has_pending=has_pending)
    tags = chance.sample(["billing", "eu", "old"], chance.randrange(3))
    effects: dict[str, Any] = {"read_only": chance.random() < 0.5}
    if chance.random() < 0.3:
        effects["cost_tier"] = "high"
    facets = [facet(flag, value) for flag, value in effects.items()]
    stored: dict[str, Any] = {
        "_id": ObjectId(),
        "source_type": "mcp",
        "owner_id": owner,
        "name": f"{chance.choice(WORDS)}_{number}",
        "title": chance.choice(WORDS).title(),
        "display_name": chance.choice([*WORDS, None, None]),
        "description": f"Does {chance.choice(WORDS)} and {chance.choice(WORDS)}.",
        "description_override": chance.choice([*WORDS, None, None]),
        "definition": '{"inputSchema":{"type":"object"}}',
        "input_schema": "{}",
        "registration_state": state[0].value,
        "exposure_state": state[1].value,
        "discovery_hash": "0",
        "served_version": 1,
        "versions": 1,
        "metadata": effects,
        "tags": tags or None,
        "facets": [
            *facets,
            *(facet("tag", tag) for tag in tags),
            *([] if review is None else [facet("review", review)]),
        ],
        "review": review,
        "pending_hash": "1" if has_pending else None,
        "pending_version": 2 if has_pending else None,
        "pending_definition": "{}" if has_pending else None,
        "last_discovered_at": now,
        "last_synced_at": now,
        "created_at": now,
        "updated_at": now,
    }
    return {name: value for name, value in stored.items() if value is not None}


async def filled(database: Database, chance: random.Random) -> None:
    owners = [ObjectId(OWN), *(ObjectId() for _ in range(SERVERS - 1))]
    scopes = ["private_user", "shared_app", "shared_user", "private_user"]
    await database.collection("mcpservers").insert_many(
        [
            {
                "_id": owner,
                "serverName": f"s{number}",
                "path": f"/mcp/s{number}",
                "config": {"type": "sse", "url": "http://127.0.0.1:9/mcp"},
                "author": ObjectId((ALICE if number % 2 else BOB).user_id),
                "scope": scopes[number % len(scopes)],
                "updatedAt": datetime(2026, 1, 1, tzinfo=UTC),
            }
            for number, owner in enumerate(owners)
        ]
    )
    # One of them is of no server that there is.
    some = [chance.choice([*owners, ObjectId("e" * 24)]) for _ in range(TOOLS)]
    await database.collection("mcp_tools").insert_many(
        [row(chance, owner, number) for number, owner in enumerate(some)]
    )


def in_words(narrowed: ToolFilter, rights: dict[str, int]) -> Doc:
    """Return the query of what a list shows to a caller who has these rights."""
    decides = [ObjectId(owner) for owner, bits in rights.items() if bits & Permission.EDIT]
    sees = [ObjectId(owner) for owner in rights]
    rules: list[Doc] = [{"owner_id": {"$in": decides if narrowed.reviews else sees}}]
    rules.append(
        {
            "$or": [
                {"owner_id": {"$in": decides}},
                {"registration_state": "selected", "exposure_state": "active"},
            ]
        }
    )
    if narrowed.registration_state is not None:
        rules.append({"registration_state": narrowed.registration_state.value})
    elif not narrowed.with_stale:
        rules.append({"registration_state": {"$ne": "stale"}})
    if narrowed.exposure_state is not None:
        rules.append({"exposure_state": narrowed.exposure_state.value})
    elif narrowed.reviews:
        rules.append({"exposure_state": {"$ne": "deleted"}})
    elif not narrowed.with_disabled:
        rules.append({"exposure_state": {"$nin": ["disabled", "deleted"]}})
    if narrowed.owner_id is not None:
        rules.append({"owner_id": ObjectId(narrowed.owner_id)})
    if narrowed.source_type is not None:
        rules.append({"source_type": narrowed.source_type})
    if narrowed.reviews:
        rules.append({"review": {"$in": list(narrowed.reviews)}})
    rules += [{"tags": tag} for tag in narrowed.tags]
    rules += [{f"metadata.{flag}": value} for flag, value in narrowed.flags.items()]
    fields = ("name", "title", "display_name", "description", "description_override", "tags")
    for word in (narrowed.text or "").split():
        pattern = {"$regex": re.escape(word), "$options": "i"}
        rules.append({"$or": [{name: pattern} for name in fields]})
    return {"$and": rules}


async def listed(tools: ToolService, user: UserContext, narrowed: ToolFilter) -> list[str]:
    pages = [await tools.page(user, narrowed, PageRequest(1, 90))]
    # Up to the first that is empty.
    while pages[-1].items:
        pages.append(await tools.page(user, narrowed, PageRequest(len(pages) + 1, 90)))
    found = [tool.id for page in pages for tool in page.items]
    assert {page.total for page in pages} == {len(found)}
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_a_list_of_tools_shows_what_a_query_finds(
    database: Database,
    repositories: ServerRepositories,
    tools: ToolService,
    view: Snapshot,
    seed: int,
) -> None:
    await filled(database, random.Random(seed))  # noqa: S311 - repeatable, not secret
    await view.load()

    for user, (name, narrowed) in product((ROOT, ALICE, BOB), FILTERS.items()):
        if name == "everything" and not user.is_admin:
            with pytest.raises(HiddenToolsForbiddenError):
                await listed(tools, user, narrowed)
            continue
        query = in_words(narrowed, repositories.visible.rights(user))
        rows = await database.collection("mcp_tools").find(query).sort("_id").to_list()
        expected = [str(one["_id"]) for one in rows]
        shown = await listed(tools, user, narrowed)
        assert sorted(shown) == expected, (user.username, name)
        assert narrowed.text is not None or shown == expected, (user.username, name)


async def test_a_change_of_one_server_is_followed_among_many(
    database: Database, tools: ToolService, view: Snapshot
) -> None:
    chance = random.Random(5)  # noqa: S311 - repeatable, not secret
    await filled(database, chance)
    await view.load()
    before = await listed(tools, ROOT, FILTERS["everything"])
    stored = database.collection("mcp_tools")
    gone = await stored.find_one({"owner_id": ObjectId(OWN)})
    assert gone is not None
    added = row(chance, ObjectId(OWN), TOOLS)
    await stored.delete_one({"_id": gone["_id"]})
    await stored.insert_one(added)

    await view.server_changed(OWN)

    after = await listed(tools, ROOT, FILTERS["everything"])
    assert after == [*(one for one in before if one != str(gone["_id"])), str(added["_id"])]


async def test_an_odd_row_costs_only_itself(
    database: Database, tools: ToolService, view: Snapshot
) -> None:
    chance = random.Random(6)  # noqa: S311 - repeatable, not secret
    await filled(database, chance)
    await view.load()
    before = await listed(tools, ROOT, FILTERS["everything"])
    odd = row(chance, ObjectId(OWN), TOOLS)
    del odd["definition"], odd["source_type"]
    await database.db.command("collMod", "mcp_tools", validator={})
    await database.collection("mcp_tools").insert_one({**odd, "tags": 3, "facets": "odd"})

    await view.server_changed(OWN)

    after = await listed(tools, ROOT, FILTERS["everything"])
    assert [one for one in after if one != str(odd["_id"])] == before


async def test_lists_that_nobody_keeps_up_to_date_are_refused(
    repositories: ServerRepositories, tools: ToolService
) -> None:
    with pytest.raises(ListsOutdatedError):
        await tools.page(ROOT, ToolFilter(), PageRequest(1, 20))
    with pytest.raises(ListsOutdatedError):
        await repositories.visible.list_page(ROOT, ServerFilter(), PageRequest(1, 20))
