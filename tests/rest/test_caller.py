"""Calls over the one pool: what is sent, what is read, and what APIs may not do to the gateway."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientError, ClientTimeout, web

from registry.core.json import JsonObject
from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.connection import InvalidHttpError
from registry.http.client.exchange import AnswerTimedOut, UpstreamHttp
from registry.openapi.binding import OperationBinding
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import BlockedAddressError, create_upstream_session
from registry.upstream.rest.caller import (
    MAX_FAILURE_BYTES,
    MAX_PROJECTED_BYTES,
    RedirectError,
    RestCaller,
)
from registry.upstream.rest.credentials import Credentials, credentials_of
from registry.upstream.rest.requests import ArgumentError, Operation
from registry.upstream.rest.results import MAX_RESULT_BYTES, RestAnswer
from tests.rest.serving import ITEM, MAKE, REMOVE, SEND, ScriptedApi, scripted_api

pytestmark = pytest.mark.integration

TIMEOUT = ClientTimeout(connect=5, sock_connect=5, sock_read=5)
NOTHING = Credentials({})
ARGUMENTS: dict[str, JsonObject] = {
    "GET": {"id": "7"},
    "DELETE": {"id": "7"},
    "POST": {"name": "a"},
}


class Calling:
    """A caller of an API."""

    def __init__(self, http: UpstreamHttp, api: ScriptedApi) -> None:
        self._caller = RestCaller(http, retries_idempotent=True)
        self.api = api

    async def __call__(
        self,
        binding: OperationBinding = ITEM,
        credentials: Credentials = NOTHING,
        arguments: JsonObject | None = None,
        **options: Any,
    ) -> RestAnswer:
        """Call one operation."""
        operation = Operation(binding, self.api.url)
        request = operation.request(ARGUMENTS[binding.method] if arguments is None else arguments)
        options = {"home": operation.origin, "timeout": TIMEOUT, **options}
        return await self._caller.call(
            request,
            credentials,
            idempotency_header=operation.idempotency_header,
            **options,
        )


@pytest.fixture
async def call() -> AsyncIterator[Calling]:
    session = create_upstream_session(
        UrlGuard(["127.0.0.1/32"]), connect_timeout_seconds=5, idle_timeout_seconds=5
    )
    async with scripted_api() as api, session:
        http = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=2**26)
        yield Calling(http, api)
        http.close()


async def test_a_request_is_sent_as_it_was_made(call: Calling) -> None:
    credentials = credentials_of(
        [("X-Api-Key", "k"), ("Accept", "text/event-stream"), ("mcp-session-id", "1")]
    )

    answer = await call(ITEM, credentials, {"id": "a/b c", "q": ["x", "&"], "trace": "t"})

    (seen,) = call.api.seen
    assert (seen.method, seen.target) == ("GET", "/items/a%2Fb%20c?q=x&q=%26")
    assert dict(seen.headers) == {
        "Host": call.api.url.removeprefix("http://"),
        "Accept": "application/json, */*;q=0.1",
        "X-Trace": "t",
        "X-Api-Key": "k",
    }
    assert (answer.status, answer.body) == (200, b'{"fine": true}')


async def test_a_body_is_sent_with_its_type_and_length(call: Calling) -> None:
    await call(MAKE, arguments={"name": "a", "more": [1]})

    (seen,) = call.api.seen
    assert seen.body == b'{"name":"a","more":[1]}'
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["Content-Length"] == str(len(seen.body))


async def test_keys_go_where_their_scheme_says(call: Calling) -> None:
    credentials = credentials_of(
        [("?api key", "a&b=c"), ("Cookie", "sid=1; other=2"), ("Authorization", "Bearer t")]
    )

    await call(ITEM, credentials, {"id": "7", "q": "x"})

    (seen,) = call.api.seen
    assert seen.target == "/items/7?q=x&api%20key=a%26b%3Dc"
    assert seen.headers["Cookie"] == "sid=1; other=2"
    assert seen.headers["Authorization"] == "Bearer t"


async def test_arguments_replace_no_credentials(call: Calling) -> None:
    headers = credentials_of([("x-trace", "stored")])
    query = credentials_of([("?q", "stored")])

    await call(ITEM, headers, {"id": "7", "trace": "forged"})

    assert call.api.seen[0].headers.getall("X-Trace") == ["stored"]
    with pytest.raises(ArgumentError):
        await call(ITEM, query, {"id": "7", "q": "forged"})


async def test_credentials_are_not_sent_to_another_origin_that_the_description_names(
    call: Calling,
) -> None:
    credentials = credentials_of(
        [("Authorization", "Bearer t"), ("?key", "k"), ("Cookie", "a=b"), ("User-Agent", "us")]
    )

    await call(ITEM, credentials, home="https://api.example.com")

    (seen,) = call.api.seen
    assert seen.target == "/items/7"
    assert {"Authorization", "Cookie"}.isdisjoint(seen.headers)
    assert seen.headers["User-Agent"] == "us"


def redirect(status: int, *locations: str) -> Any:
    """Return what redirects to each location in turn, and then answers."""
    left = list(locations)

    async def answer(_: web.Request) -> web.Response:
        if left:
            return web.Response(status=status, headers={"Location": left.pop(0)})
        return web.json_response({"fine": True})

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_within_the_origin_are_followed(call: Calling, status: int) -> None:
    call.api.answers = redirect(status, "/a?b=c", f"{call.api.url}/d e#g", "h")
    credentials = credentials_of([("Authorization", "Bearer t"), ("?key", "k")])

    answer = await call(ITEM, credentials)

    assert answer.status == 200
    targets = [seen.target for seen in call.api.seen]
    assert targets == ["/items/7?key=k", "/a?b=c&key=k", "/d%20e?key=k", "/h?key=k"]
    assert {seen.headers["Authorization"] for seen in call.api.seen} == {"Bearer t"}


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:9/x",
        "//evil.example/x",
        "https://{host}/x",
        "http://169.254.169.254/latest/meta-data",
        "http://{host}@evil.example/",
        "http://{host}.evil.example/",
        "\\\\evil.example\\x",
        "file:///etc/passwd",
        "http://[::1/",
        "ftp://{host}/",
    ],
)
async def test_redirects_to_other_origins_are_not_followed(call: Calling, location: str) -> None:
    place = call.api.url.removeprefix("http://")
    call.api.answers = redirect(302, location.replace("{host}", place))

    if location.startswith("\\"):
        await call()
        assert call.api.seen[1].target.startswith("/")
        return
    with pytest.raises(RedirectError):
        await call(ITEM, credentials_of([("Authorization", "Bearer t")]))

    assert len(call.api.seen) == 1


async def test_redirects_end(call: Calling) -> None:
    call.api.answers = redirect(302, *["/again"] * 20)

    with pytest.raises(RedirectError, match="more than 5 times"):
        await call()

    assert len(call.api.seen) == 6


@pytest.mark.parametrize(("status", "method"), [(307, "POST"), (308, "POST"), (303, "GET")])
async def test_what_changes_something_follows_only_what_says_how(
    call: Calling, status: int, method: str
) -> None:
    call.api.answers = redirect(status, "/b")

    await call(SEND)

    assert [seen.method for seen in call.api.seen] == ["POST", method]
    assert (call.api.seen[1].body != b"") is (method == "POST")


@pytest.mark.parametrize("status", [301, 302])
async def test_what_changes_something_is_not_sent_to_where_it_may_become_a_get(
    call: Calling, status: int
) -> None:
    call.api.answers = redirect(status, "/b")

    with pytest.raises(RedirectError):
        await call(SEND)

    assert len(call.api.seen) == 1


def breaking(times: int) -> Any:
    """Return what closes its connection without an answer, a few times."""
    left = [None] * times

    async def answer(request: web.Request) -> web.Response:
        if left:
            left.pop()
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"fine": True})

    return answer


@pytest.mark.parametrize("binding", [ITEM, REMOVE, MAKE], ids=["GET", "DELETE", "POST with a key"])
async def test_what_may_be_repeated_is_sent_again_once(
    call: Calling, binding: OperationBinding
) -> None:
    call.api.answers = breaking(1)

    answer = await call(binding)

    assert answer.status == 200
    assert len(call.api.seen) == 2
    keys = {seen.headers.get("Idempotency-Key") for seen in call.api.seen}
    assert len(keys) == 1
    assert (keys != {None}) is (binding is MAKE)


@pytest.mark.parametrize(("binding", "times"), [(SEND, 1), (ITEM, 2)], ids=["POST", "GET"])
async def test_what_may_not_be_repeated_fails(
    call: Calling, binding: OperationBinding, times: int
) -> None:
    call.api.answers = breaking(times)

    with pytest.raises(ClientError):
        await call(binding)

    assert len(call.api.seen) == times


async def test_each_call_has_a_key_of_its_own_unless_it_brings_one(call: Calling) -> None:
    await call(MAKE)
    await call(MAKE)
    key = credentials_of([("idempotency-key", "mine")])
    await call(MAKE, key)

    first, second, third = (seen.headers["Idempotency-Key"] for seen in call.api.seen)
    assert len({first, second}) == 2
    assert third == "mine"


async def test_nothing_is_sent_to_addresses_that_are_not_allowed(call: Calling) -> None:
    binding = ITEM.model_copy(update={"base_url": "http://127.0.0.2:9"})

    with pytest.raises(ClientError) as raised:
        await call(binding)

    assert isinstance(raised.value.__cause__, BlockedAddressError)
    assert call.api.seen == []


def endless(piece: bytes, **headers: str) -> Any:
    """Return what sends a piece for ever, as part of 1 GB."""

    async def answer(request: web.Request) -> web.StreamResponse:
        head = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.StreamResponse(headers=head)
        await response.prepare(request)
        try:
            while True:
                await response.write(piece)
        except ConnectionError:
            return response

    return answer


async def test_of_a_gigabyte_only_the_beginning_is_read(call: Calling) -> None:
    call.api.answers = endless(b"x" * 65536, content_type="text/plain", content_length=str(10**9))
    tracemalloc.start()

    answer = await call()

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(answer.body), answer.is_cut, answer.length) == (MAX_RESULT_BYTES, True, 10**9)
    assert most < 10 * MAX_RESULT_BYTES


async def test_more_is_read_where_a_projection_leaves_little(call: Calling) -> None:
    call.api.answers = endless(b"x" * 65536, content_type="application/json")

    answer = await call(is_projected=True)

    assert (len(answer.body), answer.is_cut) == (MAX_PROJECTED_BYTES, True)


async def test_of_an_error_less_is_read(call: Calling) -> None:
    async def fails(_: web.Request) -> web.Response:
        return web.Response(status=500, body=b"x" * 10**6)

    call.api.answers = fails

    answer = await call()

    assert (answer.status, len(answer.body), answer.is_cut) == (500, MAX_FAILURE_BYTES, True)


BOMB = 2**28


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_inflated_no_further_than_the_bound(call: Calling, encoding: str) -> None:
    zeros = b"0" * 2**20
    deflater = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(deflater.compress(zeros) for _ in range(BOMB >> 20)) + deflater.flush()

    async def explode(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": encoding})

    call.api.answers = explode
    tracemalloc.start()

    answer = await call()

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(answer.body), answer.is_cut, answer.length) == (MAX_RESULT_BYTES, True, None)
    assert most < 10 * MAX_RESULT_BYTES


async def test_what_is_compressed_unasked_is_read(call: Calling) -> None:
    async def compress(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b'{"a":1}'), headers={"Content-Encoding": "gzip"})

    call.api.answers = compress

    assert (await call()).body == b'{"a":1}'


async def test_an_encoding_that_was_not_asked_for_is_refused(call: Calling) -> None:
    async def compress(_: web.Request) -> web.Response:
        return web.Response(body=b"\x8b\x00\x80\x01", headers={"Content-Encoding": "br"})

    call.api.answers = compress

    with pytest.raises(InvalidHttpError):
        await call()


async def test_an_answer_that_ends_in_the_middle_is_an_error(call: Calling) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"a":')
        assert request.transport is not None
        request.transport.abort()
        return response

    call.api.answers = hang_up

    with pytest.raises(ClientError):
        await call()


async def test_silence_ends_a_call(call: Calling) -> None:
    never = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    call.api.answers = wait

    with pytest.raises(AnswerTimedOut):
        await call(timeout=ClientTimeout(sock_connect=1, sock_read=0.05))


async def test_head_has_no_body_whatever_its_length_says(call: Calling) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Content-Length": "1000"})

    call.api.answers = answer
    call.api.seen.clear()

    found = await call(ITEM.model_copy(update={"method": "HEAD"}), arguments={"id": "7"})

    assert (found.status, found.body) == (200, b"")


async def test_a_line_break_in_a_stored_header_is_refused() -> None:
    with pytest.raises(ValueError, match="control character"):
        credentials_of([("X-Api-Key", "a\r\nX-Evil: 1")])
