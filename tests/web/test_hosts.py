"""Which Host and Origin headers are answered, and that nothing else is, on both planes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog.testing

from registry.web.hosts import HostGuard
from tests.fakes.rest import Rest, rest_settings, running

EVIL = "evil.example:7860"
"""As a page's own name is sent, of which the DNS says that it is an address of ours."""

in_one_loop = pytest.mark.asyncio(loop_scope="module")

LOCAL = HostGuard(base_url="http://127.0.0.1:7860", bind_host="127.0.0.1")
PUBLIC = HostGuard(
    base_url="https://gw.example",
    bind_host="0.0.0.0",  # noqa: S104 - a value, nothing listens
    allowed_hosts=("inner", "other:8080"),
    allowed_origins=("https://console.example/",),
)


@pytest.mark.parametrize(
    ("guard", "host", "origin"),
    [
        (LOCAL, "127.0.0.1:7860", None),
        (LOCAL, "localhost:7860", None),
        (LOCAL, "LocalHost:7860", None),
        (LOCAL, "[::1]:7860", None),
        (LOCAL, "localhost:7860", "http://localhost:7860"),
        (LOCAL, "localhost:7860", "http://127.0.0.1:7860"),
        (PUBLIC, "gw.example", None),
        (PUBLIC, "gw.example:443", "https://gw.example"),
        (PUBLIC, "inner", None),
        (PUBLIC, "inner:99", None),
        (PUBLIC, "other:8080", "https://console.example"),
    ],
)
def test_our_names_are_answered(guard: HostGuard, host: str, origin: str | None) -> None:
    assert guard.is_our_name(host, 7860)
    assert origin is None or guard.is_allowed_origin(origin, 7860)


@pytest.mark.parametrize(
    ("guard", "host"),
    [
        (LOCAL, ""),
        (LOCAL, "evil.example"),
        (LOCAL, "localhost"),
        (LOCAL, "localhost:1"),
        (LOCAL, "localhost:7860.evil.example"),
        (LOCAL, "evil.example:7860"),
        (PUBLIC, "localhost:7860"),
        (PUBLIC, "other"),
        (PUBLIC, "other:1"),
        (PUBLIC, "gw.example.evil.example"),
    ],
)
def test_other_names_are_not(guard: HostGuard, host: str) -> None:
    assert not guard.is_our_name(host, 7860)


@pytest.mark.parametrize(
    ("guard", "origin"),
    [
        (LOCAL, "http://localhost:1"),
        (LOCAL, "https://localhost:7860"),
        (LOCAL, "null"),
        (LOCAL, "http://evil.example"),
        (LOCAL, ""),
        (PUBLIC, "http://gw.example"),
        (PUBLIC, "https://gw.example.evil.example"),
    ],
)
def test_pages_of_other_origins_may_not_call(guard: HostGuard, origin: str) -> None:
    assert not guard.is_allowed_origin(origin, 7860)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    home = tmp_path_factory.mktemp("home")
    settings = rest_settings(mongo_uri, key_files, home, allowed_hosts=("inner.example",))
    async with running(settings) as rest:
        yield rest


@in_one_loop
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/docs/swagger-ui.css"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/api/v1/servers"),
        ("POST", "/api/v1/servers"),
        ("OPTIONS", "/api/v1/servers"),
        ("GET", "/healthy"),
        ("GET", "/nothing"),
        ("POST", "/mcp"),
        ("GET", "/mcp"),
        ("OPTIONS", "/mcp"),
        ("POST", "/mcp/weather"),
    ],
)
async def test_a_page_whose_name_was_bound_to_our_address_gets_nothing(
    rest: Rest, method: str, path: str
) -> None:
    ours = await rest.client.request(method, path)
    theirs = await rest.client.request(method, path, headers={"Host": EVIL})

    assert ours.status_code != 421
    assert theirs.status_code == 421
    assert theirs.json() == {
        "error": "misdirected_request",
        "message": "This Host is not served here; ALLOWED_HOSTS lists further ones.",
    }


@in_one_loop
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/gateway"])
async def test_probes_may_come_by_address(rest: Rest, path: str) -> None:
    answer = await rest.client.get(path, headers={"Host": "10.1.2.3:7860"})
    by_head = await rest.client.head(path, headers={"Host": "10.1.2.3:7860"})

    assert (answer.status_code, by_head.status_code) == (200, 200)


@in_one_loop
@pytest.mark.parametrize("path", ["/", "/docs", "/docs/swagger-ui.css", "/metrics"])
async def test_pages_are_asked_for_with_head(rest: Rest, path: str) -> None:
    answer = await rest.client.head(path)

    assert answer.status_code == 200


@in_one_loop
@pytest.mark.parametrize("path", ["/metrics", "/docs", "/mcp/weather"])
async def test_further_names_are_answered_on_both_planes(rest: Rest, path: str) -> None:
    answer = await rest.client.get(path, headers={"Host": "inner.example:81"})

    assert answer.status_code != 421


@pytest.mark.parametrize("sent", [[], [(b"host", b"127.0.0.1:7860"), (b"host", b"evil.example")]])
def test_a_request_names_one_host(sent: list[tuple[bytes, bytes]]) -> None:
    scope = {"type": "http", "headers": sent, "server": ("127.0.0.1", 7860)}

    assert not LOCAL.is_addressed(scope)


@in_one_loop
async def test_what_is_refused_is_counted_and_logged(rest: Rest) -> None:
    refused = {"method": "GET", "route": "unmatched", "status": "421"}
    name, counted = "http_request_duration_seconds_count", rest.parts.metrics.registry
    before = counted.get_sample_value(name, refused) or 0

    with structlog.testing.capture_logs() as logs:
        answer = await rest.client.get("/api/v1/servers", headers={"Host": EVIL})

    assert answer.headers["x-request-id"]
    assert [(line["event"], line["status"]) for line in logs] == [("request_served", 421)]
    assert counted.get_sample_value(name, refused) == before + 1
