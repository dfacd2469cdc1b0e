"""Routes with policies, as the gateway's view has them."""

import asyncio
from collections.abc import Iterable

from packages.models.states import Effect
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget, Subjects
from registry.auth.identity import Role
from registry.gateway.values import Route
from registry.gateway.view.policy_filter import RoutePolicies
from tests.conftest import ALICE, BOB

FOR_ALICE = Subjects(users=frozenset({ALICE.user_id}))
FOR_BOB = Subjects(users=frozenset({BOB.user_id}))
FOR_ADMINISTRATORS = Subjects(roles=frozenset({Role.ADMIN}))


def policy(
    effect: Effect, subjects: Subjects, *tools: str, number: int = 1, **changes: str | None
) -> Policy:
    """Return a policy about tools of all servers, or of the one named as *owner_id*."""
    target = PolicyTarget(owner_id=changes.get("owner_id"), tools=tools)
    return Policy(f"{number:024x}", f"policy {number}", effect, target, subjects)


def allow(subjects: Subjects, *tools: str, number: int = 1, **changes: str | None) -> Policy:
    """Return a policy that allows tools to some only."""
    return policy(Effect.ALLOW, subjects, *tools, number=number, **changes)


def deny(
    *tools: str, subjects: Subjects = EVERYONE, number: int = 2, **changes: str | None
) -> Policy:
    """Return a policy that denies tools."""
    return policy(Effect.DENY, subjects, *tools, number=number, **changes)


async def nothing() -> None:
    """Let nobody else get a turn."""


async def follow(
    policing: RoutePolicies, routes: Iterable[Route], *policies: Policy
) -> list[Route]:
    """Let *policies* count, and return the routes with them."""
    found = list(routes)
    await policing.replace(policies, found, nothing)
    return policing.applied(found)


async def policed(route: Route, *policies: Policy) -> Route:
    """Return one route with policies."""
    return (await follow(RoutePolicies(), [route], *policies))[0]


def policed_now(route: Route, *policies: Policy) -> Route:
    """Do the same where no loop runs."""
    return asyncio.run(policed(route, *policies))
