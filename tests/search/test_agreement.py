"""What is found is what `tools/list` shows, for thousands of random callers and policies.

Without a socket: the catalogue, the policies and the toolsets are those of the gateway, and so is
the feed of the index.
"""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from packages.models.states import Effect
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget, Subjects
from registry.access.policy import Grant, Grants, PrincipalType, ServerFacts, ServerScope
from registry.access.toolsets.values import DefaultFor, Toolset, ToolsetEntry
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.values import Route, tool_entry
from registry.gateway.view.catalogue import Catalogue, CatalogueView
from registry.gateway.view.policy_filter import RoutePolicies
from registry.gateway.view.search_feed import SearchFeed
from registry.gateway.view.toolsets import HeldToolset, Toolsets
from registry.search.index import SearchIndex
from registry.search.ports import Kind, NoVectors
from registry.search.service import SearchService
from registry.search.values import Filters, SearchQuestion
from registry.servers.storage.inventory import Inventory
from registry.tools.naming import public_name
from tests.fakes.clock import FakeClock
from tests.gateway.fakes import make_route
from tests.gateway.policies import follow

WORLDS, CALLERS = 20, 500

USERS = [f"{number:024x}" for number in range(1, 9)]
GROUPS = [f"{number:024x}" for number in range(101, 105)]
TENANTS = [None, None, None, "acme"]
WORDS = ["mail", "file", "weather", "search", "drop"]
EVERYTHING = SearchQuestion("thing", Filters(kinds=frozenset({Kind.TOOL})), 100)
"""A word that every description contains."""


class Served:
    """Routes as the gateway serves them. Implements `ServedView`."""

    def __init__(self) -> None:
        self.catalogue = Catalogue({})
        self.version = 1

    async def changed(self, seen: int) -> int:
        """Return the version at once."""
        assert seen <= self.version
        return self.version

    def view(self, user: UserContext) -> CatalogueView:
        """Return *user*'s view."""
        return self.catalogue.view(user, admin_uses_private=False)

    def is_fresh(self) -> bool:
        """It is."""
        return True


def route(chance: random.Random, number: int) -> Route:
    grants = [
        Grant(kind, principal, chance.choice([0, 1, 3, 15]))  # type: ignore[arg-type] # bits
        for kind, principal in chance.sample(
            [
                *((PrincipalType.USER, one) for one in USERS),
                *((PrincipalType.GROUP, one) for one in GROUPS),
                (PrincipalType.ROLE, "USER"),
                (PrincipalType.PUBLIC, None),
            ],
            chance.randrange(4),
        )
    ]
    tenant_id = chance.choice(TENANTS)
    tools = [
        tool_entry(
            name,
            json.dumps({"name": name, "description": f"A thing for {chance.choice(WORDS)}"}),
            row_id=bytes([number, at]) + bytes(10),
        )
        for at in range(chance.randrange(5))
        for name in [f"{chance.choice(WORDS)}_{at}"]
    ]
    return make_route(
        slug=f"s{number}",
        server_id=f"{number:024x}",
        tools=tools,
        facts=ServerFacts(
            chance.choice(USERS),
            chance.choice([*ServerScope, None]),
            Grants.of(grants, tenant_id),
            tenant_id=tenant_id,
        ),
        default_effect=chance.choice([Effect.ALLOW] * 4 + [Effect.DENY]),
    )


def policy(chance: random.Random, number: int) -> Policy:
    subjects = chance.choice(
        [
            EVERYONE,
            Subjects(users=frozenset(chance.sample(USERS, 2))),
            Subjects(groups=frozenset(chance.sample(GROUPS, 1))),
            Subjects(roles=frozenset({chance.choice(list(Role))})),
            Subjects(scopes=frozenset({"invoke:tools"})),
        ]
    )
    owner_id = chance.choice([None, f"{chance.randrange(12):024x}"])
    tools = chance.choice([(), ("mail_*",), ("drop_*", "*_1")])
    return Policy(
        f"{number:024x}",
        f"policy {number}",
        chance.choice(list(Effect)),
        PolicyTarget(owner_id=owner_id, tools=tools),
        subjects,
    )


def caller(chance: random.Random) -> UserContext:
    role = chance.choice([Role.USER, Role.USER, Role.ADMIN])
    return UserContext(
        chance.choice(USERS),
        "somebody",
        role,
        frozenset(chance.sample(sorted(USER_SCOPES), 4)) | {"read:tools"},  # type: ignore[arg-type]
        frozenset(chance.sample(GROUPS, chance.randrange(3))),
        tenant_id=chance.choice(TENANTS),
    )


def listed(view: CatalogueView) -> set[str]:
    found: set[str] = set()
    cursor: Any = None
    while True:
        page = json.loads(b"{%s}" % view.page("tools", cursor))
        found |= {tool["name"] for tool in page["tools"]}
        cursor = page.get("nextCursor")
        if cursor is None:
            return found


class World:
    """An index that follows random routes."""

    def __init__(self) -> None:
        self.served = Served()
        self.toolsets = Toolsets(SystemClock())
        clock, self.policing = FakeClock(), RoutePolicies()

        async def resting() -> None:
            """Nobody else is here."""

        index = SearchIndex(resting)
        inventory = Inventory(clock, max_staleness_seconds=60)
        self.feed = SearchFeed(
            index, self.served, inventory, self.toolsets, clock, admin_uses_private=False
        )
        self.service = SearchService(index, NoVectors(), self.feed, clock=clock, metrics=Metrics())

    async def serve(self, routes: list[Route], policies: list[Policy]) -> None:
        """Serve other routes."""
        found = await follow(self.policing, routes, *policies)
        self.served.catalogue = Catalogue({one.server_id: one for one in found})
        await self.feed.update()

    async def found(self, user: UserContext, question: SearchQuestion = EVERYTHING) -> set[str]:
        """Return the public names of what is found."""
        answer = await self.service.search(user, question)
        return {public_name(hit.document.slug or "", hit.document.name) for hit in answer.hits}


@pytest.mark.parametrize("seed", range(WORLDS))
@pytest.mark.requirement("R-208")
async def test_found_is_what_is_listed(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - test data
    world = World()
    routes = {number: route(chance, number) for number in range(12)}
    seen: set[int] = set()

    for number in range(CALLERS):
        if number % 50 == 0:
            # Servers and policies change, come and go meanwhile.
            policies = [policy(chance, number) for number in range(1, chance.randrange(2, 6))]
            routes[chance.randrange(14)] = route(chance, chance.randrange(14))
            await world.serve(list({r.server_id: r for r in routes.values()}.values()), policies)
        user = caller(chance)
        expected = listed(world.served.view(user))
        assert await world.found(user) == expected
        seen.add(len(expected))

    # The comparison means something: callers differ.
    assert len(seen) > 3


def mail_only(user_id: str) -> Toolset:
    return Toolset(
        "1" * 24,
        "mail",
        None,
        user_id,
        ServerScope.PRIVATE_USER,
        (ToolsetEntry(tool="mail_*"),),
        default_for=DefaultFor(users=(user_id,)),
    )


async def test_a_toolset_by_default_narrows_what_is_found() -> None:
    chance = random.Random(7)  # noqa: S311 - test data
    world = World()
    shared = [
        replace(one, facts=ServerFacts(USERS[0], ServerScope.SHARED_APP))
        for one in (route(chance, number) for number in range(12))
    ]
    await world.serve(shared, [])
    user = UserContext(USERS[1], "u", Role.USER, USER_SCOPES)
    everything = await world.found(user)

    world.toolsets.replace({"1": HeldToolset(mail_only(USERS[1]), ())})
    narrowed = await world.found(user)
    others = await world.found(replace(user, user_id=USERS[2]))

    assert narrowed == {name for name in everything if "__mail_" in name}
    assert narrowed
    assert others == everything
