"""Calls and streams under way of what is put in quarantine."""

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import pytest

from packages.models.states import QuarantineKind
from registry.access.quarantine.table import QuarantineTable
from registry.access.quarantine.values import Quarantine
from registry.core.clock import SystemClock
from registry.servers.values import Era
from tests.conftest import ALICE
from tests.fakes.quarantines import FakeQuarantines
from tests.gateway.conftest import StartGateway, request
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.listening import begin, hearing, listening
from tests.gateway.serving import serve

pytestmark = pytest.mark.integration

ROUTE_ID = "demo".ljust(24, "0")


@pytest.mark.parametrize(
    ("kind", "subject", "tool", "ends"),
    [
        (QuarantineKind.USER, ALICE.user_id, None, True),
        (QuarantineKind.SERVER, ROUTE_ID, None, True),
        (QuarantineKind.TOOL, ROUTE_ID, "echo", True),
        (QuarantineKind.TOOL, ROUTE_ID, "add", False),
        (QuarantineKind.USER, "f" * 24, None, False),
    ],
)
async def test_calls_under_way_are_ended_where_that_is_asked_for(
    stack: Any,
    start_gateway: StartGateway,
    kind: QuarantineKind,
    subject: str,
    tool: str | None,
    ends: bool,  # noqa: FBT001 - a row of the table
) -> None:
    clock = SystemClock()
    stored = FakeQuarantines()
    table = QuarantineTable(stored, clock)
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(received: Request) -> None:
        reached.set()
        await goes_on.wait()
        await received.result({"content": []})

    upstream = ScriptedUpstream()
    upstream.behaviour = slow
    url = await stack.enter_async_context(serve(upstream))
    gateway = await start_gateway(make_route(f"{url}/mcp"), quarantines=table)
    params = {"name": "echo", "arguments": {}}
    call = gateway.background_tasks.start(gateway.post(request("tools/call", params)))
    await reached.wait()

    quarantine = Quarantine(
        "1" * 24, kind, subject, "it", "why", clock.now(), None, tool, ends_calls=True
    )
    stored.quarantines = (quarantine,)
    await table.reload(None)
    if not ends:
        goes_on.set()
    answer = (await call).json()
    goes_on.set()

    assert ("is in quarantine" in str(answer)) is ends
    assert gateway.count("tools/call", "quarantined" if ends else "ok") == 1
    assert gateway.in_flight == 0
    # The connection goes on: the next request is answered.
    stored.quarantines = ()
    await table.reload(None)
    assert (await gateway.post(request("ping"))).status_code == 200


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("slug", ["", "demo"])
@pytest.mark.parametrize(
    ("kind", "subject"),
    [(QuarantineKind.USER, ALICE.user_id), (QuarantineKind.CLIENT, "test")],
)
async def test_open_streams_end_at_once(
    stack: Any,
    start_gateway: StartGateway,
    era: str,
    slug: str,
    kind: QuarantineKind,
    subject: str,
) -> None:
    clock, stored = SystemClock(), FakeQuarantines()
    table = QuarantineTable(stored, clock)
    # The gateway itself is the server at both paths: no server is asked for the stream.
    other = Era.LEGACY if era == "modern" else Era.MODERN
    route = make_route("http://127.0.0.1:9/mcp", eras=frozenset({other}))
    gateway = await start_gateway(route, quarantines=table)
    if era == "legacy":
        session = await begin(gateway, slug)
        told = await stack.enter_async_context(hearing(gateway, session, slug))
    else:
        told = await stack.enter_async_context(
            listening(gateway, {"toolsListChanged": True}, slug)
        )

    stored.quarantines = (Quarantine("1" * 24, kind, subject, "it", "why", clock.now(), None),)
    await table.reload(None)

    with suppress(httpx.HTTPError):
        while await told.next() is not None:
            pass
    assert gateway.in_flight == 0
