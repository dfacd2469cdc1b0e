"""Attacks by hosts that are asked for metadata and tokens: long, slow, compressed, elsewhere."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from registry.upstream.errors import UnsafeAddressError
from registry.upstream.guard import AddressInfo, UrlGuard
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    OAuthMetadataError,
)
from registry.upstream.oauth.http import (
    MAX_ANSWER_BYTES,
    OAuthHttp,
    oauth_http,
    origin_of,
)
from registry.upstream.oauth.metadata import MAX_METADATA_BYTES, OAuthDiscovery
from registry.upstream.pool import create_upstream_session
from tests.fakes.oauth.documents import Documents
from tests.fakes.upstreams import hangs
from tests.upstream.oauth.conftest import GUARD

HUNDRED_MEGABYTES = 100 * 1024 * 1024
AS_WELL_KNOWN = "/.well-known/oauth-authorization-server"


class Pouring:
    """Answers a hundred megabytes, a piece at a time, and counts what was taken."""

    def __init__(self, *, is_compressed: bool = False) -> None:
        self.sent = 0
        self._is_compressed = is_compressed

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        answer = web.StreamResponse()
        piece = b" " * 65536
        if self._is_compressed:
            answer.headers["Content-Encoding"] = "gzip"
            piece = gzip.compress(b" " * HUNDRED_MEGABYTES)
        await answer.prepare(request)
        while self.sent < HUNDRED_MEGABYTES:
            await answer.write(piece)
            self.sent += len(piece)
            if self._is_compressed:
                break
        return answer


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_metadata_of_a_hundred_megabytes_is_not_read(
    http: OAuthHttp, host: Documents, *, is_compressed: bool
) -> None:
    pouring = Pouring(is_compressed=is_compressed)
    host.answers[AS_WELL_KNOWN] = pouring

    with pytest.raises(
        AuthorizationServerUnavailableError, match=f"The answer of {host.url} is too long."
    ):
        await OAuthDiscovery(http, GUARD).of_issuer(host.url)

    # Some of it waits in the buffers of both sides.
    assert pouring.sent < HUNDRED_MEGABYTES / 4


async def test_answers_are_bounded_to_the_byte(http: OAuthHttp, host: Documents) -> None:
    host.answers["/"] = b"x" * MAX_METADATA_BYTES

    answer = await http.get(f"{host.url}/", max_bytes=MAX_METADATA_BYTES)
    assert len(answer.body) == MAX_METADATA_BYTES

    with pytest.raises(AuthorizationServerUnavailableError):
        await http.get(f"{host.url}/", max_bytes=MAX_METADATA_BYTES - 1)


async def test_a_long_answer_of_a_token_endpoint_is_not_read(
    http: OAuthHttp, host: Documents
) -> None:
    host.answers["/token"] = b"x" * (MAX_ANSWER_BYTES + 1)

    with pytest.raises(AuthorizationServerUnavailableError):
        await http.post_form(f"{host.url}/token", [("a", "b")], {})


async def drips(request: web.Request) -> web.StreamResponse:
    """Answer a byte at a time, each soon enough, without an end."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    released = asyncio.Event()
    while True:
        await answer.write(b" ")
        try:
            await asyncio.wait_for(released.wait(), 0.02)
        except TimeoutError:
            continue


@pytest.mark.parametrize("path", ["/hangs", "/drips"])
async def test_a_slow_answer_is_waited_for_only_so_long(host: Documents, path: str) -> None:
    host.answers = {"/hangs": hangs, "/drips": drips}

    async with oauth_http(GUARD, connect_timeout_seconds=1, total_timeout_seconds=0.2) as http:
        with pytest.raises(AuthorizationServerUnavailableError, match="in time"):
            await http.get(f"{host.url}{path}")
        with pytest.raises(AuthorizationServerUnavailableError, match="in time"):
            await http.post_form(f"{host.url}{path}", [], {})


async def test_a_redirect_is_not_followed(
    http: OAuthHttp, host: Documents, other_host: Documents
) -> None:
    async def elsewhere(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"{other_host.url}/as"})

    host.answers[AS_WELL_KNOWN] = elsewhere

    with pytest.raises(OAuthMetadataError, match="no metadata"):
        await OAuthDiscovery(http, GUARD).of_issuer(host.url)

    assert other_host.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://user@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://[",
        "",
    ],
)
async def test_addresses_that_may_not_be_contacted_are_refused(http: OAuthHttp, url: str) -> None:
    with pytest.raises(UnsafeAddressError):
        await http.get(url)
    with pytest.raises(UnsafeAddressError):
        await http.probe("POST", url, "*/*")


@asynccontextmanager
async def resolving(*answers: str) -> AsyncIterator[tuple[OAuthHttp, list[str]]]:
    """Yield what asks a name server that gives one address after the other, and what it asked."""
    asked: list[str] = []
    waiting = [*answers]

    async def look_up(name: str, port: int) -> list[AddressInfo]:
        asked.append(name)
        address = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    session = create_upstream_session(
        GUARD, connect_timeout_seconds=1, idle_timeout_seconds=1, lookup=look_up
    )
    http = OAuthHttp(session, GUARD, connect_timeout_seconds=1, total_timeout_seconds=5)
    try:
        yield http, asked
    finally:
        await session.close()
        http.close()


async def test_a_name_is_judged_by_the_address_that_is_connected_to(host: Documents) -> None:
    url = host.url.replace("127.0.0.1", "metadata.test")

    async with resolving("10.0.0.1") as (http, _):
        with pytest.raises(UnsafeAddressError):
            await http.get(f"{url}/")

    assert host.seen == []


async def test_a_name_that_leads_elsewhere_the_next_time_is_judged_again(host: Documents) -> None:
    """DNS rebinding: the first address is harmless, the second is the cloud's metadata service."""
    port = host.url.rpartition(":")[2]

    async with resolving("127.0.0.1", "169.254.169.254") as (http, asked):
        await http.get(f"http://one.test:{port}/")
        with pytest.raises(UnsafeAddressError):
            await http.get("http://one.test/")

    assert asked == ["one.test", "one.test"]
    assert host.seen == ["GET /"]


@pytest.mark.parametrize(
    ("guard", "url", "is_refused"),
    [
        (GUARD, "http://127.0.0.1/token", False),
        (UrlGuard(()), "https://as.test/token", False),
        (UrlGuard(()), "http://8.8.8.8/token", True),
        (UrlGuard(()), "http://[2606:4700::1111]/token", True),
        (UrlGuard(["8.0.0.0/8"]), "http://8.8.8.8/token", True),
    ],
)
async def test_secrets_are_sent_in_clear_only_to_private_addresses(
    guard: UrlGuard, url: str, *, is_refused: bool
) -> None:
    async with oauth_http(guard, connect_timeout_seconds=1, total_timeout_seconds=1) as http:
        if is_refused:
            with pytest.raises(OAuthMetadataError, match="by https"):
                await http.require_tls(url)
        else:
            await http.require_tls(url)


async def test_a_host_that_is_not_there_is_unavailable(http: OAuthHttp, host: Documents) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(AuthorizationServerUnavailableError, match="Could not connect"):
        await http.get(f"http://127.0.0.1:{port}/")


async def test_bodies_of_a_hostile_form_are_no_documents(http: OAuthHttp, host: Documents) -> None:
    host.answers["/"] = b"[" * 60_000

    answer = await http.get(f"{host.url}/")

    assert answer.document() is None
    assert answer.form() == {}


async def test_requests_carry_nothing_but_what_they_need(http: OAuthHttp, host: Documents) -> None:
    await http.get(f"{host.url}/")

    assert host.headers[0].keys() == {"host", "accept", "accept-encoding"}


def test_an_origin_is_shown_without_path_and_query() -> None:
    assert origin_of("https://as.test:8443/a?token=s3cret#x") == "https://as.test:8443"
