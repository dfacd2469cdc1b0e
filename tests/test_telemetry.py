"""Spans reach a collector over OTLP/HTTP, and nothing is set up without one."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.sampling import Decision
from pydantic import SecretStr, ValidationError
from typing_extensions import override

from registry import telemetry
from registry.core.clock import SystemClock
from registry.core.settings import SettingsError
from registry.telemetry import pairs, tracing
from tests.gateway.conftest import StartGateway, make_settings
from tests.gateway.conftest import stack as stack  # noqa: PLC0414 - a fixture
from tests.gateway.conftest import start_gateway as start_gateway  # noqa: PLC0414 - a fixture
from tests.gateway.fakes import make_route


class Collector:
    """An OTLP/HTTP collector on a socket."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None, ExportTraceServiceRequest]] = []
        self.hangs = threading.Event()
        self.hangs.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.hangs.wait(10)
                message = ExportTraceServiceRequest.FromString(body)
                collector.requests.append((self.path, self.headers.get("x-key"), message))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            @override
            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.hangs.set()
    collector.server.shutdown()
    collector.server.server_close()


async def test_spans_reach_the_collector_by_the_end_of_the_process(
    collector: Collector, start_gateway: StartGateway
) -> None:
    settings = make_settings(
        otel_exporter_otlp_endpoint=f"{collector.url}/",
        otel_exporter_otlp_headers=SecretStr("x-key=a%20b"),
        otel_resource_attributes="deployment.environment.name=test",
    )

    async with tracing(settings, "host:1") as spans:
        gateway = await start_gateway(make_route(), tracing=spans)
        await gateway.call()

    ((path, key, message),) = collector.requests
    (resource_spans,) = message.resource_spans
    resource = {item.key: item.value.string_value for item in resource_spans.resource.attributes}
    assert (path, key) == ("/v1/traces", "a b")
    assert resource["service.name"] == "mcp-gateway-registry"
    assert resource["service.instance.id"] == "host:1"
    assert resource["deployment.environment.name"] == "test"
    names = [span.name for span in resource_spans.scope_spans[0].spans]
    assert names == ["tools/call echo", "tools/call echo"]


async def test_a_collector_that_hangs_delays_neither_calls_nor_the_end_for_long(
    collector: Collector, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_SECONDS", 0.2)
    collector.hangs.clear()
    settings = make_settings(otel_exporter_otlp_endpoint=collector.url)
    clock = SystemClock()

    async with asyncio.timeout(30):
        async with tracing(settings, "host:1") as spans:
            gateway = await start_gateway(make_route(), tracing=spans)
            await gateway.call()
            began = clock.monotonic()

    assert clock.monotonic() - began < 2


async def test_without_a_collector_there_is_no_tracing() -> None:
    async with tracing(make_settings(), "host:1") as spans:
        assert spans is None


def test_the_application_does_not_import_the_sdk() -> None:
    program = "import sys, registry.main; print('opentelemetry.sdk' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert ran.stdout == b"False\n"


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(SettingsError, match=r"needs the extra otel"):
        async with tracing(make_settings(otel_exporter_otlp_endpoint="http://c"), "host:1"):
            pass


@pytest.mark.parametrize("address", ["collector:4318", "grpc://collector", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="must be an http or https address"):
        make_settings(otel_exporter_otlp_endpoint=address)


def test_an_empty_address_is_none() -> None:
    assert make_settings(otel_exporter_otlp_endpoint="").otel_exporter_otlp_endpoint is None


def test_lists_of_pairs_are_read_as_the_specification_writes_them() -> None:
    assert pairs("a=1, b = x%3Dy ,nothing,=") == {"a": "1", "b": "x=y"}
    assert pairs("") == {}


@pytest.mark.parametrize(
    ("name", "is_sampled"),
    [
        ("always_on", True),
        ("parentbased_always_on", True),
        ("always_off", False),
        ("parentbased_always_off", False),
        ("parentbased_traceidratio", False),
    ],
)
def test_samplers_are_those_of_the_specification(name: str, is_sampled: bool) -> None:  # noqa: FBT001 - a table
    decided = telemetry._sampler(name, 0.0).should_sample(None, 1, "x")

    assert (decided.decision is Decision.RECORD_AND_SAMPLE) is is_sampled
