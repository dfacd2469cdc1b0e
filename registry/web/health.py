"""Liveness, readiness and metrics routes. Unversioned and open: they reveal no data."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from registry.core.json import JsonObject
from registry.web.errors import RETRY_AFTER_SECONDS, JsonAnswer

Check = Callable[[], Awaitable[bool]]
Facts = Mapping[str, Callable[[], JsonObject]]

GATEWAY_CHECKS = ("gateway", "accepting_requests")
"""Checks that MCP requests need; the gateway's snapshot serves on without the database."""


class SnapshotFacts(BaseModel):
    """The gateway's view of the database."""

    age_seconds: float | None = Field(
        description="Since it last agreed with the database; null when it never did."
    )
    mode: str = Field(description="How it is kept fresh: `change_stream` or `polling`.")


class EmbeddingFacts(BaseModel):
    """The model that finds by meaning. Without it search is by words, which is no failure."""

    state: str = Field(
        description="`off`: none is chosen; `idle`: nothing was embedded yet; `ready`; `failed`."
    )
    model: str | None = Field(description="What its vectors are stored under.")
    problem: str | None = Field(description="Why it failed.")
    pending: int = Field(description="Texts that have no vector yet.")


class Health(BaseModel):
    """Health of the process, check by check."""

    status: str
    checks: dict[str, bool]
    snapshot: SnapshotFacts | None = None
    embedding: EmbeddingFacts | None = None


def _answer(results: Mapping[str, bool], facts: Facts) -> Response:
    green = all(results.values())
    shown: JsonObject = {name: tell() for name, tell in facts.items()}
    return JsonAnswer(
        {"status": "ok" if green else "unavailable", "checks": dict(results), **shown},
        200 if green else 503,
        {} if green else {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def health_router(
    checks: Mapping[str, Check],
    metrics_page: Callable[[], Awaitable[bytes]],
    facts: Facts = MappingProxyType({}),
) -> APIRouter:
    """Return the routes.

    *checks* and *metrics_page*, which returns the metrics in Prometheus' text format, must each
    answer within seconds and never raise. *facts*, by their member, are told from memory.
    """
    router = APIRouter(tags=["health"])

    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live", response_model=Health, operation_id="live")
    async def live() -> Response:
        """Answer 200 as long as the process runs; checks nothing else."""
        return JsonAnswer({"status": "ok", "checks": {}})

    @router.head("/health", include_in_schema=False)
    @router.get(
        "/health",
        response_model=Health,
        operation_id="health",
        responses={503: {"model": Health, "description": "A check is red."}},
    )
    @router.head("/health/ready", include_in_schema=False)
    @router.get(
        "/health/ready",
        response_model=Health,
        operation_id="ready",
        responses={503: {"model": Health, "description": "A check is red."}},
    )
    async def ready() -> Response:
        """Answer 200 if requests can be served, 503 if a check fails."""
        results = {name: await check() for name, check in checks.items()}
        return _answer(results, facts)

    @router.head("/health/gateway", include_in_schema=False)
    @router.get(
        "/health/gateway",
        response_model=Health,
        operation_id="gateway_ready",
        responses={503: {"model": Health, "description": "A check is red."}},
    )
    async def gateway_ready() -> Response:
        """Answer 200 if MCP requests can be served, with or without the database."""
        results = {name: await checks[name]() for name in GATEWAY_CHECKS if name in checks}
        return _answer(results, facts)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", operation_id="metrics", response_class=Response)
    async def prometheus() -> Response:
        """Return the metrics of all workers in Prometheus' text format."""
        page = await metrics_page()
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
