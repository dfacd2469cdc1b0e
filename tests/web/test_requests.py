"""What surrounds every REST request: ids, records, metrics, health, the last resort."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from structlog.testing import LogCapture

from registry.core.errors import ErrorKind
from registry.core.metrics import Metrics
from registry.web.errors import install_error_handlers
from registry.web.health import health_router
from registry.web.middleware import RequestRecorder

LIMIT = 1000
BODY_SECONDS = 0.05


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of this test's own."""
    return Metrics()


@pytest.fixture
def logs() -> Iterator[LogCapture]:
    """Return every event logged."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture
    structlog.reset_defaults()


@pytest.fixture
async def client(metrics: Metrics, logs: LogCapture) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a small application with everything around its requests."""
    router = APIRouter(prefix="/things")

    @router.get("/{thing_id}")
    async def get_thing(thing_id: str) -> str:
        if thing_id == "cancelled":
            raise asyncio.CancelledError
        return thing_id

    @router.put("/{thing_id}")
    async def put_thing(thing_id: str, body: dict[str, str]) -> str:
        return thing_id + body["name"]

    @router.post("/{thing_id}")
    async def fail(thing_id: str) -> str:
        raise KeyError(thing_id)

    app = FastAPI()

    async def refused(_request: Request, _kind: ErrorKind, _message: str) -> None:
        pass

    install_error_handlers(app, lambda _error, _request: {}, refused)
    app.include_router(router)

    async def page() -> bytes:
        return metrics.render()

    app.include_router(health_router({"good": yes, "bad": no}, page))
    recorder = RequestRecorder(
        app, metrics=metrics, max_body_bytes=LIMIT, body_seconds=BODY_SECONDS
    )
    transport = httpx.ASGITransport(app=recorder)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_every_answer_names_its_request(client: httpx.AsyncClient) -> None:
    first = await client.get("/things/1")
    second = await client.get("/nothing")

    assert len(first.headers["X-Request-ID"]) == 32
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]


async def test_a_harmless_request_id_is_kept_and_logged(
    client: httpx.AsyncClient, logs: LogCapture
) -> None:
    answer = await client.get("/things/1", headers={"X-Request-ID": "trace-7.a_B"})

    assert answer.headers["X-Request-ID"] == "trace-7.a_B"
    assert logs.entries[-1]["request_id"] == "trace-7.a_B"


@pytest.mark.parametrize("sent", [b"a b", b"x" * 129, b"", b"a\xff", b'"><script>', b"a;b"])
async def test_a_harmful_request_id_is_replaced(client: httpx.AsyncClient, sent: bytes) -> None:
    answer = await client.get("/things/1", headers=[(b"X-Request-ID", sent)])

    assert len(answer.headers["X-Request-ID"]) == 32


async def test_a_request_is_recorded_under_its_route_and_not_its_address(
    client: httpx.AsyncClient, metrics: Metrics
) -> None:
    await client.get("/things/1")
    await client.get("/things/2")
    await client.get("/nothing/3")

    rendered = metrics.render().decode()
    name = "http_request_duration_seconds_count"
    assert f'{name}{{method="GET",route="/things/{{thing_id}}",status="200"}} 2.0' in rendered
    assert f'{name}{{method="GET",route="unmatched",status="404"}} 1.0' in rendered
    assert "things/1" not in rendered


async def test_a_request_is_logged_with_its_outcome(
    client: httpx.AsyncClient, logs: LogCapture
) -> None:
    await client.get("/things/1?token=sentinel")

    event = logs.entries[-1]
    assert (event["event"], event["method"], event["path"]) == (
        "request_served",
        "GET",
        "/things/1",
    )
    assert (event["status"], "sentinel" in str(event)) == (200, False)
    assert event["duration_ms"] >= 0


async def test_questions_of_machines_are_not_logged(
    client: httpx.AsyncClient, logs: LogCapture
) -> None:
    await client.get("/health/live")
    await client.get("/metrics")

    assert logs.entries == []


async def test_a_body_that_does_not_arrive_is_not_waited_for(client: httpx.AsyncClient) -> None:
    never = asyncio.Event()

    async def begun() -> AsyncIterator[bytes]:
        yield b'{"name": '
        await never.wait()

    answer = await client.put(
        "/things/1", content=begun(), headers={"Content-Type": "application/json"}
    )

    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert answer.json() == {
        "error": "request_timeout",
        "message": "The request body did not arrive in time.",
    }


async def test_a_request_that_the_end_of_the_server_cuts_off_is_told_so(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/things/cancelled")

    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "service_unavailable", "message": "The registry is being shut down."},
    )


@pytest.mark.requirement("R-138")
async def test_what_nobody_expected_is_a_short_answer_and_a_logged_error(
    client: httpx.AsyncClient, logs: LogCapture
) -> None:
    answer = await client.post("/things/sentinel")

    assert (answer.status_code, answer.json()) == (
        500,
        {
            "error": "internal_error",
            "message": "Internal server error; the log has details under this X-Request-ID.",
        },
    )
    assert [event["event"] for event in logs.entries] == ["request_failed", "request_served"]
    assert logs.entries[0]["request_id"] == answer.headers["X-Request-ID"]


async def test_the_metrics_of_verified_health_are_open(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


@pytest.mark.requirement("R-332")
async def test_one_red_check_makes_the_process_unready_and_leaves_it_alive(
    client: httpx.AsyncClient,
) -> None:
    live, ready = await asyncio.gather(client.get("/health/live"), client.get("/health/ready"))

    assert (live.status_code, live.json()) == (200, {"status": "ok", "checks": {}})
    assert (ready.status_code, ready.json()) == (
        503,
        {"status": "unavailable", "checks": {"good": True, "bad": False}},
    )
