"""Calls that people must approve, with the official clients at real servers."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx
import pytest

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState, Verdict
from registry.access.policies.decisions import rules_of
from registry.access.policies.values import EVERYONE, ToolFacts
from registry.access.policy import ServerScope
from registry.gateway.edge.approvals import ApprovalTimes
from registry.gateway.view.policy_filter import CallerRoutes, PolicyFilteredRoute
from registry.tools.call_rules import CallRules
from tests.conftest import ROOT
from tests.gateway.approving import HANDED_OUT, TOOL, Approving, approving, error_of
from tests.gateway.confirming import agreeing
from tests.gateway.conftest import StartGateway, head
from tests.gateway.eras import modern
from tests.gateway.meeting import Kind, Speech, connected
from tests.gateway.policies import allow
from tests.kit.waiting import until

pytestmark = pytest.mark.wire

ARGUMENTS = {"path": "a.txt"}


def named(path: str) -> str:
    """Return the name of the tool at a path."""
    return TOOL if path == "/mcp/demo" else f"demo__{TOOL}"


@pytest.mark.requirement("R-225")
@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.MODERN])
@pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
async def test_a_call_waits_for_people_and_is_made_once(
    database: Database,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    cipher: Cipher,
    kind: Kind,
    path: str,
) -> None:
    place = await stack.enter_async_context(
        approving(kind, start_gateway, database, cipher, gateways=2)
    )

    for number, speech in enumerate(Speech, 1):
        async with connected(place.gateway.url, speech, path) as client:
            async with asyncio.TaskGroup() as group:
                called = group.create_task(client.call_tool(named(path), ARGUMENTS))
                await place.pending()
                assert len(place.server.calls) == number - 1
                await place.decide()
            result = called.result()

        assert not result.is_error, result
        assert place.server.calls == [(TOOL, ARGUMENTS)] * number
    assert len(await place.all(ApprovalState.EXECUTED)) == len(Speech)


@pytest.fixture
async def place(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> Approving:
    """Return two gateways whose calls do not wait."""
    return await stack.enter_async_context(
        approving(
            Kind.MODERN,
            start_gateway,
            database,
            cipher,
            gateways=2,
            times=HANDED_OUT,
            executes=False,
        )
    )


@pytest.mark.requirement("R-226")
async def test_a_call_that_waits_for_long_gets_a_handle_and_its_result_once(
    place: Approving,
) -> None:
    waiting = await place.call()
    handle = error_of(waiting)["approval"]
    assert waiting["isError"]
    assert handle in waiting["content"][0]["text"]
    assert error_of(await place.call())["approval"] == handle
    async with place.executing():
        await place.decide()
        await place.reached(ApprovalState.EXECUTED)
    assert (
        "is for other arguments"
        in (await place.call(handle=handle, path="b.txt"))["content"][0]["text"]
    )
    assert "no such request" in (await place.call("bob", handle))["content"][0]["text"]

    async with connected(place.gateway.url, Speech.MODERN, "/mcp") as client:
        result = await client.call_tool(named("/mcp"), ARGUMENTS)

    assert not result.is_error
    assert place.server.calls == [(TOOL, ARGUMENTS)]
    assert "was handed over before" in await place.told(handle)
    assert error_of(await place.call())["approval"] != handle
    assert place.server.calls == [(TOOL, ARGUMENTS)]


async def test_who_is_denied_is_told_once_and_may_ask_again(place: Approving) -> None:
    handle = await place.handle()
    await place.decide(Verdict.DENY, comment="not on a Friday")

    denied = await place.call()

    assert denied["isError"]
    assert "was denied by root" in denied["content"][0]["text"]
    assert "not on a Friday" in denied["content"][0]["text"]
    assert error_of(denied)["state"] == "denied"
    assert await place.handle() != handle
    assert place.server.calls == []


def without_server(place: Approving) -> None:
    """Let the server be turned off."""
    for gateway in place.gateways:
        gateway.routes.replace()


def without_access(place: Approving) -> None:
    """Let the server be another's alone."""
    place.change(
        facts=replace(place.route.facts, author=ROOT.user_id, scope=ServerScope.PRIVATE_USER)
    )


def without_tool(place: Approving) -> None:
    """Let the tool not be served any more."""
    place.change(tools={})


def with_definition(place: Approving) -> None:
    """Let the tool have another definition."""
    tool = place.route.tools[TOOL]
    place.change(tools={TOOL: replace(tool, wire=tool.wire + b" ")})


def with_more_approvers(place: Approving) -> None:
    """Let two people have to approve the tool's calls."""
    rules = CallRules(approvals=2)
    place.change(tools={TOOL: replace(place.route.tools[TOOL], rules=rules)})


def with_policy(place: Approving) -> None:
    """Let a policy say who may use the tool: those who may already."""
    rules = rules_of([allow(EVERYONE)], [ToolFacts(TOOL)])
    policies = PolicyFilteredRoute(place.route, rules, 0, CallerRoutes())
    place.change(policies=policies)


def without_requester(place: Approving) -> None:
    """Let the requester's account be disabled."""
    for gateway in place.gateways:
        gateway.authenticate.forget("alice")


def without_approver(place: Approving) -> None:
    """Let the approver's account be disabled."""
    for gateway in place.gateways:
        gateway.authenticate.forget("root")


@pytest.mark.requirement("E-20")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_server, "the server is not active"),
        (without_access, "its requester has no access"),
        (without_tool, "the tool is not served"),
        (with_definition, "the definition of the tool has changed"),
        (with_more_approvers, "more people have to approve"),
        (with_policy, "the policies for the tool have changed"),
        (without_requester, "its requester is disabled"),
        (without_approver, "its approver root is disabled"),
    ],
)
async def test_what_an_approval_is_bound_to_changes_before_the_call(
    place: Approving, change: Callable[[Approving], None], reason: str
) -> None:
    await place.handle()
    await place.decide()

    change(place)

    async with place.executing():
        approval = await place.reached(ApprovalState.VOID)
        await until(lambda: any(gateway.refusals.events for gateway in place.gateways))
    assert approval.reason is not None
    assert reason in approval.reason
    assert place.server.calls == []
    events = [event for gateway in place.gateways for _, event in gateway.refusals.events]
    assert [event.reason for event in events] == [approval.reason]


async def test_a_waiting_client_is_told_of_progress_and_one_that_cancels_ends_the_request(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.LEGACY, start_gateway, database, cipher)
    )
    said: list[str | None] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        said.append(message)

    async with connected(place.gateway.url, Speech.LEGACY, "/mcp") as client:
        async with asyncio.TaskGroup() as group:
            called = group.create_task(
                client.call_tool(named("/mcp"), ARGUMENTS, progress_callback=progressed)
            )
            approval = await place.pending()
            await until(lambda: len(said) > 2)
            await place.decide()
        assert not called.result().is_error
        cancelled = asyncio.get_running_loop().create_task(
            client.call_tool(named("/mcp"), {"path": "b.txt"})
        )
        await place.pending()
        cancelled.cancel()
        await place.reached_among(ApprovalState.CANCELLED)

    assert said[0] == f"Waiting for approval {approval.id} (0 of 1)"
    assert place.server.calls == [(TOOL, ARGUMENTS)]


async def test_a_client_of_the_stateless_era_repeats_its_call_until_people_have_decided(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    times = ApprovalTimes(wait_seconds=30.0, round_seconds=0.2)
    place = await stack.enter_async_context(
        approving(Kind.MODERN, start_gateway, database, cipher, times=times)
    )

    async with (
        connected(place.gateway.url, Speech.MODERN) as client,
        asyncio.TaskGroup() as group,
    ):
        called = group.create_task(client.call_tool(TOOL, ARGUMENTS))
        await until(lambda: len(place.gateway.notes.calls) >= 2)
        await place.decide()

    assert not called.result().is_error
    assert place.server.calls == [(TOOL, ARGUMENTS)]


async def test_a_client_that_disconnects_leaves_its_request_open(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.MODERN, start_gateway, database, cipher)
    )
    message, headers = modern("tools/call", {"name": TOOL, "arguments": ARGUMENTS})

    with pytest.raises(httpx.ReadTimeout):
        await place.gateway.http.post(
            "/mcp/demo", json=message, headers=head(**headers), timeout=0.5
        )

    assert (await place.pending()).id
    await until(lambda: place.gateway.in_flight == 0)
    await place.decide()
    await place.reached(ApprovalState.EXECUTED)
    assert not (await place.call()).get("isError")


@pytest.mark.parametrize("speech", [Speech.LEGACY, Speech.MODERN])
async def test_a_call_may_need_its_users_agreement_and_that_of_other_people(
    database: Database,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    cipher: Cipher,
    speech: Speech,
) -> None:
    times = ApprovalTimes(wait_seconds=30.0, round_seconds=0.2)
    place = await stack.enter_async_context(
        approving(Kind.LEGACY, start_gateway, database, cipher, times=times)
    )
    rules = CallRules(approvals=1, is_confirmed=True)
    place.change(tools={TOOL: replace(place.route.tools[TOOL], rules=rules)})
    user = agreeing()

    async with (
        connected(place.gateway.url, speech, elicitation_callback=user) as client,
        asyncio.TaskGroup() as group,
    ):
        called = group.create_task(client.call_tool(TOOL, ARGUMENTS))
        await place.pending()
        await until(lambda: len(place.gateway.notes.calls) >= 2 or speech is Speech.LEGACY)
        await place.decide()

    assert not called.result().is_error
    assert place.server.calls == [(TOOL, ARGUMENTS)]
    assert len(user.questions) == 1


async def test_who_fetches_a_result_is_not_asked_to_confirm_the_call_again(
    place: Approving,
) -> None:
    rules = CallRules(approvals=1, is_confirmed=True)
    place.change(tools={TOOL: replace(place.route.tools[TOOL], rules=rules)})
    user = agreeing()

    async with (
        connected(place.gateway.url, Speech.MODERN, elicitation_callback=user) as client,
        place.executing(),
    ):
        waiting = await client.call_tool(TOOL, ARGUMENTS)
        await place.decide()
        await place.reached(ApprovalState.EXECUTED)
        result = await client.call_tool(TOOL, ARGUMENTS)

    assert waiting.is_error
    assert not result.is_error
    assert len(user.questions) == 1
