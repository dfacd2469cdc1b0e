"""The MCP client as a playbook: what comes in, and what must go out. No sockets."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientTimeout
from multidict import CIMultiDict
from typing_extensions import override
from yarl import URL

from registry.http.client.connection import ResponseBody, UpstreamConnection
from registry.http.client.exchange import HeaderLines, UpstreamAnswer, UpstreamHttp
from registry.upstream.client import (
    MAX_EVENTS,
    McpClient,
    ReadingContext,
    ReadingRecord,
    SseClient,
    StreamableHttpClient,
    endpoint_of,
)
from registry.upstream.errors import (
    JsonRpcError,
    UpstreamBrokenError,
    UpstreamOAuthError,
    UpstreamProtocolError,
    UpstreamTooLargeError,
)
from registry.upstream.headers import upstream_headers
from registry.upstream.values import ReadingLimits, UpstreamTarget
from tests.fakes.clock import FakeClock
from tests.kit.waiting import others_ran

SERVER = "https://server.test/mcp"
LIMITS = ReadingLimits(
    connect_timeout_seconds=1, total_timeout_seconds=5, max_bytes=1_000_000, max_tools=100
)
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
REFUSED = {
    "code": -32600,
    "message": "No client is connected while the registry reads the server.",
}


@dataclass
class Sent:
    """A request as it went out."""

    method: str
    url: str
    headers: CIMultiDict[str]
    message: Any


class Given(UpstreamAnswer):
    """An answer that came already."""

    __slots__ = ("closings",)

    def __init__(
        self, status: int, headers: Mapping[str, str], *pieces: bytes, breaks_off: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = ResponseBody(UpstreamConnection(asyncio.get_running_loop()))
        self.closings = 0
        for piece in pieces:
            self.body.feed(piece)
        if breaks_off:
            self.body.fail(ClientPayloadError())
        else:
            self.body.complete()

    @override
    def close(self) -> None:
        self.closings += 1


@dataclass
class Playbook(UpstreamHttp):
    """Gives the answers of a server in order, and keeps what was sent to it."""

    answers: list[Given]
    sent: list[Sent] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)

    @override
    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | HeaderLines,
        body: bytes | bytearray,
        *,
        timeout: ClientTimeout,
        first_byte_seconds: float | None = None,
        path: str | None = None,
    ) -> UpstreamAnswer:
        message = json.loads(body) if body else None
        self.sent.append(Sent(method, str(url), CIMultiDict(dict(headers)), message))  # type: ignore[arg-type]  # a mapping here
        await others_ran()
        answer = self.answers.pop(0)
        self.given.append(answer)
        return answer


def client_of(http: Playbook, *, is_sse: bool = False) -> McpClient:
    """Return a client of the server that *http* plays."""
    target = UpstreamTarget(SERVER, is_sse, upstream_headers({"X-Key": "sentinel"}))
    kind = SseClient if is_sse else StreamableHttpClient
    record = ReadingRecord(LIMITS.max_bytes)
    return kind(ReadingContext(target, http, LIMITS, record, FakeClock()))


def message(request_id: object, **outcome: object) -> bytes:
    """Return the text of a message."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, **outcome}).encode()


def event(data: bytes, head: bytes = b"") -> bytes:
    """Return an event that brings *data*."""
    return head + b"data: " + data + b"\n\n"


async def test_the_session_of_initialize_is_named_until_its_end() -> None:
    result = {"protocolVersion": "2025-06-18"}
    http = Playbook(
        [
            Given(200, {**JSON, "mcp-session-id": "s1"}, message(1, result=result)),
            Given(202, {"content-length": "0"}),
            Given(405, {}),
            Given(200, JSON, message(2, result={"tools": []})),
            Given(200, {}),
        ]
    )
    client = client_of(http)

    await client.initialize("2025-11-25", {})
    await client.initialized("2025-06-18")
    await client.request("tools/list", None)
    await client.close()

    first, *later = http.sent
    assert "mcp-session-id" not in first.headers
    assert sorted(sent.method for sent in later) == ["DELETE", "GET", "POST", "POST"]
    assert {sent.headers["Mcp-Session-Id"] for sent in later} == {"s1"}
    assert {sent.headers["MCP-Protocol-Version"] for sent in later} == {"2025-06-18"}
    assert {sent.headers["X-Key"] for sent in http.sent} == {"sentinel"}


async def test_what_the_server_asks_during_a_request_is_refused_and_ping_is_answered() -> None:
    asked = [message("q", method="roots/list"), message(7, method="ping")]
    stream = b"".join(map(event, [*asked, message("1", result={"ok": 1})]))
    taken = [Given(202, {"content-length": "0"}) for _ in asked]
    http = Playbook([Given(200, EVENTS, stream), *taken])

    result = await client_of(http).request("tools/list", None)

    assert result == {"ok": 1}
    assert [sent.message for sent in http.sent[1:]] == [
        {"jsonrpc": "2.0", "id": "q", "error": REFUSED},
        {"jsonrpc": "2.0", "id": 7, "result": {}},
    ]


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_a_stream_that_ended_early_is_fetched_again_from_its_last_event(
    *, breaks_off: bool
) -> None:
    http = Playbook(
        [
            Given(200, EVENTS, b"id: e1\nretry: 20\ndata:\n\n", breaks_off=breaks_off),
            Given(200, EVENTS, event(message(1, result={"ok": 1}))),
        ]
    )

    result = await client_of(http).request("tools/list", None)

    assert result == {"ok": 1}
    assert (http.sent[1].method, http.sent[1].headers["Last-Event-ID"]) == ("GET", "e1")


@pytest.mark.parametrize(
    ("breaks_off", "expected"), [(False, UpstreamProtocolError), (True, UpstreamBrokenError)]
)
async def test_a_stream_that_ends_without_an_answer_is_an_error(
    expected: type[Exception], *, breaks_off: bool
) -> None:
    http = Playbook([Given(200, EVENTS, b": hello\n\n", breaks_off=breaks_off)])

    with pytest.raises(expected):
        await client_of(http).request("tools/list", None)


async def test_every_answer_is_closed_once_for_its_connection_serves_again() -> None:
    http = Playbook(
        [
            Given(200, EVENTS, b"id: e1\ndata:\n\n"),
            Given(200, EVENTS, event(message(1, result={}))),
            Given(200, JSON, message(2, result={})),
            Given(500, JSON, message(3, error={"code": -1, "message": "x"})),
        ]
    )
    client = client_of(http)

    await client.request("tools/list", None)
    await client.request("tools/list", None)
    with pytest.raises(JsonRpcError):
        await client.request("tools/list", None)

    assert [answer.closings for answer in http.given] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (200, JSON, message(9, result={}), "It answered under another id than"),
        (200, JSON, message(None, result={}), "It answered under another id than"),
        (200, JSON, b"[]", "answered something that is not MCP"),
        (200, JSON, message(1, method="x"), "answered something that is not MCP"),
        (202, JSON, b"", "answered a request with 202 and nothing else"),
        (302, {}, b"", "redirects elsewhere, which is not followed"),
        (403, {}, b"", "answered 403: credentials are missing or wrong"),
        (500, JSON, b"oops", "https://server.test answered 500."),
        (200, {"content-type": "text/html"}, b"", "answered 200 with HTML, not MCP"),
        (200, {}, b"", "answered with no content type, not JSON"),
    ],
)
async def test_what_is_no_answer_is_told(
    status: int, headers: Mapping[str, str], body: bytes, told: str
) -> None:
    http = Playbook([Given(status, headers, body)])

    with pytest.raises(UpstreamProtocolError, match=told):
        await client_of(http).request("tools/list", None)


async def test_a_challenge_that_names_metadata_wants_oauth() -> None:
    challenge = {"www-authenticate": 'Bearer resource_metadata="https://x.test/meta"'}
    http = Playbook([Given(401, challenge)])

    with pytest.raises(UpstreamOAuthError):
        await client_of(http).request("tools/list", None)


@pytest.mark.parametrize(
    ("status", "headers", "body", "code"),
    [
        (200, JSON, message(1, error={"code": -5, "message": "x"}), -5),
        (400, JSON, message(None, error={"code": -5, "message": "x"}), -5),
        (400, JSON, message("server-error", error={"code": -5, "message": "x"}), -5),
        (404, {}, b"", -32601),
    ],
)
async def test_an_error_answer_has_its_code(
    status: int, headers: Mapping[str, str], body: bytes, code: int
) -> None:
    http = Playbook([Given(status, headers, body)])

    with pytest.raises(JsonRpcError) as caught:
        await client_of(http).request("tools/list", None)

    assert caught.value.code == code
    assert (caught.value.refusal is None) is (status == 200)


async def test_events_and_compression_are_bounded() -> None:
    flood = Playbook([Given(200, EVENTS, b"\n" * (MAX_EVENTS + 1))])
    packed = Playbook([Given(200, {**JSON, "content-encoding": "gzip"})])

    with pytest.raises(UpstreamTooLargeError, match="more than 50000 events"):
        await client_of(flood).request("tools/list", None)
    with pytest.raises(UpstreamTooLargeError, match="compressed"):
        await client_of(packed).request("tools/list", None)


async def test_over_the_older_transport_answers_come_on_the_stream() -> None:
    stream = b"event: endpoint\ndata: /post?s=1\n\n" + event(message(1, result={"ok": 1}))
    http = Playbook([Given(200, EVENTS, stream), Given(202, {"content-length": "0"})])
    client = client_of(http, is_sse=True)

    await client.open()
    result = await client.request("tools/list", None)
    await client.close()

    assert result == {"ok": 1}
    assert [(sent.method, sent.url) for sent in http.sent] == [
        ("GET", SERVER),
        ("POST", "https://server.test/post?s=1"),
    ]
    assert [answer.closings for answer in http.given] == [1, 1]


@pytest.mark.parametrize(
    "named",
    [b"http://server.test/x", b"//other.test/x", b"https://server.test:444/x", b"https://[::1"],
)
def test_messages_go_to_no_other_origin(named: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        endpoint_of(URL(SERVER), named)
