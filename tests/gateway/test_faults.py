"""Every fault of the network has a stated outcome, and none is felt by anybody else."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from registry.core.clock import SystemClock
from registry.gateway.errors import CallOutcome
from tests.fakes.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.fakes.loopback import NO_CERTIFICATES
from tests.gateway import fault_table
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.failing import error_of
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.fault_table import CASES, Case, Form, Place
from tests.gateway.serving import serve
from tests.kit.waiting import until
from tests.repository.files import ROOT

SECONDS = 30
GAP_SECONDS = 0.1
TEXT = "x" * 2000
CALL = request("tools/call", {"name": "echo", "arguments": {"text": TEXT}})
EVENTS = (b"data: " + b"1" * 500 + b"\n\n", b"data: " + b"2" * 1500 + b"\n\n")


async def as_json(received: Request) -> None:
    await received.result({"text": TEXT})


async def as_stream(received: Request) -> None:
    await received.start(content_type="text/event-stream")
    await received.chunk(EVENTS[0])
    await SystemClock().sleep(GAP_SECONDS)
    await received.chunk(EVENTS[1], more=False)


async def as_stream_to_nobody(received: Request) -> None:
    """Go on until the gateway has seen that its client is gone, however busy the machine is."""
    await received.start(content_type="text/event-stream")
    await received.chunk(EVENTS[0])
    gone = asyncio.ensure_future(received.wait_for_disconnect())
    while not (await asyncio.wait({gone}, timeout=GAP_SECONDS))[0]:
        await received.chunk(b": still here\n\n")


BEHAVIOURS = {Form.JSON: as_json, Form.SSE: as_stream}


@dataclass
class Stage:
    """A client, a gateway and an upstream, with a proxy in each gap; and another server."""

    gateway: Gateway
    upstream: ScriptedUpstream
    proxies: dict[Place, FaultProxy]

    async def call(self) -> httpx.Response | None:
        """Call the tool through both proxies; None when there is no HTTP answer."""
        host = urlsplit(self.gateway.url).netloc
        async with httpx.AsyncClient(
            verify=NO_CERTIFICATES, base_url=self.proxies[Place.CLIENT].url, timeout=30
        ) as http:
            try:
                return await http.post("/mcp/demo", json=CALL, headers=head(host=host))
            except httpx.TransportError:
                return None

    async def call_other(self) -> httpx.Response:
        """Call a server that nothing is wrong with."""
        return await self.gateway.post(CALL, slug="other")

    def repair(self) -> None:
        """Let everything through again."""
        for proxy in self.proxies.values():
            proxy.fault = Fault.NONE

    async def settled(self, most_open: int) -> None:
        """Wait until nothing is under way, and no more connections are open to the upstream."""
        await until(
            lambda: (
                not (
                    self.gateway.in_flight
                    or self.proxies[Place.CLIENT].open
                    or self.proxies[Place.UPSTREAM].open > most_open
                )
            ),
            SECONDS,
        )


@pytest.fixture
async def stage(
    stack: AsyncExitStack, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> Stage:
    """Return everything in place and in order, with short timeouts."""
    url = await stack.enter_async_context(serve(upstream))
    towards = await stack.enter_async_context(fault_proxy(urlsplit(url).port or 0))
    gateway: Gateway = await start_gateway(
        make_route(f"{towards.url}/mcp", idle_timeout_seconds=0.3, first_byte_timeout_seconds=0.3),
        make_route(f"{url}/mcp", slug="other"),
        gateway_total_timeout_seconds=1.0,
        request_body_timeout_seconds=0.3,
        request_head_timeout_seconds=0.3,
    )
    before = await stack.enter_async_context(fault_proxy(urlsplit(gateway.url).port or 0))
    return Stage(gateway, upstream, {Place.UPSTREAM: towards, Place.CLIENT: before})


@pytest.mark.requirement("E-04")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_fault_has_the_stated_outcome_and_is_felt_by_nobody_else(
    stage: Stage, case: Case
) -> None:
    is_left = case.form is Form.SSE and case.counted == CallOutcome.DISCONNECTED
    stage.upstream.behaviour = as_stream_to_nobody if is_left else BEHAVIOURS[case.form]
    proxy = stage.proxies[case.place]
    proxy.fault, proxy.direction, proxy.after = case.fault, case.direction, case.after

    is_spoilt = case.place is Place.UPSTREAM and case.counted != "ok"

    answer, other = await asyncio.gather(stage.call(), stage.call_other())
    # A connection over which something went wrong is closed, never used again.
    await stage.settled(most_open=0 if is_spoilt else 1)
    counted = [name for name in CallOutcome if stage.gateway.count_any(name)]
    stage.repair()
    stage.upstream.behaviour = BEHAVIOURS[case.form]
    again = await stage.call()

    assert (answer.status_code if answer is not None else None) == case.status
    assert failure_of(answer) == (case.code, case.told if case.code else None)
    assert is_whole(answer) is case.is_whole
    assert counted == ([case.counted] if case.counted else [])
    assert other.status_code == 200
    assert is_whole(again)


def failure_of(answer: httpx.Response | None) -> tuple[int | None, str | None]:
    if answer is None or answer.headers.get("content-type") != "application/json":
        return None, None
    try:
        body = answer.json()
    except ValueError:
        return None, None
    if "error" not in body and "isError" not in body["result"]:
        return None, None
    error = error_of(answer)
    return error["code"], error["message"]


def is_whole(answer: httpx.Response | None) -> bool:
    return answer is not None and (TEXT in answer.text or answer.content == b"".join(EVENTS))


def test_the_table_in_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    assert fault_table.rendered() in page, "put the output of rendered() into docs/operations.md"
