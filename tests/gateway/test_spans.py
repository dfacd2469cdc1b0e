"""OpenTelemetry spans of gateway requests."""

import hashlib
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from registry.gateway.edge.spans import SpanTracing
from tests.conftest import ALICE
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.fakes import Request, ScriptedUpstream, make_route
from tests.gateway.serving import serve
from tests.kit.waiting import until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[SpanTracing]:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield SpanTracing(provider.get_tracer("test"))
    provider.shutdown()


@pytest.fixture
async def traced(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    tracing: SpanTracing,
    stack: AsyncExitStack,
) -> Gateway:
    url = await stack.enter_async_context(serve(upstream))
    started: Gateway = await start_gateway(make_route(f"{url}/mcp"), tracing=tracing)
    return started


async def spans(exporter: InMemorySpanExporter, count: int) -> dict[SpanKind, ReadableSpan]:
    """Wait for so many spans and return them by kind."""
    await until(lambda: len(exporter.get_finished_spans()) >= count, 5)
    found = exporter.get_finished_spans()
    assert len(found) == count
    return {span.kind: span for span in found}


async def test_a_call_is_a_span_with_the_upstreams_below_it(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    await traced.call("echo", mcp_protocol_version="2025-11-25")

    found = await spans(exporter, 2)
    server, client = found[SpanKind.SERVER], found[SpanKind.CLIENT]
    assert (server.name, client.name) == ("tools/call echo", "tools/call echo")
    assert server.parent is None
    assert client.parent == server.context
    times = [server.start_time, client.start_time, client.end_time, server.end_time]
    assert times == sorted(times, key=lambda moment: moment or 0)
    assert None not in times
    common = {
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "mcp_gateway.server": "demo",
        "mcp_gateway.outcome": "ok",
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2025-11-25",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "jsonrpc.request.id": "1",
    }
    assert server.attributes == {
        **common,
        "client.address": "127.0.0.1",
        "user.id": ALICE.user_id,
    }
    port = int(upstream.requests[0].headers["host"].rpartition(":")[2])
    assert client.attributes == {
        **common, "server.address": "127.0.0.1", "server.port": port,
    }  # fmt: skip


async def test_the_header_upstream_names_our_span_in_the_callers_trace(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    await traced.call(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1")

    found = await spans(exporter, 2)
    server, client = found[SpanKind.SERVER], found[SpanKind.CLIENT]
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == SPAN
    sent = upstream.requests[0].headers
    assert sent["traceparent"] == f"00-{TRACE}-{client.context.span_id:016x}-01"
    assert sent["tracestate"] == "a=1"


async def test_the_context_in_the_body_is_the_parent_and_the_body_stays(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    meta = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    message = request("tools/call", {"name": "echo", "arguments": {}, "_meta": meta})

    await traced.post(message, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    server = (await spans(exporter, 2))[SpanKind.SERVER]
    assert f"{server.context.trace_id:032x}" == TRACE
    assert upstream.requests[0].message == message


async def test_a_trace_that_its_caller_does_not_record_is_passed_on_only(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    await traced.call(traceparent=f"00-{TRACE}-{SPAN}-00")

    assert exporter.get_finished_spans() == ()
    sent = upstream.requests[0].headers["traceparent"]
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")


async def test_a_call_without_a_trace_begins_one_that_its_record_names(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    await traced.call()

    server = (await spans(exporter, 2))[SpanKind.SERVER]
    trace_id = f"{server.context.trace_id:032x}"
    assert upstream.requests[0].headers["traceparent"].split("-")[1] == trace_id
    assert traced.notes.calls[0].trace_id == trace_id


async def test_a_refusal_is_an_error_without_the_name_that_the_client_made_up(
    traced: Gateway, exporter: InMemorySpanExporter
) -> None:
    answer = await traced.call("made-up")

    (server,) = (await spans(exporter, 1)).values()
    assert server.name == "tools/call"
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes is not None
    assert server.attributes["error.type"] == "-32602"
    assert server.attributes["rpc.response.status_code"] == "-32602"
    assert "gen_ai.tool.name" not in server.attributes
    trace_id = f"{server.context.trace_id:032x}"
    assert answer.json()["error"]["data"]["trace_id"] == trace_id


async def test_a_failed_tool_is_an_error_of_both_spans(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    async def behaviour(received: Request) -> None:
        await received.result({"content": [], "isError": True})

    upstream.behaviour = behaviour

    await traced.call()

    for span in (await spans(exporter, 2)).values():
        assert span.attributes is not None
        assert span.attributes["error.type"] == "tool_error"
        assert span.status.status_code is StatusCode.ERROR


async def test_a_session_is_named_by_a_digest(
    traced: Gateway, upstream: ScriptedUpstream, exporter: InMemorySpanExporter
) -> None:
    async def behaviour(received: Request) -> None:
        await received.result({}, mcp_session_id="upstream-1")

    upstream.behaviour = behaviour
    opened = await traced.post(request("initialize", {"protocolVersion": "2025-11-25"}))
    sealed = opened.headers["mcp-session-id"]
    await spans(exporter, 2)
    exporter.clear()

    await traced.call("echo", mcp_session_id=sealed)

    server = (await spans(exporter, 2))[SpanKind.SERVER]
    assert server.attributes is not None
    digest = hashlib.sha256(sealed.encode()).hexdigest()[:16]
    assert server.attributes["mcp.session.id"] == digest


async def test_prompts_and_resources_are_attributes_and_no_names(
    traced: Gateway, exporter: InMemorySpanExporter
) -> None:
    await traced.post(request("resources/read", {"uri": "https://host/a?token=sentinel-12"}))

    server = (await spans(exporter, 2))[SpanKind.SERVER]
    assert server.name == "resources/read"
    assert server.attributes is not None
    assert server.attributes["mcp.resource.uri"] == "https://host/a?token=***"
