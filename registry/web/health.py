"""Liveness, readiness and metrics. Unversioned and open: they say nothing about data."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from registry.core.metrics import Metrics
from registry.web.errors import RETRY_AFTER_SECONDS, JsonAnswer

Check = Callable[[], Awaitable[bool]]


class Health(BaseModel):
    """Whether the process can do its work, check by check."""

    status: str
    checks: dict[str, bool]


def health_router(
    checks: Mapping[str, Check],
    metrics: Metrics,
    before_metrics: Callable[[], Awaitable[None]] | None = None,
) -> APIRouter:
    """Return the routes.

    *checks* must each answer within seconds and never raise; so must *before_metrics*, which
    brings up to date what is not counted as it happens.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health/live", response_model=Health, operation_id="live")
    async def live() -> Response:
        """Answer 200 as long as the process runs; look no further."""
        return JsonAnswer({"status": "ok", "checks": {}})

    @router.get(
        "/health/ready",
        response_model=Health,
        operation_id="ready",
        responses={503: {"model": Health, "description": "A check is red."}},
    )
    async def ready() -> Response:
        """Answer 200 when requests can be served, 503 when a check is red."""
        results = {name: await check() for name, check in checks.items()}
        green = all(results.values())
        return JsonAnswer(
            {"status": "ok" if green else "unavailable", "checks": results},
            200 if green else 503,
            {} if green else {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )

    @router.get("/metrics", operation_id="metrics", response_class=Response)
    async def prometheus() -> Response:
        """Answer all metrics in Prometheus' text format."""
        if before_metrics is not None:
            await before_metrics()
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
