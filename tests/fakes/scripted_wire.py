"""An upstream without a socket: it answers each request by the next line of a playbook."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import orjson
from yarl import URL

from registry.http.client.connection import ResponseBody, UpstreamConnection
from registry.http.client.exchange import HeaderLines, UpstreamHttp

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class SentRequest:
    """A request that went upstream."""

    method: str
    url: str
    headers: Mapping[str, str]
    message: Any

    @property
    def rpc(self) -> str:
        """Return its JSON-RPC method; `response` or the HTTP method where it has none."""
        if self.message is None:
            return self.method
        return str(self.message.get("method", "response"))


class _Unlimited:
    """A connection whose other end is never told to wait."""

    def hold(self) -> None:
        """Do nothing."""

    def go_on(self) -> None:
        """Do nothing."""


class ScriptedAnswer:
    """Implements `UpstreamAnswer` over a body that a test feeds."""

    max_bytes = 1024 * 1024

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = self.health_status = status
        self.headers = headers
        self.body = ResponseBody(cast("UpstreamConnection", _Unlimited()))
        self.is_closed = False

    def rest(self) -> None:
        """Allow silence."""

    def close(self) -> None:
        """Note that nobody reads on."""
        self.is_closed = True

    def say(self, *messages: Any) -> None:
        """Send messages as events."""
        for message in messages:
            self.body.feed(b"data: " + orjson.dumps(message) + b"\n\n")


Line: TypeAlias = Callable[[SentRequest], ScriptedAnswer]
"""What an upstream does with one request."""


def _whole(text: bytes, status: int, headers: Mapping[str, str]) -> ScriptedAnswer:
    usual = {"content-type": "application/json", "content-length": str(len(text))}
    answer = ScriptedAnswer(status, {**usual, **headers})
    if text:
        answer.body.feed(text)
    answer.body.complete()
    return answer


def body(text: bytes, status: int = 200, **headers: str) -> Line:
    """Answer with a whole body; `_` stands for `-` in names of headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: _whole(text, status, named)


def result(value: Any, **headers: str) -> Line:
    """Answer with a result."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def line(sent: SentRequest) -> ScriptedAnswer:
        message = {"jsonrpc": "2.0", "id": sent.message["id"], "result": value}
        return _whole(orjson.dumps(message), 200, named)

    return line


def failing(error: Exception) -> Line:
    """Fail before there is an answer."""

    def line(_: SentRequest) -> ScriptedAnswer:
        raise error

    return line


def taken() -> Line:
    """Accept a message that needs no answer."""
    return body(b"", 202)


def stream(*messages: Any, is_open: bool = False) -> Line:
    """Answer with events; `...` as the id of one stands for that of the request."""

    def line(sent: SentRequest) -> ScriptedAnswer:
        answer = ScriptedAnswer(200, {"content-type": EVENT_STREAM})
        for message in messages:
            is_answer = message.get("id") is ...
            answer.say({**message, "id": sent.message["id"]} if is_answer else message)
        if not is_open:
            answer.body.complete()
        return answer

    return line


def legacy_session(session_id: str = "s1", version: str = "2025-11-25") -> tuple[Line, ...]:
    """Begin a session of the handshake's era that has no stream of its own."""
    return (
        result({"protocolVersion": version, "capabilities": {}}, mcp_session_id=session_id),
        taken(),
    )


class ScriptedWire:
    """Implements `UpstreamHttp`.

    Args:
        playbook: What the upstream does with each request, in their order.
    """

    max_response_bytes = 1024 * 1024

    def __init__(self, *playbook: Line) -> None:
        self.playbook = deque(playbook)
        self.sent: list[SentRequest] = []
        self.answers: list[ScriptedAnswer] = []

    @property
    def rpcs(self) -> list[str]:
        """Return the methods of what went upstream."""
        return [sent.rpc for sent in self.sent]

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | HeaderLines,
        body: bytes | bytearray,
        **_: object,
    ) -> ScriptedAnswer:
        """Note a request, and do what the playbook says."""
        if isinstance(headers, HeaderLines):
            lines = headers.text.split("\r\n")[:-1]
            headers = dict(line.split(": ", 1) for line in lines)
        sent = SentRequest(method, str(url), headers, orjson.loads(body) if body else None)
        self.sent.append(sent)
        answer = self.playbook.popleft()(sent)
        self.answers.append(answer)
        return answer


def as_upstream_http(wire: ScriptedWire) -> UpstreamHttp:
    """Return *wire* as what the gateway sends through."""
    return cast("UpstreamHttp", wire)
