"""The decision function and the lists say the same, whatever is stored."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.access.policy import Grants, Permission, ServerFacts, decide
from registry.access.repository import AclRepository
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.paging import PageRequest
from registry.servers.documents import record_of
from registry.servers.values import ServerFilter, ServerRecord
from registry.servers.visible import VisibleServers

pytestmark = pytest.mark.wire

SERVERS = 150
SCOPES = ["private_user", "shared_user", "shared_app", None, "unheard_of"]
USERS = [str(ObjectId()) for _ in range(5)]
GROUPS = [str(ObjectId()) for _ in range(4)]
ROLES = ["USER", "ADMIN", "EDITORS"]


def entry(chance: random.Random, server_id: ObjectId, clock: SystemClock) -> dict[str, Any]:
    kind = chance.choice(["user", "group", "role", "public", "unheard_of"])
    stored: dict[str, Any] = {
        "principalType": kind,
        "resourceType": chance.choice(["mcpServer"] * 9 + ["agent"]),
        "resourceId": chance.choice([server_id] * 9 + [str(server_id)]),
        "permBits": chance.choice([0, 1, 1, 1, 2, 3, 7, 15, 16, 17, "1", None, 1.0, 1.5, -1]),
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


async def filled(database: Database, chance: random.Random, clock: SystemClock) -> list[Any]:
    servers = []
    for number in range(SERVERS):
        server: dict[str, Any] = {
            "_id": ObjectId(),
            "serverName": f"s{number}",
            "config": {},
            "author": ObjectId(chance.choice(USERS)),
            "updatedAt": clock.now() - timedelta(seconds=chance.randrange(20)),
        }
        tenant = chance.choice([None, None, "", "acme", "other"])
        if tenant is not None:
            server["tenantId"] = tenant
        scope = chance.choice(SCOPES)
        servers.append(server if scope is None else {**server, "scope": scope})
    await database.collection("mcpservers").insert_many(servers)
    named = [server for server in servers for _ in range(chance.choice([0, 0, 1, 2, 4]))]
    await database.collection("aclentries").insert_many(
        [entry(chance, server["_id"], clock) for server in named]
    )
    return servers


@pytest.mark.requirement("R-242", "R-248")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("admin_sees_private", [True, False])
async def test_a_list_shows_what_the_decision_allows(
    database: Database,
    clock: SystemClock,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    admin_sees_private: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    # Both ways of looking granted servers up are tried.
    limit = chance.choice([0, 1_000])
    monkeypatch.setattr("registry.servers.queries.ENTRIES_LOOKED_UP", limit)
    servers = await filled(database, chance, clock)
    acl = AclRepository(database)
    visible = VisibleServers(database, acl, admin_sees_private=admin_sees_private)
    grants = await acl.grants_of(None, clock.now())

    for user in people():
        expected = {}
        for server in servers:
            record = record_of(server)
            facts = ServerFacts(
                record.author,
                record.scope,
                Grants.of(grants.get(record.id, [])),
                tenant_id=record.tenant_id,
            )
            decision = decide(user, Permission.VIEW, facts, admin_sees_private=admin_sees_private)
            if decision.allowed:
                expected[record.id] = decision.verdict.bits
        shown: list[ServerRecord] = []
        for number in (1, 2):
            page = await visible.list_page(
                user, ServerFilter(), PageRequest(number, 100), clock.now()
            )
            shown += page.items
            assert page.total == len(expected)
        assert {record.id: record.bits for record in shown} == expected
        for server_id in (str(server["_id"]) for server in servers[:20]):
            one = await visible.get(server_id, user, clock.now())
            assert (one is not None) == (server_id in expected)
            assert one is None or one.bits == expected[server_id]
