"""What upstreams answer, read and judged; and the few texts that the gateway sends of its own."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from multidict import CIMultiDict
from yarl import URL

from registry.gateway.client.sessions import UpstreamSession
from registry.gateway.errors import Refusal, UpstreamAnswered, UpstreamFailed
from registry.gateway.protocol.headers import (
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    SESSION_HEADER,
)
from registry.gateway.protocol.messages import Message, MessageKind, read_events, read_message
from registry.gateway.transport.failures import failure
from registry.gateway.transport.forwarder import (
    EVENT_STREAM,
    JSON,
    SUCCESS,
    check_status,
    too_large,
    whole_body,
)
from registry.gateway.values import Route
from registry.http.client.exchange import UpstreamAnswer
from registry.upstream.client import FAILURES as HTTP_FAILURES
from registry.upstream.client import endpoint_of, initialize_params
from registry.upstream.errors import UpstreamProtocolError
from registry.upstream.events import ENDPOINT, EventTooLargeError, ServerSentEvent
from registry.upstream.messages import request_text

MAX_RESUMES = 100
"""How often in a row a server may end a stream to have it fetched again, saying nothing new."""

NOT_FOUND = 404
BAD_REQUEST = 400
BAD_GATEWAY = 502
SSE_VERSION = "2024-11-05"
CANCELLED = "notifications/cancelled"

FAILURES = (*HTTP_FAILURES, EventTooLargeError)


@dataclass(frozen=True, slots=True)
class Channel:
    """The event stream of a server of HTTP+SSE, and where it takes messages."""

    answer: UpstreamAnswer
    events: AsyncIterator[ServerSentEvent]
    endpoint: URL


def broken(route: Route, what: str) -> UpstreamFailed:
    """Return the refusal that says *what* a server did wrong."""
    return UpstreamFailed(f"The {route.named} {what}.")


def check_is_stream(answer: UpstreamAnswer, route: Route) -> None:
    """Check that an answer is an event stream.

    Raises:
        UpstreamFailed: It is something else.
    """
    check_status(answer, route)
    if not answer.headers.get(CONTENT_TYPE, "").lower().startswith(EVENT_STREAM):
        raise broken(route, "did not open an event stream")


async def named_endpoint(events: AsyncIterator[ServerSentEvent], route: Route) -> URL:
    """Return the address that a server of HTTP+SSE takes messages at, as its stream says."""
    async for event in events:
        if event.name == ENDPOINT and event.data:
            try:
                return endpoint_of(route.target, event.data)
            except UpstreamProtocolError:
                raise broken(route, "names an endpoint of another origin") from None
    raise broken(route, "named no endpoint")


def session_headers(session: UpstreamSession) -> CIMultiDict[str]:
    """Return the headers of a message in *session*."""
    headers = session.credentials.copy()
    if session.id is not None:
        headers[SESSION_HEADER] = session.id
    if session.version:
        headers["MCP-Protocol-Version"] = session.version
    return headers


def failed(route: Route, error: Exception, elsewhere: str | None = None) -> Refusal:
    """Return the error for the client of a failed conversation.

    Args:
        route: The server.
        error: What the conversation ended with.
        elsewhere: The name of what was asked on its behalf, if it is another place.
    """
    match error:
        case EventTooLargeError():
            return too_large(route)
        case orjson.JSONDecodeError():
            return UpstreamFailed(f"The {route.named} sent what is no JSON.")
        case _:
            return failure(elsewhere or route.named, error)


def hello_text(request_id: str, version: str, capabilities: Mapping[str, Any]) -> bytes:
    """Return the request that begins a session."""
    params = initialize_params(version, capabilities)
    return request_text("initialize", params, request_id, is_exact=True)


async def only_answer(answer: UpstreamAnswer, route: Route, request_id: str) -> Message:
    """Return the answer to a request that nothing is asked during.

    Raises:
        UpstreamFailed: There is none.
    """
    content_type = answer.headers.get(CONTENT_TYPE, "").lower()
    if not content_type.startswith(EVENT_STREAM):
        return Message(MessageKind.ANSWER, await whole_answer(answer, route, content_type))
    async for event in read_events(answer.body, answer.max_bytes):
        message = read_message(event.data, request_id) if event.data else None
        if message is not None and message.kind is MessageKind.ANSWER:
            return message
    raise UpstreamFailed(f"The {route.named} broke off its answer.")


def error_status(route: Route, status: int) -> UpstreamAnswered:
    """Return what tells of the error *status* of an answer that says nothing else."""
    passed_on = status if status < 500 else 502  # noqa: PLR2004 - of the server
    return UpstreamAnswered(route.named, passed_on, status)


async def whole_answer(answer: UpstreamAnswer, route: Route, content_type: str) -> bytes:
    """Return the answer's body: a JSON-RPC message, whatever the status.

    Raises:
        UpstreamFailed: It is something else, or too large.
    """
    check_status(answer, route)
    if not content_type.startswith(JSON):
        if answer.status not in SUCCESS:
            raise error_status(route, answer.status)
        shown = content_type.partition(";")[0].strip()[:64] or "no content type"
        raise UpstreamFailed(f"The {route.named} answered {shown} instead of JSON.")
    length = "" if CONTENT_ENCODING in answer.headers else answer.headers.get(CONTENT_LENGTH, "")
    if length.isdecimal() and int(length) <= answer.max_bytes:
        return await answer.body.read()
    return await whole_body(answer, route)
