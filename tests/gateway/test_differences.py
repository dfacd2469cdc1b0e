"""What changed in the lists that callers see: exactly what they would find different."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from packages.models.states import Effect
from registry.access.policies.values import Policy, PolicyTarget, Subjects
from registry.access.policy import ServerFacts, ServerScope, decide_use
from registry.auth.identity import UserContext
from registry.gateway.edge.session_states import (
    MAX_SUBSCRIPTIONS,
    MAX_TOTAL_CHARACTERS,
    MAX_URI_CHARACTERS,
    SessionStates,
)
from registry.gateway.notifications.buffer import MAX_URIS, NotificationBuffer
from registry.gateway.values import FeatureEntry, Route, tool_entry
from registry.gateway.view.catalogue import Catalogue
from registry.gateway.view.differences import (
    PROMPTS,
    RESOURCES,
    TOOLS,
    changed_views,
    differences,
    seen_changes,
)
from registry.gateway.view.policy_filter import RoutePolicies
from tests.conftest import ALICE, BOB, ROOT
from tests.gateway.fakes import make_route

SLUGS = ("one", "two", "three")
USERS = (ALICE, BOB, ROOT)
LISTS = {
    TOOLS: ("tools",),
    PROMPTS: ("prompts",),
    RESOURCES: ("resources", "resourceTemplates"),
}


about_tools = st.lists(
    st.builds(
        Policy,
        id=st.uuids().map(lambda made: made.hex[:24]),
        name=st.just("policy"),
        effect=st.sampled_from(Effect),
        target=st.builds(PolicyTarget, tools=st.sampled_from([(), ("a",), ("b", "c*")])),
        subjects=st.builds(Subjects, users=st.frozensets(st.sampled_from([ALICE.user_id]))),
    ),
    max_size=2,
)


def feature(member: str, value: str, version: int) -> FeatureEntry:
    """Return an entry in a version of it."""
    return FeatureEntry(value, f'{{"{member}":"{value}","v":{version}}}'.encode())


@st.composite
def routes(draw: st.DrawFn) -> dict[str, Route]:
    """Return some servers, with a little of everything.

    In order of names, as the combined lists that are compared: another order upstream changes
    only a server's own list.
    """
    versions = st.dictionaries(st.sampled_from("abc"), st.integers(1, 2), max_size=2)
    entries = versions.map(lambda made: dict(sorted(made.items())))
    scopes = st.sampled_from([ServerScope.SHARED_APP, ServerScope.PRIVATE_USER])
    authors = st.sampled_from([ALICE.user_id, BOB.user_id])
    found = {}
    for slug in draw(st.sets(st.sampled_from(SLUGS))):
        tools, prompts = draw(entries).items(), draw(entries).items()
        resources, templates = draw(entries).items(), draw(entries).items()
        found[slug] = make_route(
            slug=slug,
            facts=ServerFacts(draw(authors), draw(scopes)),
            tools=[tool_entry(name, f'{{"name":"{name}","v":{v}}}') for name, v in tools],
            prompts=[feature("name", name, v) for name, v in prompts],
            resources=[feature("uri", f"{slug}://{name}", v) for name, v in resources],
            templates=[feature("uriTemplate", f"{slug}:{name}", v) for name, v in templates],
        )
    policing = RoutePolicies()
    asyncio.run(policing.replace(draw(about_tools), found.values(), nothing))
    return {route.slug: route for route in policing.applied(found.values())}


async def nothing() -> None:
    """Let nobody else get a turn."""


def pages(catalogue: Catalogue, user: UserContext) -> Mapping[int, tuple[Any, ...]]:
    """Return what a user finds in each kind of list, in any order but that of the names."""
    view = catalogue.view(user, admin_uses_private=False)
    return {kind: tuple(view.page(name, None) for name in names) for kind, names in LISTS.items()}


def different(before: Mapping[int, Any], after: Mapping[int, Any]) -> int:
    """Return the kinds of lists that differ."""
    return sum(kind for kind in LISTS if before[kind] != after[kind])


def seen(user: UserContext, route: Route) -> Route | None:
    """Return a server as a user may use it, if they see it."""
    if not decide_use(user, route.facts).allowed:
        return None
    return route if route.policies is None else route.policies.seen_by(user)


@settings(max_examples=80)
@given(routes(), routes(), st.sampled_from(USERS))
def test_a_list_is_told_to_have_changed_when_it_did(
    before: dict[str, Route], after: dict[str, Route], user: UserContext
) -> None:
    old = Catalogue(before)
    new = Catalogue(after, old)

    told, _ = seen_changes(differences(old, new), partial(seen, user))

    assert told == different(pages(old, user), pages(new, user))


@settings(max_examples=50)
@given(routes(), st.sampled_from(USERS), st.sampled_from(USERS))
def test_another_right_is_another_list_where_it_shows(
    served: dict[str, Route], former: UserContext, user: UserContext
) -> None:
    catalogue = Catalogue(served)

    told = changed_views(catalogue, partial(seen, former), partial(seen, user))

    assert told == different(pages(catalogue, former), pages(catalogue, user))


def test_servers_that_are_the_same_keep_their_place_in_the_catalogue() -> None:
    same, former, later = make_route(), make_route(slug="other"), make_route(slug="other")
    old = Catalogue({"demo": same, "other": former})

    new = Catalogue({"demo": same, "other": later}, old)

    assert new.members[None, "demo"] is old.members[None, "demo"]
    assert new.members[None, "other"] is not old.members[None, "other"]
    assert differences(old, new) == []


def test_what_waits_to_be_told_is_bounded() -> None:
    outlet = NotificationBuffer(TOOLS)

    for number in range(MAX_URIS + 10):
        outlet.updated(f"note://{number}")

    assert outlet.is_overrun
    assert outlet.take().count(b"data:") == MAX_URIS


def test_the_same_is_told_once() -> None:
    outlet = NotificationBuffer(TOOLS)

    for _ in range(3):
        outlet.changed(TOOLS | PROMPTS)
        outlet.updated("note://a")

    assert outlet.take().count(b"data:") == 2
    assert outlet.take() == b""


def test_a_session_remembers_so_many_subscriptions_and_no_more() -> None:
    states = SessionStates()

    for number in range(MAX_SUBSCRIPTIONS + 1):
        states.apply("one", {"subscribed": f"note://{number}"})
    full = states.is_full("one")
    states.apply("one", {"unsubscribed": "note://0"})

    assert full
    assert not states.is_full("one")
    assert len(states.subscriptions("one")) == MAX_SUBSCRIPTIONS - 1


def test_all_sessions_together_remember_so_much_and_no_more() -> None:
    states = SessionStates()
    most = MAX_TOTAL_CHARACTERS // MAX_URI_CHARACTERS

    for number in range(most + 1):
        uri = str(number).ljust(MAX_URI_CHARACTERS, "x")
        states.apply(f"session-{number // 100}", {"subscribed": uri})

    assert states.subscriptions("session-0") == ()
    assert len(states.subscriptions(f"session-{most // 100 - 1}")) == 100
