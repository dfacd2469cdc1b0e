"""What an administrator may use through the gateway of what is private to others."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from packages.models.states import AuditOutcome
from registry.access.policy import (
    AccessDecision,
    AccessRule,
    Grant,
    Grants,
    Permission,
    PrincipalType,
    ServerFacts,
    ServerScope,
    decide_use,
)
from registry.core.settings import Settings
from registry.gateway.values import Route
from tests.conftest import ALICE, ROOT
from tests.gateway.conftest import Gateway, StartGateway, head, make_settings
from tests.gateway.fakes import AUTHOR, PRIVATE, ScriptedUpstream, make_route
from tests.gateway.listening import ask, begin, hearing, listening
from tests.gateway.meeting import Kind, Speech, connected, everything, route_to, text
from tests.gateway.serving import serve
from tests.gateway.test_standing import PROMPT, PROMPTS_CHANGED

PATHS = {"/mcp/demo": "", "/mcp": "demo__"}
ALL_WAYS = pytest.mark.parametrize("speech", Speech)
NO_SCOPE = ServerFacts(AUTHOR, None)
ADMINISTRATORS = Grants.of([Grant(PrincipalType.ROLE, "ADMIN", Permission.VIEW)], None)
RESOURCE = "test://static-text"


def uses(gateway: Gateway) -> list[tuple[str, Any, Any]]:
    """Return what was recorded as done: by whom, with which method, with which name."""
    return [
        (user, event.changes["method"], event.changes.get("name"))
        for user, event in gateway.refusals.events
        if event.outcome is AuditOutcome.SUCCESS
    ]


@pytest.mark.parametrize("facts", [PRIVATE, NO_SCOPE], ids=["private", "without a scope"])
@ALL_WAYS
async def test_the_combined_server_of_an_administrator_is_without_what_is_private_to_others(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech, facts: ServerFacts
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(
        make_route(slug="open"), route_to(Kind.LEGACY, f"{url}/mcp", facts=facts)
    )

    async with connected(gateway.url, speech, "/mcp", "root") as client:
        tools = (await client.list_tools()).tools
        with pytest.raises(MCPError) as called:
            await client.call_tool("demo__test_echo", {"text": "hello"})
        with pytest.raises(MCPError):
            await client.get_prompt("demo__test_simple_prompt")
        with pytest.raises(MCPError):
            await client.read_resource(RESOURCE)

    assert {tool.name.partition("__")[0] for tool in tools} == {"open"}
    assert called.value.error.message == "Unknown tool: demo__test_echo"
    assert not any(b"tools/call" in sent.body for sent in upstream.requests)


@pytest.mark.parametrize(
    "method", ["prompts/list", "resources/list", "resources/templates/list", "tools/list"]
)
async def test_no_list_names_what_is_private_to_others(
    start_gateway: StartGateway, method: str
) -> None:
    url = "http://127.0.0.1:9/mcp"
    gateway: Gateway = await start_gateway(route_to(Kind.LEGACY, url, facts=PRIVATE))
    session = await begin(gateway, user="root")

    listed = await ask(gateway, session, method, {})

    assert [*listed["result"].values()] == [[]]


async def test_nothing_is_completed_or_subscribed_to_with_what_is_private_to_others(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(route_to(Kind.LEGACY, f"{url}/mcp", facts=PRIVATE))
    session = await begin(gateway, user="root")
    ref = {"type": "ref/prompt", "name": "demo__test_prompt_with_arguments"}
    argument = {"name": "arg1", "value": "x"}

    completed = await ask(
        gateway, session, "completion/complete", {"ref": ref, "argument": argument}
    )
    subscribed = await ask(gateway, session, "resources/subscribe", {"uri": RESOURCE})

    assert completed["error"]["message"] == "Unknown completion reference."
    assert "error" in subscribed
    assert not any(b"tools/call" in sent.body for sent in upstream.requests)


@ALL_WAYS
async def test_the_path_of_a_private_server_does_not_exist_for_an_administrator(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech
) -> None:
    upstream = ScriptedUpstream()
    url = await stack.enter_async_context(serve(upstream))
    gateway: Gateway = await start_gateway(route_to(Kind.OLD, f"{url}/sse", facts=PRIVATE))
    accept = "text/event-stream" if speech is Speech.OLD else "application/json"

    answer = await gateway.http.get("/mcp/demo", headers=head("root", accept=accept))
    with pytest.raises(Exception):  # noqa: B017, PT011 - each client has errors of its own
        async with connected(gateway.url, speech, "/mcp/demo", "root") as client:
            await client.list_tools()

    assert answer.status_code == 404
    assert not any(b"tools/call" in sent.body for sent in upstream.requests)


async def test_an_administrator_is_not_told_what_changes_of_what_is_private_to_others(
    start_gateway: StartGateway,
) -> None:
    gateway: Gateway = await start_gateway(make_route())
    async with hearing(gateway, await begin(gateway, user="root")) as stream:
        gateway.routes.replace(make_route(), make_route(slug="hidden", facts=PRIVATE))
        gateway.routes.replace(make_route(prompts=PROMPT))

        assert await stream.method() == PROMPTS_CHANGED


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", Kind)
@ALL_WAYS
async def test_where_it_is_allowed_each_call_of_an_administrator_is_recorded(
    stack: AsyncExitStack, start_gateway: StartGateway, speech: Speech, kind: Kind, path: str
) -> None:
    running = await stack.enter_async_context(everything(kind))
    route: Route = route_to(kind, running.url, facts=PRIVATE)
    gateway: Gateway = await start_gateway(route, admin_uses_private=True)
    name = f"{PATHS[path]}test_echo"

    async with asyncio.timeout(30), connected(gateway.url, speech, path, "root") as client:
        said = [text(await client.call_tool(name, {"text": "hello"})) for _ in range(2)]

    assert said == ["hello", "hello"]
    calls = [use for use in uses(gateway) if use[1] == "tools/call"]
    assert calls == [("root", "tools/call", name)] * 2


async def test_where_it_is_allowed_subscriptions_of_an_administrator_are_recorded(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    running = await stack.enter_async_context(everything(Kind.LEGACY))
    route = route_to(Kind.LEGACY, running.url, facts=PRIVATE)
    gateway: Gateway = await start_gateway(route, admin_uses_private=True)
    session = await begin(gateway, user="root")

    await ask(gateway, session, "resources/subscribe", {"uri": RESOURCE})
    async with listening(gateway, {"resourceSubscriptions": [RESOURCE]}, user="root") as stream:
        await stream.next()

    assert uses(gateway) == [
        ("root", "resources/subscribe", None),
        ("root", "subscriptions/listen", None),
    ]


async def test_what_authors_use_of_their_own_is_not_recorded(
    stack: AsyncExitStack, start_gateway: StartGateway
) -> None:
    url = await stack.enter_async_context(serve(ScriptedUpstream()))
    mine = ServerFacts(ROOT.user_id, ServerScope.PRIVATE_USER)
    gateway: Gateway = await start_gateway(make_route(f"{url}/mcp", facts=mine))

    answer = await gateway.call(authorization="Bearer root")

    assert answer.status_code == 200
    assert gateway.refusals.events == []


@pytest.mark.parametrize(
    ("facts", "is_allowed", "rule"),
    [
        (PRIVATE, False, AccessRule.PRIVATE),
        (NO_SCOPE, False, AccessRule.NO_GRANT),
        (ServerFacts(AUTHOR, None, ADMINISTRATORS), True, AccessRule.ROLE),
        (ServerFacts(ROOT.user_id, None), True, AccessRule.AUTHOR),
        (ServerFacts(ROOT.user_id, ServerScope.PRIVATE_USER), True, AccessRule.AUTHOR),
        (ServerFacts(AUTHOR, ServerScope.SHARED_USER), True, AccessRule.ADMINISTRATOR),
        (ServerFacts(AUTHOR, ServerScope.SHARED_APP), True, AccessRule.ADMINISTRATOR),
    ],
)
def test_an_administrator_uses_what_is_shared_their_own_and_what_names_them(
    facts: ServerFacts,
    is_allowed: bool,  # noqa: FBT001 - a parameter of the test
    rule: AccessRule,
) -> None:
    decision = decide_use(ROOT, facts)

    assert (decision.allowed, decision.rule) == (is_allowed, rule)


def test_others_use_what_they_see() -> None:
    assert not decide_use(ALICE, PRIVATE, admin_uses_private=True).allowed
    assert decide_use(ALICE, ServerFacts(AUTHOR, ServerScope.SHARED_APP)).allowed
    allowed: AccessDecision = decide_use(ROOT, PRIVATE, admin_uses_private=True)
    assert (allowed.allowed, allowed.rule) == (True, AccessRule.ADMINISTRATOR)


def test_using_needs_seeing() -> None:
    settings: Settings = make_settings(admin_uses_private=True)
    assert settings.admin_sees_private

    with pytest.raises(ValueError, match="ADMIN_USES_PRIVATE: needs ADMIN_SEES_PRIVATE=true"):
        make_settings(admin_uses_private=True, admin_sees_private=False)
