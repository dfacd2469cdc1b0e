"""Bridge: one request of a client to a server, and the requests of the server to the client.

Used where the gateway is between both: on the aggregate server, and where client and server differ
in era or transport. What a later request needs is sealed into the ids that the client gets, so
that any worker can continue; only a parked conversation stays in its worker, which the sealed id
names.
"""

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import orjson
import structlog
from aiohttp import ClientError
from starlette.types import Message as ASGIMessage
from starlette.types import Receive

from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.json import JsonObject, dump_text, members
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.aggregate.parked import Parked, ParkedConversations
from registry.gateway.client.asks import Ask, Conversation
from registry.gateway.client.connector import Connector
from registry.gateway.client.conversations import converse
from registry.gateway.client.sessions import UpstreamSession
from registry.gateway.edge.client_sessions import ClientContext, ClientSession
from registry.gateway.edge.reply import Reply
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.errors import (
    INVALID_REQUEST,
    AnswerUnwanted,
    InputRefused,
    InvalidParams,
    MethodUnknown,
    RequestCancelled,
    SessionUnknown,
    StateUnknown,
    UpstreamFailed,
)
from registry.gateway.notifications.completions import ELICITATION_COMPLETE
from registry.gateway.notifications.feed import LISTS_CHANGED, UPDATED
from registry.gateway.ports import Peers
from registry.gateway.protocol import era_translation
from registry.gateway.protocol.envelope import Envelope, RequestId
from registry.gateway.protocol.messages import INPUT_REQUIRED, Message, MessageKind, with_id
from registry.gateway.protocol.response_classification import GOOD, judge
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.call_watch import CallWatch
from registry.gateway.transport.failures import failure
from registry.gateway.transport.replay import Replay, Replays
from registry.gateway.view.offering import MAX_EDITED_BYTES, RESOURCE_LINK, Offering, publish_links
from registry.servers.values import Era
from registry.upstream.messages import notification_text, request_text

log = structlog.get_logger()

MAX_ROUNDS = 10
"""How often in one call a server may ask for more input (the SDKs' own limit)."""

STATE_ONLY_SECONDS = 0.1
"""Pause before a request is repeated for a server that asked only for the repetition."""

MAX_QUESTIONS = 100
"""How many requests a server of the handshake's era may send to the client during one call."""

TOO_MANY_QUESTIONS = "Too many requests to the client in one call, or a request id is too long."

UNKNOWN_TOOL_BYTES = 4096
"""Longer answers are no server's words for not having a tool, and are not parsed to find out."""

MAX_ADDRESS_BYTES = 2_000
"""Longest address that is sealed into a request's id; servers choose ids freely."""

WANTED = b"wanted"

RESUMABLE_SINCE = "2025-11-25"
"""The version from which on event streams begin with an id."""

OPEN_AFTER_SECONDS = 1.0
"""A slower answer begins as an event stream, before there is a message to send."""

MAX_DETACHED = 50
"""Maximum number of calls of one caller that continue after the connection is lost."""

REPLIES = "replies"
STATES = "states"
"""Scope ids of the seals; no server has such an id."""

PARKED_KEY = "input"
OUTSIDE_CALLS = LISTS_CHANGED | {UPDATED, "notifications/subscriptions/acknowledged"}
"""Messages outside of calls; clients get them on their notification streams."""

CallKey: TypeAlias = tuple[str, RequestId]


class Elsewhere(Exception):  # noqa: N818 - an event, not an error
    """Another worker holds the conversation with which the request continues."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """One request of a client to the aggregate server.

    Attributes:
        exchange: What is known of the HTTP request.
        envelope: Its message.
        caller: Who sent it, in which era and session.
        offering: What the caller finds at the path.
    """

    exchange: GatewayRequest
    envelope: Envelope
    caller: ClientContext
    offering: Offering


@dataclass(slots=True)
class _Call:
    """The state of one request of a client."""

    exchange: GatewayRequest
    caller: ClientContext
    offering: Offering
    ask: Ask
    reply: Reply
    conversation: Conversation | None = None
    rounds: int = 0
    asked: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)


class ClientBridge:
    """Runs the conversations of this worker.

    Attributes:
        replays: Stores responses that clients may resume.

    Args:
        connector: Opens conversations with servers.
        seal: Seals the ids that clients return.
        total_timeout_seconds: Longest time for one request of a client.
        announced_lists: Notified when a server announces that one of its lists changed.
    """

    def __init__(
        self,
        connector: Connector,
        latency_watcher: LatencyWatcher,
        seal: SessionSeal,
        peers: Peers,
        background_tasks: BackgroundTasks,
        clock: Clock,
        *,
        total_timeout_seconds: float,
        announced_lists: AnnouncedLists,
    ) -> None:
        self._connector = connector
        self._announced_lists = announced_lists
        self._latency_watcher = latency_watcher
        self._seal = seal
        self._peers = peers
        self._background_tasks = background_tasks
        self._clock = clock
        self._total_timeout_seconds = total_timeout_seconds
        self._in_progress: dict[CallKey, CallWatch] = {}
        self._detached: Counter[str] = Counter()
        self.replays = Replays(peers.own, clock)
        # By the token of the call, and the server's address of the request.
        self._questions: dict[str, dict[str, asyncio.Future[JsonObject]]] = {}
        self._parked = ParkedConversations(connector.leave, background_tasks, clock)
        # The conversation in which each request came, if it was in one.
        self._unanswered: dict[str, Conversation | None] = {}

    async def ask(self, request: ClientRequest, ask: Ask) -> None:
        """Forward a client's request to a server, and answer the client.

        Raises:
            Refusal: Nothing was sent yet, and the refusal is the answer; or the stream broke off.
            ClientGone: The client disconnected.
            Elsewhere: Another worker must handle the request.
        """
        exchange, caller = request.exchange, request.caller
        call = _Call(exchange, caller, request.offering, ask, Reply(exchange))
        parked = self._resumed(call)
        may_resume = caller.session is not None and caller.session.version >= RESUMABLE_SINCE
        receive = exchange.client.receive
        opening: asyncio.TimerHandle | None = None
        if may_resume:
            receive = partial(self._until_given_up, receive, caller)
            opening = self._open_later(call)
        watch = CallWatch(
            self._latency_watcher,
            receive,
            max(self._total_timeout_seconds, ask.route.idle_timeout_seconds),
        )
        key = _call_key(caller.session, exchange.request_id)
        if key is not None:
            self._in_progress[key] = watch
        try:
            with watch:
                if parked is None:
                    call.conversation = await converse(self._connector, ask)
                else:
                    await self._go_on(call, parked)
                exchange.client.answered()
                await self._conduct(call)
        except (TimeoutError, ClientError, OSError) as exc:
            raise failure(ask.route.named, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise UpstreamFailed(f"The {ask.route.named} sent an invalid message.") from exc
        finally:
            if opening is not None:
                opening.cancel()
            if exchange.client.replay is not None:
                self._background_tasks.soon(self._end_replay(exchange.client.replay))
            if key is not None:
                self._in_progress.pop(key, None)
            self._drop_questions(call)
            if call.conversation is not None:
                await self._connector.leave(call.conversation)

    def _drop_questions(self, call: _Call) -> None:
        for token in call.asked:
            self._unanswered.pop(token, None)

    def _open_later(self, call: _Call) -> asyncio.TimerHandle:
        """Begin an event stream if the answer takes long, so that the client can resume it."""
        session = call.caller.session
        assert session is not None  # noqa: S101 - only sessions can resume
        call.exchange.client.replay = self.replays.begin(session.nonce)

        def begin() -> None:
            self._background_tasks.soon(call.reply.open())

        return asyncio.get_running_loop().call_later(OPEN_AFTER_SECONDS, begin)

    async def _end_replay(self, replay: Replay) -> None:
        # In the background: the endpoint may still send an error.
        self.replays.end(replay)

    async def _until_given_up(self, receive: Receive, caller: ClientContext) -> ASGIMessage:
        """Return the client's disconnect only if it ends the call: a lost connection does not.

        The client may resume the response, or cancel the call by a notification. The number of
        such calls is limited for each caller.
        """
        message = await receive()
        principal = caller.user.principal
        if message["type"] == "http.disconnect" and self._detached[principal] < MAX_DETACHED:
            self._detached[principal] += 1
            try:
                await asyncio.Event().wait()
            finally:
                self._detached[principal] -= 1
                if not self._detached[principal]:
                    del self._detached[principal]
        return message

    def end_of(self, nonce: str) -> None:
        """End what is in progress here in a session that has ended."""
        for key, watch in tuple(self._in_progress.items()):
            if key[0] == nonce:
                watch.end(RequestCancelled())
        self.replays.forget(nonce)

    def cancel(self, session: ClientSession, request_id: RequestId) -> bool:
        """End a request of *session*, if it is in progress in this worker."""
        return self.cancel_named(session.nonce, request_id)

    def cancel_named(self, nonce: str, request_id: RequestId) -> bool:
        """End a request of the session with *nonce*, if it is in progress in this worker."""
        watch = self._in_progress.get((nonce, request_id))
        if watch is None:
            return False
        watch.end(RequestCancelled())
        return True

    def answer_address(self, user: UserContext, request_id: object) -> list[Any]:
        """Return the address that is sealed into the id of a request to a client.

        Raises:
            AnswerUnwanted: The id was not issued here, or was issued to another caller.
        """
        try:
            opened = self._seal.open(str(request_id), principal=user.principal, server_id=REPLIES)
        except SessionUnknown:
            # The session itself is known: SessionUnknown would make the client end it.
            raise AnswerUnwanted from None
        return list(orjson.loads(opened))

    async def deliver(self, worker: str, token: str, key: str, body: Mapping[str, Any]) -> None:
        """Deliver a client's answer to the call that waits for it, in whichever worker.

        Raises:
            AnswerUnwanted: The worker does not exist here.
        """
        if worker == self._peers.own:
            self._receive_answer(token, key, body)
            return
        message = {"kind": "answer", "token": token, "key": key, "body": dict(body)}
        if await self._peers.send(worker, orjson.dumps(message)) is None:
            # Accepted silently, it would leave a call of another replica waiting for nothing.
            raise AnswerUnwanted

    def _receive_answer(self, token: str, key: str, body: Mapping[str, Any]) -> None:
        """Deliver a client's answer to the call in this worker that waits for it."""
        future = self._questions.get(token, {}).get(key)
        if future is not None and not future.done():
            future.set_result(dict(body))

    def receive(self, message: Mapping[str, Any]) -> bytes:
        """Handle another worker's message about a call, and reply."""
        match message["kind"]:
            case "answer":
                self._receive_answer(message["token"], message["key"], message["body"])
            case "claim":
                return WANTED if self.take(message["token"]) else b""
            case _:
                self.cancel_named(message["session"], message["id"])
        return b""

    async def close(self) -> None:
        """End all parked conversations."""
        await self._parked.close()

    async def _conduct(self, call: _Call) -> None:
        """Relay messages until the client has its answer, or is asked for input."""
        while call.conversation is not None:
            message = await call.conversation.next()
            match message.kind:
                case MessageKind.NOTICE:
                    if message.body.get("method") in LISTS_CHANGED:
                        self._announced_lists.add(call.ask.route)
                    await _notice(call, message)
                case MessageKind.REQUEST:
                    await self._asked(call, message)
                case MessageKind.ANSWER:
                    if await self._answered(call, message):
                        return

    async def _asked(self, call: _Call, message: Message) -> None:
        """Handle a request that the server sends to the client during the call."""
        body, conversation = message.body, call.conversation
        assert conversation is not None  # noqa: S101 - it just sent this
        method, params = str(body.get("method")), members(body.get("params"))
        if method == "ping":
            await conversation.reply(_reply_text(body["id"], {"result": {}}))
        elif not era_translation.is_within(method, params, call.caller.capabilities):
            error = {"code": MethodUnknown.code, "message": "The client does not support this."}
            await conversation.reply(_reply_text(body["id"], {"error": error}))
        elif call.caller.era is Era.LEGACY:
            await self._pass_question(call, message)
        else:
            await self._park(call, message)

    async def _pass_question(self, call: _Call, message: Message) -> None:
        """Forward a request of a server of the handshake's era to a client of that era."""
        body, conversation, route = message.body, call.conversation, call.ask.route
        assert conversation is not None  # noqa: S101 - it sent the request
        token = secrets.token_urlsafe(12)
        asked_at = int(self._clock.now().timestamp())
        address = ["up", self._peers.own, token, asked_at, route.slug, route.server_id, body["id"]]
        address += conversation.reply_address()
        if len(call.asked) >= MAX_QUESTIONS or len(orjson.dumps(address)) > MAX_ADDRESS_BYTES:
            error = {"code": INVALID_REQUEST, "message": TOO_MANY_QUESTIONS}
            await conversation.reply(_reply_text(body["id"], {"error": error}))
            return
        call.asked.append(token)
        self._unanswered[token] = conversation
        await call.reply.notice(self._sealed_question(call, message, address))

    def question_outside(self, session: UpstreamSession, message: Message) -> bytes:
        """Return a server's request outside of calls in the form for its client."""
        token, route = secrets.token_urlsafe(12), session.route
        asked_at = int(self._clock.now().timestamp())
        address = ["up", self._peers.own, token, asked_at, route.slug, route.server_id]
        body = message.editable()
        address += [message.body["id"], None, session.id, session.version]
        body["id"] = self._seal.seal(
            orjson.dumps(address).decode(),
            principal=session.key.owner.principal,
            server_id=REPLIES,
        )
        self._unanswered[token] = None
        loop = asyncio.get_running_loop()
        loop.call_later(self._total_timeout_seconds, self._unanswered.pop, token, None)
        return dump_text(body)

    async def claim(self, worker: str, token: str, asked_at: int) -> bool:
        """Whether a client's answer counts: once, and while the call is in progress.

        A worker that cannot be reached may belong to another replica. Its call is assumed to be in
        progress for the longest time that a call may take.
        """
        if worker == self._peers.own:
            return self.take(token)
        message = orjson.dumps({"kind": "claim", "token": token})
        reply = await self._peers.send(worker, message)
        passed = self._clock.now().timestamp() - asked_at
        return passed < self._total_timeout_seconds if reply is None else reply == WANTED

    def take(self, token: str) -> bool:
        """Whether a request of this worker is unanswered; marks it as answered."""
        if token not in self._unanswered:
            return False
        conversation = self._unanswered.pop(token)
        if conversation is not None:
            conversation.was_answered()
        return True

    def _sealed_question(self, call: _Call, message: Message, address: list[Any]) -> bytes:
        """Return the server's request under an id that routes its answer back."""
        body = message.editable()
        body["id"] = self._seal.seal(
            orjson.dumps(address).decode(),
            principal=call.caller.user.principal,
            server_id=REPLIES,
        )
        return dump_text(body)

    async def _answered(self, call: _Call, message: Message) -> bool:
        """Answer the client. Return False if the server is asked once more instead."""
        conversation = call.conversation
        assert conversation is not None  # noqa: S101 - it just answered
        caller, ask = call.caller, call.ask
        message = _explained(call, message)
        if conversation.era is caller.era:
            raw = self._public(call, message)
            body = message.body if caller.era is Era.MODERN else {}
            status = (
                era_translation.status_of(members(body.get("error"))) if "error" in body else 200
            )
            await call.reply.finish(_checked(call, raw), status)
            return True
        body = message.editable()
        if not isinstance(body.get("result"), dict) and not isinstance(body.get("error"), dict):
            raise ValueError("The message is not a response.")  # noqa: TRY004 - not a type error
        if caller.era is Era.LEGACY:
            if era_translation.wants_input(body):
                await self._ask_on(call, members(body["result"]))
                return False
            for page in call.pages:
                # The server continues, so the user has finished there.
                await call.reply.notice(
                    notification_text(ELICITATION_COMPLETE, {"elicitationId": page})
                )
            answer = _legacy_answer(ask.method, body)
            await call.reply.finish(_checked(call, self._text(call, answer)))
            return True
        elicitations = era_translation.url_elicitations(body.get("error"))
        if elicitations and "url" in members(caller.capabilities.get("elicitation")):
            answer = {"result": self._visit_first(call, elicitations)}
        else:
            answer = _modern_answer(ask.method, body)
        status = era_translation.status_of(members(answer["error"])) if "error" in answer else 200
        await call.reply.finish(_checked(call, self._text(call, answer)), status)
        return True

    def _public(self, call: _Call, message: Message) -> bytes:
        """Return the answer with the client's id and the public URIs."""
        conversation = call.conversation
        assert conversation is not None  # noqa: S101 - it has answered
        requested = call.exchange.request_id
        if call.offering.only is None and _names_resources(call.ask.method, message.raw):
            body = message.editable()
            body["id"] = requested
            _publish_uris(call, body)
            return dump_text(body)
        return with_id(message, conversation.request_id, requested)

    def _text(self, call: _Call, answer: JsonObject) -> bytes:
        body: JsonObject = {"jsonrpc": "2.0", "id": call.exchange.request_id, **answer}
        if call.offering.only is None:
            _publish_uris(call, body)
        return dump_text(body)

    async def _ask_on(self, call: _Call, result: JsonObject) -> None:
        """Forward requests for input to a client of the handshake's era, and ask again."""
        call.rounds += 1
        if call.rounds > MAX_ROUNDS:
            raise UpstreamFailed(
                f"The {call.ask.route.named} asked for input more than {MAX_ROUNDS} times."
            )
        wanted = {key: members(one) for key, one in members(result.get("inputRequests")).items()}
        params = {
            name: value
            for name, value in call.ask.params.items()
            if name not in {"inputResponses", "requestState"}
        }
        if wanted:
            params["inputResponses"] = await self._inputs(call, wanted)
        else:
            await self._clock.sleep(STATE_ONLY_SECONDS)
        if "requestState" in result:
            params["requestState"] = result["requestState"]
        call.ask.params, call.ask.is_exact = params, False
        former, call.conversation = call.conversation, None
        if former is not None:
            await former.close()
        call.conversation = await converse(self._connector, call.ask)

    async def _inputs(self, call: _Call, wanted: Mapping[str, JsonObject]) -> JsonObject:
        for one in wanted.values():
            method, params = str(one.get("method")), members(one.get("params"))
            if not era_translation.is_within(method, params, call.caller.capabilities):
                raise UpstreamFailed(
                    f"The {call.ask.route.named} asks for input that the client does not support."
                )
        token = secrets.token_urlsafe(12)
        questions = self._questions[token] = {}
        loop = asyncio.get_running_loop()
        try:
            for key, one in wanted.items():
                questions[key] = loop.create_future()
                address = ["worker", self._peers.own, token, key]
                params = members(one.get("params"))
                if params.get("mode") == "url":
                    params = _with_elicitation_id(params)
                    call.pages.append(str(params["elicitationId"]))
                text = request_text(str(one["method"]), params or None, "", is_exact=False)
                message = Message(MessageKind.REQUEST, text)
                await call.reply.notice(self._sealed_question(call, message, address))
            answers = {key: await future for key, future in questions.items()}
        finally:
            del self._questions[token]
        refused = next((body["error"] for body in answers.values() if "error" in body), None)
        if refused is not None:
            raise InputRefused(str(members(refused).get("message", "")))
        return {key: body.get("result") for key, body in answers.items()}

    async def _park(self, call: _Call, message: Message) -> None:
        """Answer a client of the stateless era that input is required; park the conversation."""
        conversation = call.conversation
        assert conversation is not None  # noqa: S101 - it just asked
        principal = call.caller.user.principal
        self._parked.require_room(principal)
        question = message.editable()
        token = secrets.token_urlsafe(12)
        digest = _digest(call.ask)
        state = self._seal.seal(
            orjson.dumps(["parked", self._peers.own, token, digest]).decode(),
            principal=principal,
            server_id=STATES,
        )
        conversation.rest()
        # Users take their time, during which other callers need the permit.
        await conversation.leave_place()
        self._parked.add(token, Parked(principal, call.ask, conversation, question, digest))
        # From here on the client's next request owns the conversation.
        call.conversation = None
        asked = {name: value for name, value in question.items() if name in {"method", "params"}}
        result: JsonObject = {
            "resultType": INPUT_REQUIRED,
            "inputRequests": {PARKED_KEY: asked},
            "requestState": state,
        }
        await call.reply.finish(self._text(call, {"result": result}))

    def _resumed(self, call: _Call) -> Parked | None:
        """Return the conversation with which the request continues, if it names one.

        Raises:
            StateUnknown: It names one that does not exist any more.
            Elsewhere: Another worker holds it.
        """
        if call.caller.era is not Era.MODERN or "requestState" not in call.ask.params:
            return None
        opened = self._opened_state(call)
        if opened is None:
            if Era.MODERN in call.ask.route.eras:
                return None
            raise StateUnknown
        if opened[-1] != _digest(call.ask):
            raise StateUnknown
        call.ask.params = era_translation.legacy_params(call.ask.params)
        if opened[0] == "again":
            return None
        _, worker, token, _ = opened
        if worker != self._peers.own:
            raise Elsewhere(worker)
        parked = self._parked.take(token)
        if parked is None:
            raise StateUnknown
        return parked

    def _opened_state(self, call: _Call) -> list[Any] | None:
        state = call.ask.params.get("requestState")
        if not isinstance(state, str):
            raise InvalidParams("The member requestState must be a string.")
        with suppress(SessionUnknown):
            text = self._seal.open(state, principal=call.caller.user.principal, server_id=STATES)
            return list(orjson.loads(text))
        return None

    async def _go_on(self, call: _Call, parked: Parked) -> None:
        call.conversation = parked.conversation
        responses = call.exchange.params.get("inputResponses")
        response = members(responses).get(PARKED_KEY)
        if not isinstance(response, dict):
            # Sent again, so that a client that lost it can still answer.
            await self._park(call, Message(MessageKind.REQUEST, dump_text(parked.question)))
            return
        await parked.conversation.reply(_reply_text(parked.question["id"], {"result": response}))

    def _visit_first(self, call: _Call, elicitations: list[JsonObject]) -> JsonObject:
        """Return the result that sends the user to web pages first; the client then repeats."""
        wanted: JsonObject = {
            f"{PARKED_KEY}-{number}": {
                "method": "elicitation/create",
                "params": {**one, "mode": "url"},
            }
            for number, one in enumerate(elicitations, 1)
        }
        state = self._seal.seal(
            orjson.dumps(["again", _digest(call.ask)]).decode(),
            principal=call.caller.user.principal,
            server_id=STATES,
        )
        return {"resultType": INPUT_REQUIRED, "inputRequests": wanted, "requestState": state}


def _with_elicitation_id(params: JsonObject) -> JsonObject:
    """Return a page to visit as an elicitation of the handshake's era; the other has no id."""
    return {"elicitationId": secrets.token_urlsafe(12), **params}


async def _notice(call: _Call, message: Message) -> None:
    """Relay the server's notifications during the call, if they are for this client."""
    method = message.body.get("method")
    if method in OUTSIDE_CALLS:
        return
    if (
        method == "notifications/message"
        and call.caller.era is Era.MODERN
        and not era_translation.passes_level(message.body, call.caller.level)
    ):
        return
    await call.reply.notice(message.raw)


def _checked(call: _Call, raw: bytes) -> bytes:
    check = call.exchange.output_check
    return raw if check is None else check(raw)


def _legacy_answer(method: str, body: JsonObject) -> JsonObject:
    if "error" in body:
        return {"error": era_translation.to_legacy_error(method, body["error"])}
    return {"result": era_translation.to_legacy_result(body.get("result"))}


def _modern_answer(method: str, body: JsonObject) -> JsonObject:
    if "error" in body:
        return {"error": era_translation.to_modern_error(body["error"])}
    return {"result": era_translation.to_modern_result(method, body.get("result"))}


def _reply_text(request_id: object, answer: Mapping[str, Any]) -> bytes:
    body: JsonObject = {"jsonrpc": "2.0", "id": request_id, **answer}  # type: ignore[dict-item]  # as the server sent it
    return dump_text(body)


def _call_key(session: ClientSession | None, request_id: RequestId | None) -> CallKey | None:
    return None if session is None or request_id is None else (session.nonce, request_id)


def _digest(ask: Ask) -> str:
    """Return what the repeated request must have in common with the first."""
    params = {
        name: value
        for name, value in ask.params.items()
        if name not in {"inputResponses", "requestState", "_meta"}
    }
    text = orjson.dumps([ask.route.server_id, ask.method, params], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:32]


def _explained(call: _Call, message: Message) -> Message:
    """Return the answer, with what the client lacks where the server does not have the tool.

    The tool is in the list that was read with all capabilities that can be relayed.
    """
    if (
        call.ask.method != "tools/call"
        or len(message.raw) > UNKNOWN_TOOL_BYTES
        or judge(message.raw) == GOOD
    ):
        return message
    lacking = era_translation.lacking_capabilities(call.caller.capabilities)
    if not lacking:
        return message
    body = message.editable()
    if not era_translation.explain_unknown_tool(body, str(call.ask.params.get("name")), lacking):
        return message
    return Message(message.kind, dump_text(body))


def _names_resources(method: str, raw: bytes) -> bool:
    if method == "resources/read":
        return True
    # Longer answers pass unchanged: parsing them would delay all other requests.
    return len(raw) <= MAX_EDITED_BYTES and RESOURCE_LINK in raw


def _publish_uris(call: _Call, body: JsonObject) -> None:
    """Replace the URIs in an answer by the public ones."""
    if call.ask.method != "resources/read":
        publish_links(call.offering, call.ask.route, body)
        return
    contents = members(body.get("result")).get("contents")
    for content in contents if isinstance(contents, list) else []:
        if isinstance(content, dict) and content.get("uri") == call.ask.params.get("uri"):
            content["uri"] = call.exchange.params.get("uri")
