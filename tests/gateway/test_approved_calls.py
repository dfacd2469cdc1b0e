"""Approved calls whose server fails, whose process is killed, and that many processes want."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState, QuarantineKind, Verdict
from registry.access.quarantine.table import QuarantineTable
from registry.access.quarantine.values import Quarantine
from registry.approvals.values import Decision
from registry.core.clock import SystemClock
from registry.tools.call_rules import CallRules
from tests.conftest import ALICE
from tests.fakes.killed_worker import Moment
from tests.fakes.quarantines import FakeQuarantines
from tests.gateway.approving import HANDED_OUT, Approving, approving
from tests.gateway.conftest import StartGateway
from tests.gateway.fakes import Request, ScriptedUpstream
from tests.gateway.meeting import Kind
from tests.gateway.serving import serve
from tests.kit.waiting import PROCESS_SECONDS

pytestmark = pytest.mark.wire

LONG_AGO = timedelta(minutes=5)


@pytest.fixture
async def place(
    database: Database,
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    cipher: Cipher,
    upstream: ScriptedUpstream,
) -> Approving:
    """Return a gateway before *upstream*; its calls do not wait."""
    found = await stack.enter_async_context(
        approving(
            Kind.MODERN,
            start_gateway,
            database,
            cipher,
            times=HANDED_OUT,
            executes=False,
            gateway_total_timeout_seconds=0.5,
        )
    )
    url = await stack.enter_async_context(serve(upstream))
    found.redirect(f"{url}/mcp")
    return found


async def approved(place: Approving) -> str:
    """Open a request, and approve it; return its id."""
    handle = await place.handle()
    await place.decide()
    return handle


def received(upstream: ScriptedUpstream) -> int:
    """Return how many calls of tools reached the server."""
    return sum(one.message.get("method") == "tools/call" for one in upstream.requests if one.body)


async def hang(request: Request) -> None:
    """Do not answer."""
    await request.wait_for_disconnect()


async def refuse(request: Request) -> None:
    """Answer with an error of HTTP."""
    await request.answer(400, b"no")


async def break_off(request: Request) -> None:
    """Answer with an error of a server that may be at work."""
    await request.answer(502, b"bad gateway")


@pytest.mark.parametrize("behaviour", [hang, break_off])
async def test_a_call_that_was_sent_and_not_answered_is_unknown_and_never_sent_again(
    place: Approving, upstream: ScriptedUpstream, behaviour: Any
) -> None:
    upstream.behaviour = behaviour
    handle = await approved(place)

    async with place.executing():
        await place.reached(ApprovalState.UNKNOWN)
        told = await place.call()

    assert "nobody knows whether the call was made" in told["content"][0]["text"]
    assert received(upstream) == 1
    assert await place.handle() != handle


async def test_an_error_of_the_server_is_the_result(
    place: Approving, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = refuse
    await approved(place)

    async with place.executing():
        approval = await place.reached(ApprovalState.EXECUTED)
        result = await place.call()

    assert approval.is_error
    assert result["isError"]
    assert "answered HTTP 400" in result["content"][0]["text"]


async def test_a_call_that_could_not_be_sent_is_tried_when_its_requester_asks(
    place: Approving, upstream: ScriptedUpstream
) -> None:
    url = place.route.url
    place.redirect("http://127.0.0.1:9/mcp")
    handle = await approved(place)

    async with place.executing():
        await until_put_off(place)
        assert received(upstream) == 0
        place.redirect(url)
        again = await place.call()
        assert "approval" in str(again)
        await place.reached(ApprovalState.EXECUTED)
        result = await place.call(handle=handle)

    assert not result.get("isError")
    assert received(upstream) == 1


async def until_put_off(place: Approving) -> None:
    """Return once the only request was put off."""
    async with asyncio.timeout(30):
        while not (await place.only()).is_put_off:
            await SystemClock().sleep(0.02)


async def test_what_is_not_approved_in_time_expires(place: Approving) -> None:
    handle = await place.handle()
    past = await place.repository.now() - LONG_AGO
    rows = place.database.collection("approvals")
    await rows.update_many({}, {"$set": {"expires_at": past}})

    await place.gateway.builder.approved_calls.sweep()

    assert (await place.only()).state is ApprovalState.EXPIRED
    assert audited(place) == ("sync", "update", "denied", "expired")
    assert "has expired, and nothing was sent" in await place.told(handle)
    assert await place.handle() != handle


def audited(place: Approving) -> tuple[str, str, str, object]:
    """Return actor, action, outcome and new state of the newest record of the audit trail."""
    actor, event = place.gateway.refusals.events[-1]
    return actor, event.action.value, event.outcome.value, event.changes["state"]


async def grown_old(place: Approving) -> None:
    """Let the requests have been made long ago."""
    created_at = await place.repository.now() - LONG_AGO
    await place.database.collection("approvals").update_many(
        {}, {"$set": {"created_at": created_at}}
    )


def definition(place: Approving) -> None:
    changed = [replace(tool, wire=tool.wire + b" ") for tool in place.route.tools.values()]
    place.change(tools={tool.name: tool for tool in changed})


def tool(place: Approving) -> None:
    place.change(tools={})


def approvals(place: Approving) -> None:
    rules = CallRules(approvals=2)
    tools = place.route.tools.values()
    place.change(tools={one.name: replace(one, rules=rules) for one in tools})


def server(place: Approving) -> None:
    place.gateway.routes.replace()


@pytest.mark.requirement("E-20")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (definition, "the definition of the tool has changed"),
        (tool, "the tool is not served to its requester any more"),
        (approvals, "more people have to approve the tool's calls now"),
        (server, "the server is not active any more"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_what_changed_voids_a_request_that_nobody_has_decided(
    place: Approving, change: Callable[[Approving], None], reason: str
) -> None:
    handle = await place.handle()
    calls, route = place.gateway.builder.approved_calls, place.route

    await calls.sweep()
    change(place)
    await calls.sweep()
    fresh = await place.only()
    place.route = route
    place.gateway.routes.replace(route)
    await grown_old(place)
    await calls.sweep()
    unchanged = await place.only()
    change(place)
    await calls.sweep()
    approval = await place.only()
    place.gateway.routes.replace(route)

    assert [one.state for one in (fresh, unchanged)] == [ApprovalState.PENDING] * 2
    assert approval.state is ApprovalState.VOID
    assert reason in str(approval.reason)
    assert audited(place) == ("sync", "update", "denied", "void")
    assert reason in await place.told(handle)


@pytest.mark.requirement("E-20")
async def test_a_waiting_caller_is_told_that_the_request_is_void(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.MODERN, start_gateway, database, cipher, executes=False)
    )
    async with asyncio.TaskGroup() as group:
        call = group.create_task(place.call())
        await place.pending()
        await grown_old(place)
        definition(place)
        await place.gateway.builder.approved_calls.sweep()
        result = await call

    assert result["isError"]
    assert "is void, and nothing was sent" in str(result["content"])
    assert place.server.calls == []


async def test_a_call_is_recorded_when_it_is_made(place: Approving) -> None:
    await approved(place)
    async with place.executing():
        await place.reached(ApprovalState.EXECUTED)
        await place.call()

    outcomes = [note.outcome for note in place.gateway.notes.calls]
    assert sorted(outcomes) == ["awaiting_approval", "awaiting_approval", "ok"]


@pytest.mark.requirement("R-225")
@pytest.mark.parametrize(
    ("moment", "calls", "state"),
    [
        (Moment.AFTER_CLAIM, 0, ApprovalState.UNKNOWN),
        (Moment.BEFORE_STORING, 1, ApprovalState.UNKNOWN),
        (Moment.AFTER_STORING, 1, ApprovalState.EXECUTED),
    ],
)
async def test_a_call_of_a_process_that_is_killed_at_any_moment_is_made_at_most_once(
    place: Approving,
    upstream: ScriptedUpstream,
    database_uri: str,
    moment: Moment,
    calls: int,
    state: ApprovalState,
) -> None:
    await approved(place)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.killed_worker"),
        *(database_uri, place.route.url, moment),
    )
    async with asyncio.timeout(PROCESS_SECONDS):
        assert await process.wait() == -signal.SIGKILL
    rows = place.database.collection("approvals")
    past = await place.repository.now() - LONG_AGO
    await rows.update_many({"alive_at": {"$exists": True}}, {"$set": {"alive_at": past}})

    await place.gateway.builder.approved_calls.sweep()

    assert received(upstream) == calls
    assert (await place.only()).state is state
    async with place.executing():
        told = await place.call()
    assert received(upstream) == calls
    assert bool(told.get("isError")) is (state is not ApprovalState.EXECUTED)


@pytest.mark.requirement("E-20")
async def test_of_many_approvers_and_replicas_one_decides_and_one_sends(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    place = await stack.enter_async_context(
        approving(Kind.MODERN, start_gateway, database, cipher, gateways=3, times=HANDED_OUT)
    )
    for number in range(1, 6):
        await place.call(path=f"{number}.txt")
        approval = await place.pending()
        now = await place.repository.now()
        decisions = [
            Decision(*(f"{one:024x}", f"boss{one}", Verdict.APPROVE, now), is_service_account=True)
            for one in range(100)
        ]
        decided = await asyncio.gather(
            *(place.repository.decide(approval, one) for one in decisions)
        )
        assert sum(one is not None for one in decided) == 1
        async with asyncio.timeout(30):
            while len(await place.all(ApprovalState.EXECUTED)) < number:
                await SystemClock().sleep(0.01)
    assert len(place.server.calls) == 5


async def test_an_approved_call_of_a_user_in_quarantine_is_not_made(
    database: Database, stack: AsyncExitStack, start_gateway: StartGateway, cipher: Cipher
) -> None:
    clock, stored = SystemClock(), FakeQuarantines()
    table = QuarantineTable(stored, clock)
    place = await stack.enter_async_context(
        approving(
            Kind.MODERN,
            start_gateway,
            database,
            cipher,
            times=HANDED_OUT,
            executes=False,
            quarantines=table,
        )
    )
    await approved(place)
    kind = QuarantineKind.USER
    stored.quarantines = (
        Quarantine("1" * 24, kind, ALICE.user_id, "alice", "why", clock.now(), None),
    )
    await table.reload(None)

    async with place.executing():
        approval = await place.reached(ApprovalState.VOID)

    assert approval.reason == "its requester is in quarantine"
    assert place.server.calls == []
