"""Lists from memory, single reads and queries say the same, whatever is stored."""

import random
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Code, ObjectId

from packages.database.client import Database, Doc
from registry.access.policy import Grants, Permission, ServerFacts, ServerScope, decide
from registry.access.repository import AclRepository
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.paging import PageRequest
from registry.gateway.view.snapshot import Snapshot
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.storage.visible import VisibleServers
from registry.servers.values import ServerFilter, ServerRecord, ServerStatus

pytestmark = pytest.mark.wire

SERVERS = 150
SCOPES = ["private_user", "shared_user", "shared_app", None, "unheard_of", 7, Code("shared_app")]
STATUSES = ["active", "active", "inactive", "error", None, "unheard_of", Code("error")]
USERS = [str(ObjectId()) for _ in range(5)]
GROUPS = [str(ObjectId()) for _ in range(4)]
ROLES = ["USER", "ADMIN", "EDITORS"]
WORDS = ["weather", "mail", "search", "file"]
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

FILTERS = [
    ServerFilter(),
    *(ServerFilter(scope=scope) for scope in ServerScope),
    *(ServerFilter(status=status) for status in ServerStatus),
    ServerFilter(author=USERS[1]),
    ServerFilter(query="weather"),
    ServerFilter(query="Mail search"),
    ServerFilter("file", ServerScope.SHARED_USER, ServerStatus.ACTIVE, USERS[2]),
]


def entry(chance: random.Random, server_id: object, clock: SystemClock) -> dict[str, Any]:
    kind = chance.choice(["user", "group", "role", "public", "unheard_of"])
    stored: dict[str, Any] = {
        "principalType": kind,
        "resourceType": chance.choice(["mcpServer"] * 9 + ["agent"]),
        "resourceId": chance.choice([server_id] * 9 + [str(server_id)]),
        "permBits": chance.choice(
            [0, 1, 1, 1, 2, 3, 7, 15, 16, 17, 31, 33, 47, "1", None, 1.0, 1.5, -1]
        ),
    }
    if kind == "role":
        stored["principalId"] = chance.choice(ROLES)
    elif kind != "public":
        # Now and then the id of the wrong kind of principal.
        principal = chance.choice(USERS + GROUPS)
        stored["principalId"] = chance.choice([ObjectId(principal)] * 9 + [principal])
    if chance.random() < 0.3:
        ends = clock.now() + timedelta(hours=chance.choice([-1, 1]))
        stored["expiredAt"] = chance.choice([ends, ends, ends, None, "soon"])
    if chance.random() < 0.02:
        del stored["resourceId"]
    return stored


def people() -> list[UserContext]:
    plain = [
        UserContext(
            user_id,
            "somebody",
            Role.USER,
            USER_SCOPES,
            frozenset(GROUPS[:number]),
            role_name=ROLES[number % 3] if number else None,
        )
        for number, user_id in enumerate(USERS)
    ]
    people = [*plain, UserContext(USERS[0], "root", Role.ADMIN, USER_SCOPES)]
    # Each of them without a tenant, and in one.
    return [*people, *(replace(one, tenant_id="acme") for one in people)]


def text(chance: random.Random) -> str:
    return " ".join(chance.sample(WORDS, chance.randrange(3))).title()


def server(chance: random.Random, number: int, clock: SystemClock) -> dict[str, Any]:
    """Return a document as this application, another one or a hand may have written it."""
    config = {"type": "sse", "url": "http://127.0.0.1:9/mcp", "title": text(chance)}
    stored: dict[str, Any] = {
        "_id": chance.choice([ObjectId()] * 20 + [f"text {number}", number]),
        "serverName": f"s{number} {chance.choice(WORDS)}",
        "config": chance.choice([{**config, "description": text(chance)}] * 9 + [{}, "odd", None]),
        "author": ObjectId(chance.choice(USERS)),
        "updatedAt": clock.now() - timedelta(seconds=chance.randrange(20)),
        "tags": chance.choice([[chance.choice(WORDS)], [], "odd", None]),
        "scope": chance.choice(SCOPES),
        "status": chance.choice(STATUSES),
        "path": chance.choice([f"/mcp/s{number}", None, number]),
        "tenantId": chance.choice([None, None, "", "acme", "other"]),
    }
    for name in ("scope", "status", "config", "updatedAt", "tags", "path", "tenantId"):
        if stored[name] is None or chance.random() < 0.05:
            del stored[name]
    return stored


async def filled(database: Database, chance: random.Random, clock: SystemClock) -> None:
    servers = [server(chance, number, clock) for number in range(SERVERS)]
    await database.collection("mcpservers").insert_many(servers)
    named = [one for one in servers for _ in range(chance.choice([0, 0, 1, 2, 4]))]
    await database.collection("aclentries").insert_many(
        [entry(chance, one["_id"], clock) for one in named]
    )


def in_words(narrowed: ServerFilter) -> Doc:
    """Return the query of what a filter means, without who may see it."""
    rules: list[Doc] = [{"_id": {"$type": "objectId"}}]
    if narrowed.query is not None:
        fields = ("serverName", "config.title", "config.description", "tags")
        for word in narrowed.query.split():
            pattern = {"$regex": re.escape(word), "$options": "i"}
            rules.append({"$or": [{name: pattern} for name in fields]})
    if narrowed.author is not None:
        rules.append({"author": ObjectId(narrowed.author)})
    known = [scope.value for scope in ServerScope]
    if narrowed.scope is ServerScope.PRIVATE_USER:
        rules.append({"scope": {"$nin": [one for one in known if one != "private_user"]}})
    elif narrowed.scope is not None:
        rules.append({"scope": narrowed.scope.value})
    if narrowed.status is ServerStatus.ACTIVE:
        rules.append({"status": {"$nin": ["inactive", "error"]}})
    elif narrowed.status is not None:
        rules.append({"status": narrowed.status.value})
    return {"$and": rules}


async def queried(database: Database, narrowed: ServerFilter) -> list[ServerRecord]:
    """Return what a query finds, last changed first."""
    rows = await database.collection("mcpservers").find(in_words(narrowed)).to_list()
    records = sorted(map(ServerRecord.model_validate, rows), key=lambda record: record.id)
    records.sort(key=lambda record: record.updated_at or LONG_AGO, reverse=True)
    return records


def allowed(
    records: list[ServerRecord],
    grants: dict[str, Any],
    user: UserContext,
    *,
    admin_sees_private: bool,
) -> dict[str, int]:
    """Return what a caller may do with those of *records* that they see."""
    found: dict[str, int] = {}
    for record in records:
        facts = ServerFacts(
            record.author,
            record.scope,
            Grants.of(grants.get(record.id, []), record.tenant_id),
            tenant_id=record.tenant_id,
        )
        decision = decide(user, Permission.VIEW, facts, admin_sees_private=admin_sees_private)
        if decision.allowed:
            found[record.id] = decision.verdict.bits
    return found


async def listed(
    visible: VisibleServers, user: UserContext, narrowed: ServerFilter
) -> list[ServerRecord]:
    pages = [await visible.list_page(user, narrowed, PageRequest(1, 40))]
    # Up to the first that is empty.
    while pages[-1].items:
        pages.append(await visible.list_page(user, narrowed, PageRequest(len(pages) + 1, 40)))
    found = [record for page in pages for record in page.items]
    assert {page.total for page in pages} == {len(found)}
    return found


@pytest.mark.requirement("R-044")
@pytest.mark.requirement("R-242")
@pytest.mark.requirement("R-248")
@pytest.mark.requirement("R-115")
@pytest.mark.requirement("R-117")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("admin_sees_private", [True, False])
async def test_a_list_shows_what_the_decision_allows_and_a_query_finds(
    database: Database,
    repositories: ServerRepositories,
    view: Snapshot,
    clock: SystemClock,
    seed: int,
    admin_sees_private: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    await filled(database, chance, clock)
    acl = AclRepository(database)
    visible = VisibleServers(
        repositories.servers,
        acl,
        repositories.inventory,
        repositories.tools,
        admin_sees_private=admin_sees_private,
    )
    grants = await acl.grants_of(None, clock.now())
    await view.load()

    # Nobody writes: what a query finds is the same for all.
    found = [(narrowed, await queried(database, narrowed)) for narrowed in FILTERS]

    for user in people():
        for narrowed, records in found:
            expected = allowed(records, grants, user, admin_sees_private=admin_sees_private)
            shown = await listed(visible, user, narrowed)
            assert {record.id: record.bits for record in shown} == expected
            if narrowed.query is None:
                assert [record.id for record in shown] == list(expected)
        expected = allowed(found[0][1], grants, user, admin_sees_private=admin_sees_private)
        assert visible.rights(user) == expected
        for server_id in [one.id for one in repositories.inventory.servers()][:20]:
            one = await visible.get(server_id, user, clock.now())
            assert (one is not None) == (server_id in expected)
            assert one is None or one.bits == expected[server_id]


async def test_statistics_count_what_lists_show(
    database: Database, repositories: ServerRepositories, view: Snapshot, clock: SystemClock
) -> None:
    await filled(database, random.Random(9), clock)  # noqa: S311 - repeatable, not secret
    await database.collection("mcpservers").update_many({}, {"$unset": {"tenantId": ""}})
    await view.load()
    root = next(one for one in people() if one.is_admin)

    counts = repositories.inventory.counts(root)

    for status, number in counts.by_status.items():
        narrowed = ServerFilter(status=status)
        assert len(await listed(repositories.visible, root, narrowed)) == number
    for scope, number in counts.by_scope.items():
        assert len(await listed(repositories.visible, root, ServerFilter(scope=scope))) == number
