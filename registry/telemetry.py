"""Tracing: sends spans to an OTLP/HTTP collector if the settings name one.

The SDK is the optional extra `otel` and is imported only then. It reads its other variables itself
(`OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `..._COMPRESSION`, `..._CERTIFICATE` and so on).
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import registry
from registry.core.settings import Settings, SettingsError
from registry.gateway.edge.recorder import Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

TRACES_PATH = "/v1/traces"
CLOSE_SECONDS = 5.0
"""How long shutdown may wait for the collector to receive the last spans."""

INSTRUMENTATION = "mcp-gateway-registry"


@asynccontextmanager
async def tracing(settings: Settings, instance: str) -> AsyncIterator[Tracing | None]:
    """Yield the tracer, or None without a collector.

    A thread of the SDK sends spans in batches from a bounded queue; they are dropped if the
    collector is unavailable.

    Args:
        settings: Name the collector.
        instance: Names this process.

    Raises:
        SettingsError: There is a collector, but the extra is not installed.
    """
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional

        from registry.gateway.edge.spans import SpanTracing  # noqa: PLC0415 - needs the extra
    except ImportError:
        problem = (
            "OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra otel "
            "(pip install 'mcp-gateway-registry[otel]')"
        )
        raise SettingsError([problem]) from None

    headers = settings.otel_exporter_otlp_headers
    exporter = OTLPSpanExporter(
        endpoint=endpoint + TRACES_PATH,
        headers=None if headers is None else pairs(headers.get_secret_value()),
    )
    processor = BatchSpanProcessor(exporter)
    provider = TracerProvider(
        sampler=_sampler(settings.otel_traces_sampler, settings.otel_traces_sampler_arg),
        resource=Resource.create(
            {
                "service.version": registry.__version__,
                "service.instance.id": instance,
                **pairs(settings.otel_resource_attributes),
                "service.name": settings.otel_service_name,
            }
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(processor)
    try:
        yield SpanTracing(provider.get_tracer(INSTRUMENTATION, registry.__version__))
    finally:
        await asyncio.to_thread(_close, processor.shutdown, exporter.shutdown)


def pairs(text: str) -> dict[str, str]:
    """Return the entries of `name=value,name=value`, percent-decoded; others are left out."""
    entries = [entry.partition("=") for entry in text.split(",") if "=" in entry]
    return {
        unquote(name.strip()): unquote(value.strip()) for name, _, value in entries if name.strip()
    }


def _sampler(name: str, share: float) -> "Sampler":
    from opentelemetry.sdk.trace import sampling  # noqa: PLC0415 - optional

    kinds: dict[str, Sampler] = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": sampling.TraceIdRatioBased(share),
    }
    root = kinds[name.removeprefix("parentbased_")]
    return sampling.ParentBased(root) if name.startswith("parentbased_") else root


def _close(send_rest: Callable[[], None], abandon: Callable[[], None]) -> None:
    # The SDK waits half a minute, without an option for less; our own thread can be abandoned.
    sending = threading.Thread(target=send_rest, daemon=True)
    sending.start()
    sending.join(CLOSE_SECONDS)
    if sending.is_alive():
        abandon()
