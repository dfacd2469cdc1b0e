"""Questions of the gateway itself to clients of the handshake's era, during their calls.

The question goes out on the event stream of the call, which begins for it; the client's response
comes as another request, to any worker of this port. The id of the question names the worker that
has the call. Another replica cannot deliver a response, and says so.

Above it are confirmation and approvals, which ask and wait; below it is the channel of the call.
It does not know what is asked.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.stream_guard import StreamGuard
from registry.gateway.errors import AnswerUnwanted, RequestCancelled, TooManyQuestions
from registry.gateway.ports import Peers
from registry.gateway.protocol.envelope import Envelope, RequestId
from registry.gateway.transport.call_watch import CallWatch, TookTooLong
from registry.gateway.transport.early_stream import EarlyStream
from registry.upstream.loops import Instance
from registry.upstream.messages import notification_text, request_text

OF_QUESTIONS = "/question/"
ELICIT = "elicitation/create"
KEEP_ALIVE_SECONDS = 15.0
"""Proxies end streams that are silent for 60 s."""

MAX_HELD = 1_000
MAX_HELD_PER_CALLER = 50
"""Maximum number of calls that wait for people in this worker, and of one caller."""

HeldKey: TypeAlias = tuple[str, str, RequestId | None]
"""Caller, session id as the client knows it, and id of the request."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One question that waits for its response."""

    principal: str
    response: asyncio.Future[JsonObject]


class ClientQuestions:
    """Asks clients, and holds their calls while people take their time.

    Args:
        guard: Knows until when a caller may use a path.
        peers: The other workers.
        instance: Begins the ids of questions: another gateway behind this one has its own.
        timeout_seconds: How long a question waits for its response.
        keep_alive_seconds: How long the stream of a call that waits may be silent.
    """

    def __init__(
        self,
        guard: StreamGuard,
        peers: Peers,
        instance: Instance,
        latency_watcher: LatencyWatcher,
        *,
        timeout_seconds: float,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._guard = guard
        self._peers = peers
        self._prefix = f"{instance.id}{OF_QUESTIONS}"
        self._prefixes = tuple(f"{known}{OF_QUESTIONS}" for known in instance.known)
        self._latency_watcher = latency_watcher
        self._timeout_seconds = timeout_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._questions: dict[str, _Question] = {}
        self._held: dict[HeldKey, CallWatch] = {}
        self._held_of: Counter[str] = Counter()

    def can_ask(self, exchange: GatewayRequest) -> bool:
        """Whether the client of a call of the handshake's era can show its user a form."""
        return exchange.fills_forms and streams(exchange)

    async def stream(self, exchange: GatewayRequest) -> EarlyStream:
        """Return the event stream of a call of the handshake's era; begin it unless it has begun.

        Whatever answers the call later is sent on it.
        """
        return await exchange.client.begin_early(exchange.request_id)

    @contextmanager
    def hold(self, exchange: GatewayRequest, user: UserContext, seconds: float) -> Iterator[None]:
        """Let a call wait for people within the block; end it when waiting has no purpose.

        The time in it counts in no duration of the call.

        Raises:
            TooManyQuestions: Too many calls wait.
            TookTooLong: The block took *seconds*.
            ClientGone: The client disconnected.
            RequestCancelled: It cancelled the call.
            Refusal: The caller may not use the path any more, or the gateway shuts down.
        """
        principal = user.principal
        if len(self._held) >= MAX_HELD or self._held_of[principal] >= MAX_HELD_PER_CALLER:
            raise TooManyQuestions
        path = exchange.route if exchange.slug else None
        watch = CallWatch(
            self._latency_watcher,
            exchange.client.receive,
            seconds,
            self._guard.until_ended(exchange, path),
        )
        key = _key(exchange, user, exchange.request_id)
        self._held[key] = watch
        self._held_of[principal] += 1
        since = exchange.client.monotonic()
        try:
            with watch:
                yield
        finally:
            exchange.began_at += exchange.client.monotonic() - since
            if self._held.get(key) is watch:
                del self._held[key]
            self._held_of[principal] -= 1
            if not self._held_of[principal]:
                del self._held_of[principal]

    async def ask(
        self, exchange: GatewayRequest, user: UserContext, params: JsonObject
    ) -> JsonObject | None:
        """Ask the user of a client something, and return its response: a JSON-RPC message.

        Args:
            exchange: The call, of a client that `can_ask`.
            user: Who calls; nobody else's response counts.
            params: Of `elicitation/create`.

        Returns:
            The response; None if none came in time.

        Raises:
            ClientGone: The client disconnected.
            Refusal: Waiting for it has no purpose any more; see `hold`.
        """
        token = secrets.token_urlsafe(18)
        name = f"{self._prefix}{self._peers.own}/{token}"
        response: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        stream = None
        try:
            with self.hold(exchange, user, self._timeout_seconds):
                self._questions[token] = _Question(user.principal, response)
                stream = await self.stream(exchange)
                await stream.message(request_text(ELICIT, params, name, is_exact=False))
                while not response.done():
                    await asyncio.wait({response}, timeout=self._keep_alive_seconds)
                    if not response.done():
                        await stream.keep_alive()
                return response.result()
        except TookTooLong:
            if stream is not None:
                params = {"requestId": name, "reason": "The question was not answered in time."}
                await stream.message(notification_text("notifications/cancelled", params))
            return None
        finally:
            self._questions.pop(token, None)

    async def take(self, envelope: Envelope, user: UserContext) -> bool:
        """Deliver a client's response if it is to a question of the gateway; return whether it is.

        One of another caller, and one that no call waits for any more, is ignored.

        Raises:
            AnswerUnwanted: The worker that asked is not here: it is gone, or of another replica.
        """
        name = envelope.body.get("id")
        if type(name) is not str or not name.startswith(self._prefixes):
            return False
        worker, _, token = name.partition(OF_QUESTIONS)[2].partition("/")
        if worker == self._peers.own:
            self._deliver(token, user.principal, envelope.body)
            return True
        message = {
            "kind": "question",
            "token": token,
            "principal": user.principal,
            "body": envelope.body,
        }
        if await self._peers.send(worker, orjson.dumps(message)) is None:
            # Accepted silently, it would leave the call of another replica waiting for nothing.
            raise AnswerUnwanted
        return True

    async def cancel(self, exchange: GatewayRequest, user: UserContext) -> bool:
        """End the call that a notification cancels if it waits here; return whether it did.

        In other workers, it is ended too.
        """
        request_id = exchange.params.get("requestId")
        if not isinstance(request_id, str | int) or "mcp-session-id" not in exchange.headers:
            return False
        key = _key(exchange, user, request_id)
        if self._cancelled(key):
            return True
        await self._peers.broadcast(orjson.dumps({"kind": "question_cancelled", "key": key}))
        return False

    def receive(self, message: Mapping[str, Any]) -> None:
        """Handle another worker's message about a question."""
        if message["kind"] == "question":
            self._deliver(message["token"], message["principal"], message["body"])
        else:
            principal, session, request_id = message["key"]
            self._cancelled((principal, session, request_id))

    def _deliver(self, token: str, principal: str, body: Mapping[str, Any]) -> None:
        question = self._questions.get(token)
        if question is None or question.principal != principal:
            return
        if not question.response.done():
            question.response.set_result(members(body))

    def _cancelled(self, key: HeldKey) -> bool:
        watch = self._held.get(key)
        if watch is None:
            return False
        watch.end(RequestCancelled())
        return True


def streams(exchange: GatewayRequest) -> bool:
    """Whether a call of the handshake's era can be answered by an event stream.

    Not if its answer goes to the stream that an HTTP+SSE client has with the server itself.
    """
    if not exchange.reports_errors_in_body:
        return False
    accept = exchange.headers.get("accept")
    return not accept or "text/event-stream" in accept or "*/*" in accept


def _key(exchange: GatewayRequest, user: UserContext, request_id: RequestId | None) -> HeldKey:
    return user.principal, exchange.headers.get("mcp-session-id", ""), request_id
