"""What policies leave of a route to each caller, in lists, calls and open streams."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from registry.access.policies.values import EVERYONE, Policy, Subjects
from registry.auth.identity import Role, UserContext
from registry.gateway.protocol.list_pages import PAGE_SIZE
from registry.gateway.values import Route, tool_entry
from registry.gateway.view import policy_filter as limits
from registry.gateway.view.catalogue import Catalogue
from registry.gateway.view.policy_filter import RoutePolicies
from tests.conftest import ALICE, BOB, ROOT
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.fakes import ScriptedUpstream, make_route
from tests.gateway.listening import META, MODERN, begin, hearing, listening
from tests.gateway.meeting import Kind, Speech, connected, everything, route_to, text
from tests.gateway.policies import (
    FOR_ADMINISTRATORS,
    FOR_ALICE,
    FOR_BOB,
    allow,
    deny,
    follow,
    policed,
)
from tests.gateway.serving import serve

PATHS = {"/mcp/demo": "", "/mcp": "demo__"}
CHANGED = "tools/list_changed"


def seen(route: Route, user: UserContext) -> list[str]:
    """Return the names of the tools that a caller may use."""
    return list(route.tools if route.policies is None else route.policies.seen_by(user).tools)


async def listed(gateway: Gateway, path: str, user: str) -> list[str]:
    """Return the names of all tools that a client finds."""
    async with connected(gateway.url, Speech.LEGACY, path, user) as client:
        return [tool.name for tool in (await client.list_tools()).tools]


@pytest.mark.requirement("R-220")
@pytest.mark.requirement("R-221")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("speech", Speech)
@pytest.mark.parametrize("kind", Kind)
async def test_of_two_callers_one_finds_and_calls_a_tool_that_is_hidden_from_the_other(
    stack: AsyncExitStack, start_gateway: StartGateway, kind: Kind, speech: Speech, path: str
) -> None:
    running = await stack.enter_async_context(everything(kind))
    route = await policed(
        route_to(kind, running.url), allow(FOR_ALICE, "test_echo"), deny("test_*image*")
    )
    gateway: Gateway = await start_gateway(route)
    prefix = PATHS[path]
    name = f"{prefix}test_echo"
    found: dict[str, set[str]] = {}

    async with asyncio.timeout(30):
        async with connected(gateway.url, speech, path, "alice") as client:
            found["alice"] = {tool.name for tool in (await client.list_tools()).tools}
            said = await client.call_tool(name, {"text": "hello"})
        async with connected(gateway.url, speech, path, "bob") as client:
            found["bob"] = {tool.name for tool in (await client.list_tools()).tools}
            with pytest.raises(MCPError) as refused:
                await client.call_tool(name, {"text": "hello"})
            with pytest.raises(MCPError) as unknown:
                await client.call_tool(f"{prefix}test_nothing", {"text": "hello"})
            sibling = await client.call_tool(f"{prefix}test_simple_text", {})

    assert text(said) == "hello"
    assert found["alice"] - found["bob"] == {name}
    assert found["bob"] < found["alice"]
    assert f"{prefix}test_image_content" not in found["alice"]
    assert not sibling.is_error
    assert refused.value.error.code == unknown.value.error.code
    assert refused.value.error.message == f"Unknown tool: {name}"
    assert unknown.value.error.message == f"Unknown tool: {prefix}test_nothing"
    assert [user for user, _ in gateway.refusals.events] == ["bob"]


@pytest.mark.requirement("R-103")
@pytest.mark.requirement("R-221")
@pytest.mark.parametrize("path", ["demo", ""])
@pytest.mark.parametrize("is_modern", [False, True])
async def test_a_denied_call_is_told_like_an_unknown_one_and_recorded_as_what_it_is(
    stack: AsyncExitStack, start_gateway: StartGateway, path: str, *, is_modern: bool
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    route = await policed(make_route(f"{url}/mcp"), deny("echo", subjects=FOR_ALICE, number=7))
    gateway: Gateway = await start_gateway(route)
    prefix = "" if path else "demo__"

    async def call(tool: str) -> Any:
        params: dict[str, Any] = {"name": f"{prefix}{tool}", "arguments": {}}
        headers = head("alice")
        if is_modern:
            params["_meta"] = META
            headers |= {
                "mcp-protocol-version": MODERN,
                "mcp-method": "tools/call",
                "mcp-name": params["name"],
            }
        message = request("tools/call", params)
        return await gateway.http.post(f"/mcp/{path}".rstrip("/"), json=message, headers=headers)

    denied, unknown = await call("echo"), await call("ECHO")

    assert denied.status_code == unknown.status_code
    assert denied.text.replace("echo", "ECHO") == unknown.text
    assert denied.headers.keys() == unknown.headers.keys()
    assert upstream.requests == []
    (username, event) = gateway.refusals.events[0]
    assert (username, len(gateway.refusals.events)) == ("alice", 1)
    assert (event.entity_id, event.outcome.value) == (route.server_id, "denied")
    assert event.reason == 'tool echo: denied by "policy 7"'
    assert event.changes == {"tool": "echo", "policies": [f"{7:024x}"]}
    assert gateway.count("tools/call", "denied") == 1
    note = gateway.notes.calls[0]
    assert (note.outcome, note.server_id, note.target) == (
        "denied",
        route.server_id,
        f"{prefix}echo",
    )
    labels = {"server": "demo", "tool": "echo", "outcome": "denied"}
    counted = "mcp_gateway_tool_calls_total"
    assert gateway.metrics.registry.get_sample_value(counted, labels) == 1


@pytest.mark.requirement("R-232")
@pytest.mark.parametrize(
    "subjects",
    [
        Subjects(users=frozenset({"1" * 24})),
        Subjects(groups=frozenset({"2" * 24})),
        Subjects(roles=frozenset({Role.ADMIN})),
        Subjects(scopes=frozenset({"finance:read"})),
        Subjects(scopes=frozenset({"approve:tools"})),
    ],
    ids=["user", "group", "role", "scope", "scope of ours"],
)
async def test_a_tool_is_allowed_by_user_group_role_or_scope(subjects: Subjects) -> None:
    route = await policed(make_route(), allow(subjects, "add"))
    named = UserContext(
        "1" * 24,
        "named",
        Role.ADMIN,
        ROOT.scopes,
        groups=frozenset({"2" * 24}),
        custom_scopes=frozenset({"finance:read"}),
    )

    assert seen(route, named) == ["add", "echo"]
    assert seen(route, BOB) == ["echo"]


async def test_denying_wins_over_allowing_and_over_administrators() -> None:
    route = await policed(make_route(), allow(FOR_ADMINISTRATORS, "add"), deny("add"))

    assert [seen(route, user) for user in (ALICE, ROOT)] == [["echo"], ["echo"]]


async def test_policies_about_effects_follow_what_is_known_of_the_tool() -> None:
    text_of = '{{"name":"{0}"}}'
    tools = [
        tool_entry("purge", text_of.format("purge"), facets=("destructive:true",)),
        tool_entry("look", text_of.format("look"), facets=("read_only:true",)),
    ]
    destructive = deny()
    destructive = replace(
        destructive, target=replace(destructive.target, metadata={"destructive": True})
    )

    route = await policed(make_route(tools=tools), destructive)

    assert seen(route, ALICE) == ["look"]


async def test_without_policies_about_it_a_route_is_the_one_that_it_was() -> None:
    one, other = make_route(), make_route(slug="other")
    policing = RoutePolicies()

    bare = await follow(policing, [one, other])
    some = await follow(policing, [one, other], deny("echo", owner_id=other.server_id))
    none = await follow(policing, [one, other], deny("nothing"))

    assert [bare[0] is one, bare[1] is other] == [True, True]
    assert [some[0] is one, some[1] is other] == [True, False]
    assert [none[0] is one, none[1] is other] == [True, True]


async def test_what_no_change_is_about_stays_the_same_object() -> None:
    one, other = make_route(), make_route(slug="other")
    first, second = deny("echo", owner_id=one.server_id), deny("add", owner_id=other.server_id)
    policing = RoutePolicies()

    before = await follow(policing, [one, other], first, second)
    again = policing.applied([one, other])
    after = await follow(policing, [one, other], first)

    assert again[0] is before[0]
    assert again[1] is before[1]
    assert after[0] is before[0]
    assert after[1] is other


async def test_callers_to_whom_the_same_is_refused_share_what_they_see() -> None:
    route = await policed(make_route(), allow(FOR_ALICE, "add"))
    assert route.policies is not None
    many = [replace(BOB, user_id=f"{number:024x}") for number in range(50)]

    routes = {id(route.policies.seen_by(user)) for user in many}
    again = route.policies.seen_by(BOB) is route.policies.seen_by(replace(BOB))
    catalogue = Catalogue({"demo": route})
    views = {id(catalogue.view(user, admin_uses_private=False)) for user in many}

    assert (len(routes), len(views), again) == (1, 1, True)


async def test_what_is_remembered_of_callers_stays_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REMEMBERED_TOOLS", 400)
    monkeypatch.setattr(limits, "REMEMBERED_CALLERS", 30)
    names = [f"tool_{number:02}" for number in range(20)]
    users = [replace(BOB, user_id=f"{number:024x}") for number in range(20)]
    own = [
        allow(Subjects(users=frozenset({user.user_id})), name, number=number)
        for number, (user, name) in enumerate(zip(users, names, strict=True))
    ]
    tools = [tool_entry(name, f'{{"name":"{name}"}}') for name in names]
    policing = RoutePolicies()
    (route,) = await follow(policing, [make_route(tools=tools)], *own)

    found = [seen(route, user) for _ in range(5) for user in users]
    remembered = vars(policing)["_remembered"]

    assert found == [[name] for name in names] * 5
    assert len(vars(remembered)["_by_refused"]) <= 400 / limits.ROUTE_COST
    assert len(vars(remembered)["_by_caller"]) <= 30


@pytest.mark.requirement("R-220")
@pytest.mark.parametrize("path", PATHS)
async def test_pages_of_a_long_list_leave_out_what_is_hidden(
    start_gateway: StartGateway, path: str
) -> None:
    names = [f"t{number:04}" for number in range(PAGE_SIZE + 200)]
    tools = [tool_entry(name, f'{{"name":"{name}","inputSchema":{{}}}}') for name in names]
    route = await policed(make_route(tools=tools), allow(FOR_ALICE, "t00*"))
    gateway: Gateway = await start_gateway(route)
    pages: dict[str, list[list[str]]] = {"alice": [], "bob": []}

    for user, found in pages.items():
        cursor: str | None = None
        while True:
            params = {} if cursor is None else {"cursor": cursor}
            message = request("tools/list", params)
            answer = await gateway.http.post(path, json=message, headers=head(user))
            result = answer.json()["result"]
            found.append([tool["name"].removeprefix(PATHS[path]) for tool in result["tools"]])
            cursor = result.get("nextCursor")
            if cursor is None:
                break

    assert [len(page) for page in pages["alice"]] == [PAGE_SIZE, 200]
    assert list(chain(*pages["alice"])) == names
    assert [len(page) for page in pages["bob"]] == [PAGE_SIZE, 100]
    assert list(chain(*pages["bob"])) == names[100:]


@pytest.mark.parametrize("slug", ["demo", ""])
async def test_a_session_hears_of_policies_that_change_what_its_caller_sees(
    start_gateway: StartGateway, slug: str
) -> None:
    bare = make_route(eras=frozenset())
    gateway: Gateway = await start_gateway(bare)
    policing = RoutePolicies()

    async def follow_all(*policies: Policy) -> None:
        gateway.routes.replace(*await follow(policing, [bare], *policies))

    alice, bob = await begin(gateway, slug), await begin(gateway, slug, "bob")
    async with (
        hearing(gateway, alice, slug) as by_alice,
        hearing(gateway, bob, slug) as by_bob,
    ):
        await follow_all(deny("echo", subjects=FOR_BOB))
        told = [await by_bob.method()]
        await follow_all(deny("echo", subjects=FOR_ALICE))
        told += [await by_bob.method(), await by_alice.method()]
        await follow_all(deny("echo", subjects=EVERYONE))
        told += [await by_bob.method()]
        await follow_all()
        told += [await by_bob.method(), await by_alice.method()]

    # Nothing else was told, or one of them would have heard twice of something.
    assert told == [CHANGED] * 6


async def test_another_scope_of_the_caller_is_another_list(start_gateway: StartGateway) -> None:
    route = await policed(make_route(), allow(Subjects(scopes=frozenset({"ops"})), "add"))
    gateway: Gateway = await start_gateway(route)
    wanted = {"toolsListChanged": True}

    async with listening(gateway, wanted, user="alice") as stream:
        await stream.next()
        before = await listed(gateway, "/mcp", "alice")
        gateway.authenticate.change(replace(ALICE, custom_scopes=frozenset({"ops"})))
        gateway.routes.change.set()
        told = await stream.method()
        after = await listed(gateway, "/mcp", "alice")

    assert told == CHANGED
    assert (before, after) == (["demo__echo"], ["demo__add", "demo__echo"])
