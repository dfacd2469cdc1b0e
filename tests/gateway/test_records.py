"""What is noted of requests to the gateway: metrics, records, lines in the log, trace ids."""

from typing import Any

import orjson
import pytest
import structlog

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.edge import recorder as recorder_module
from registry.gateway.edge.recorder import LINES_A_SECOND, CallLog, Recorder
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import CallOutcome
from registry.gateway.values import tool_entry
from tests.conftest import ALICE, ROOT
from tests.gateway.conftest import READER, Gateway, StartGateway, request
from tests.gateway.fakes import PRIVATE, Request, ScriptedUpstream, make_route
from tests.kit.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def calls(metrics: Metrics, **labels: str) -> float:
    return metrics.registry.get_sample_value("mcp_gateway_tool_calls_total", labels) or 0


async def settled(gateway: Gateway, count: int = 1) -> None:
    """Wait until so many calls were noted: an answer may arrive before its request has ended."""
    await until(lambda: len(gateway.notes.calls) >= count, 5)


async def test_a_call_is_noted_with_who_what_when_and_how_much(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    before = SystemClock().monotonic()

    answer = await gateway.call("echo", traceparent=PARENT)
    await settled(gateway)

    (note,) = gateway.notes.calls
    assert (note.user_id, note.server_id, note.slug) == (
        ALICE.user_id,
        "demo".ljust(24, "0"),
        "demo",
    )
    assert (note.method, note.target, note.is_modern) == ("tools/call", "echo", False)
    assert (note.outcome, note.error_code, note.trace_id) == (CallOutcome.OK, 0, TRACE)
    assert note.request_bytes == len(upstream.requests[0].body)
    assert note.response_bytes == len(answer.content)
    assert before < note.began_at < note.decided_at < note.head_at < note.ended_at


async def test_arguments_and_results_are_not_noted(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    params = {"name": "echo", "arguments": {"secret": "sentinel-41"}}
    await gateway.post(request("tools/call", params))
    await settled(gateway)

    assert "sentinel-41" not in repr(gateway.notes.calls)


@pytest.mark.parametrize(
    ("method", "params", "target"),
    [
        ("prompts/get", {"name": "greet"}, "greet"),
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
    ],
)
async def test_prompts_and_resources_are_noted_too(
    gateway: Gateway, method: str, params: dict[str, Any], target: str
) -> None:
    await gateway.post(request(method, params))
    await settled(gateway)

    assert [(note.method, note.target) for note in gateway.notes.calls] == [(method, target)]


async def test_lists_pings_notifications_and_strangers_leave_metrics_only(
    gateway: Gateway,
) -> None:
    await gateway.post(request("tools/list"))
    await gateway.post(request("ping"))
    await gateway.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    await gateway.post(request("tools/call", {"name": "echo"}), user="stranger")

    assert gateway.notes.calls == []
    assert gateway.count("tools/list", "ok") == 1
    assert calls(gateway.metrics, server="-", tool="other", outcome="unauthorized") == 1


async def test_refusals_of_known_callers_are_noted(gateway: Gateway) -> None:
    await gateway.call("unheard-of")
    await gateway.post(request("tools/call", {"name": "echo"}), slug="nowhere")
    await gateway.post(request("tools/call", {"name": "echo"}), user="reader")
    await settled(gateway, 3)

    told = [
        (note.username, note.server_id is None, note.outcome, note.error_code, note.target)
        for note in gateway.notes.calls
    ]
    assert told == [
        ("alice", False, "refused", -32602, "unheard-of"),
        ("alice", True, "refused", 404, "echo"),
        (READER.username, True, "unauthorized", 403, "echo"),
    ]
    assert {note.decided_at for note in gateway.notes.calls} == {0}


@pytest.mark.parametrize(
    ("result", "outcome", "code"),
    [
        ({"result": {"content": [], "isError": True}}, "tool_error", 0),
        ({"error": {"code": -32050, "message": "no"}}, "rpc_error", -32050),
    ],
)
async def test_a_failure_inside_a_good_answer_is_one_in_records(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    result: dict[str, Any],
    outcome: str,
    code: int,
) -> None:
    async def behaviour(received: Request) -> None:
        await received.answer(200, orjson.dumps({"jsonrpc": "2.0", "id": 1, **result}))

    upstream.behaviour = behaviour

    await gateway.call()
    await settled(gateway)

    assert (gateway.notes.calls[0].outcome, gateway.notes.calls[0].error_code) == (outcome, code)
    assert calls(gateway.metrics, server="demo", tool="echo", outcome=outcome) == 1
    assert gateway.count("tools/call", "ok") == 1


async def test_a_failure_in_an_event_stream_is_seen_too(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def behaviour(received: Request) -> None:
        await received.start(content_type="text/event-stream")
        await received.chunk(b'data: {"method":"notifications/progress"}\n\n')
        await received.chunk(b'data: {"id":1,"result":{"isError":true}}\n\n')
        await received.chunk(b"", more=False)

    upstream.behaviour = behaviour

    answer = await gateway.call()
    await settled(gateway)

    note = gateway.notes.calls[0]
    assert (note.outcome, note.response_bytes) == ("tool_error", len(answer.content))


async def test_names_that_not_everybody_may_know_are_no_labels(
    start_gateway: StartGateway,
) -> None:
    hidden = tool_entry("hidden-tool", '{"name":"hidden-tool","inputSchema":{}}')
    gateway = await start_gateway(
        make_route(slug="open"),
        make_route(slug="mine", facts=PRIVATE, tools=[hidden]),
        admin_uses_private=True,
    )
    message = request("tools/call", {"name": "hidden-tool", "arguments": {}})

    await gateway.post(message, slug="mine", user=ROOT.username)
    await gateway.post(message, slug="open")
    await settled(gateway, 2)

    page = gateway.metrics.render()
    assert b"hidden-tool" not in page
    assert b"mine" not in page
    private = {"server": "(not public)", "tool": "(not public)", "outcome": "upstream_error"}
    assert calls(gateway.metrics, **private) == 1
    assert calls(gateway.metrics, server="open", tool="other", outcome="refused") == 1


async def test_phases_add_up_and_a_failure_is_the_upstreams_time(
    start_gateway: StartGateway, gateway: Gateway
) -> None:
    away = await start_gateway(make_route())

    await gateway.call()
    await away.call()
    await settled(gateway)
    await settled(away)

    def observed(metrics: Metrics) -> dict[str, float]:
        name = "mcp_gateway_phase_duration_seconds_count"
        return {
            phase: metrics.registry.get_sample_value(name, {"server": "demo", "phase": phase}) or 0
            for phase in ("admission", "upstream", "relay")
        }

    assert observed(gateway.metrics) == {"admission": 1, "upstream": 1, "relay": 1}
    assert observed(away.metrics) == {"admission": 1, "upstream": 1, "relay": 0}


def ended(recorder: Recorder, **facts: Any) -> None:
    """Let a request with *facts* begin and end."""

    async def nothing(*_: object) -> Any:
        return None

    exchange = GatewayRequest({"path": "/mcp/x", "method": "POST"}, nothing, nothing)
    recorder.started(exchange)
    for name, value in facts.items():
        setattr(exchange, name, value)
    recorder.ended(exchange)


def test_however_many_names_there_are_the_labels_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_SERIES", 3)
    metrics = Metrics()
    recorder = Recorder(metrics, SystemClock())

    for number in range(10):
        name = f"n{number}"
        ended(recorder, method="tools/call", label=name, tool=name, decided_at=1e-9)
        ended(recorder, method=name, label="demo")

    page = metrics.render().decode()
    assert 'server="n2",tool="n2"' in page
    assert "n4" not in page
    assert calls(metrics, server="other", tool="other", outcome="ok") == 7
    assert 'method="n' not in page


async def test_failures_are_logged_without_what_the_client_made_up(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(make_route(), call_log=CallLog("errors"))

    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
        await gateway.post(request("tools/list"))
        await gateway.call("echo", traceparent=PARENT)
        await gateway.post(request("x\n" * 500))
        await settled(gateway)

    first, second = (line for line in lines if line["event"] == "gateway_call")
    assert {
        name: first[name] for name in ("server", "tool", "outcome", "trace_id", "user_id")
    } == {
        "server": "demo",
        "tool": "echo",
        "outcome": "upstream_error",
        "trace_id": TRACE,
        "user_id": ALICE.user_id,
    }
    assert len(second["method"]) == 256
    assert "\n" not in second["method"]


@pytest.mark.parametrize(("mode", "lines"), [("off", 0), ("errors", 1), ("all", 2)])
async def test_the_setting_says_what_is_logged(
    start_gateway: StartGateway, mode: Any, lines: int
) -> None:
    gateway = await start_gateway(make_route(), call_log=CallLog(mode))

    with structlog.testing.capture_logs() as logged:
        await gateway.post(request("tools/list"))
        await gateway.call()
        await settled(gateway)

    assert [line["event"] for line in logged].count("gateway_call") == lines


def test_a_flood_of_failures_is_cut_and_counted() -> None:
    recorder = Recorder(Metrics(), SystemClock(), call_log=CallLog("errors"))

    with structlog.testing.capture_logs() as logged:
        for _ in range(100):
            ended(recorder, outcome=CallOutcome.TIMEOUT, began_at=1.0)

    assert len(logged) in {LINES_A_SECOND, 2 * LINES_A_SECOND}


async def test_an_error_names_the_trace_by_which_it_can_be_found(gateway: Gateway) -> None:
    with_trace = await gateway.call("unheard-of", traceparent=PARENT)
    without = await gateway.call("unheard-of")

    assert with_trace.json()["error"]["data"]["trace_id"] == TRACE
    assert "trace_id" not in without.json()["error"]["data"]


async def test_the_body_names_the_trace_where_the_headers_do_not(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    meta = {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}
    message = request("tools/call", {"name": "echo", "arguments": {}, "_meta": meta})

    await gateway.post(message)
    await settled(gateway)

    sent = upstream.requests[0]
    assert {name: sent.headers[name] for name in meta} == meta
    assert sent.message == message
    assert gateway.notes.calls[0].trace_id == TRACE


async def test_malformed_context_goes_no_further(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await gateway.call(traceparent="00-1-2-03", tracestate="a=1", baggage="no baggage")

    assert not {"traceparent", "tracestate", "baggage"} & upstream.requests[0].headers.keys()
