"""Confirmation: the caller's user agrees to a call before anything of it is sent.

Clients of the handshake's era are asked by elicitation during the call; those of the stateless era
repeat the call with the answer and a sealed state, which counts once. Callers without a person
confirm in the request itself, if their token may. What was confirmed is one call with these
arguments of this definition; see docs/decisions/0058-confirmed-calls.md.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import orjson

from registry.auth.identity import Scope, UserContext
from registry.core.json import JsonObject, load_text, members
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.authorization import client_capabilities, fills_forms
from registry.gateway.edge.error_responses import META_PREFIX, result_body
from registry.gateway.edge.questions import ELICIT, ClientQuestions, streams
from registry.gateway.edge.request_states import (
    PassedState,
    RequestStates,
    Subject,
    subject_of,
    with_state,
)
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.spent_states import SpentStates
from registry.gateway.errors import (
    CallOutcome,
    ConfirmationNeeded,
    NotConfirmed,
    ServerUnknown,
    StateMismatch,
    ToolChanged,
)
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.gateway.values import Route, ToolEntry
from registry.tools.shown_arguments import masked, shown, visible

CONFIRM_META_KEY = f"{META_PREFIX}confirm"
"""Member of a call's `_meta` by which a caller without a person confirms it."""

ASKED = "confirm"
CONFIRMED = "confirmed"
"""Kinds of states: a question that waits for its answer, and a call whose question was answered
and whose server asked for something itself."""

STATE_LIFETIME = timedelta(minutes=15)
MAX_NAME_CHARACTERS = 128

FORM: JsonObject = {
    "type": "object",
    "properties": {
        "confirm": {
            "type": "boolean",
            "title": "Make this call",
            "description": "Without it, nothing is sent to the server.",
        }
    },
    "required": ["confirm"],
}
SAID = {
    "accept": "its user did not tick \u201cMake this call\u201d",
    "decline": "its user declined",
    "cancel": "its user dismissed the question",
    "timeout": "its user did not answer in time",
    "error": "its client answered the question with an error",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that is to be confirmed."""

    exchange: GatewayRequest
    envelope: Envelope
    user: UserContext
    route: Route
    tool: ToolEntry


class Confirmations:
    """Has calls confirmed.

    Args:
        questions: Asks clients of the handshake's era.
        states: Seals what clients of the stateless era bring back.
        spent: Lets each state count once.
        admission: Decides again what may have changed meanwhile, and records the answers.
        max_event_bytes: Longest event of an answer.
    """

    def __init__(
        self,
        questions: ClientQuestions,
        states: RequestStates,
        spent: SpentStates,
        admission: Admission,
        *,
        max_event_bytes: int,
    ) -> None:
        self._questions = questions
        self._states = states
        self._spent = spent
        self._admission = admission
        self._max_event_bytes = max_event_bytes

    async def require(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route,
        tool: ToolEntry,
    ) -> bool:
        """Return whether the request has been answered; if not, the call is confirmed.

        Raises:
            Refusal: It is not, or its client cannot be asked. Nothing may be sent.
            ClientGone: The client disconnected.
        """
        call = _Call(exchange, envelope, user, route, tool)
        by_request = members(envelope.params.get("_meta")).get(CONFIRM_META_KEY) is True
        if by_request and Scope.CONFIRM_TOOLS in user.scopes:
            self._note(call, "request", is_yes=True)
            return False
        if exchange.is_modern:
            if await self._is_confirmed(call):
                return False
            if fills_forms(client_capabilities(exchange.params)):
                await self._ask_to_repeat(call)
                return True
        elif self._questions.can_ask(exchange):
            await self._ask(call)
            return False
        self._note(call, "unasked", is_yes=False)
        why_not = _why_not(exchange, by_request=by_request)
        how = _how(user, is_modern=exchange.is_modern)
        raise ConfirmationNeeded(tool.name, _named(route), why_not, how)

    def handed_on(self, exchange: GatewayRequest, envelope: Envelope) -> bytes | bytearray:
        """Return the text of a request for the worker that continues it.

        It is as confirmed there as it is here, where its state has been spent.
        """
        state = exchange.states.get(CONFIRMED)
        if state is None:
            return envelope.raw
        before = str(envelope.params.get("requestState", ""))
        passed = self._passed(subject_of(exchange), [*state[1:]], before)
        return with_state(envelope, passed).raw

    async def _ask(self, call: _Call) -> None:
        """Ask during the call, and check again what may have changed while the user took time."""
        route, tool = call.route, call.tool
        response = await self._questions.ask(call.exchange, call.user, _form(call))
        answer = "timeout" if response is None else "error"
        result: JsonObject = {}
        if response is not None and isinstance(response.get("result"), dict):
            result = members(response["result"])
            answer = str(result.get("action"))
        self._require_yes(call, answer, result)
        user = await self._admission.identify(call.exchange)
        self._admission.admit_caller(call.exchange, user, Scope.INVOKE_TOOLS)
        try:
            now = self._admission.route_of(user, route.slug, route.server_id)
        except ServerUnknown:
            raise ToolChanged(tool.name) from None
        current = now.tools.get(tool.name)
        if current is None or current.wire != tool.wire or now.url != route.url:
            raise ToolChanged(tool.name)

    async def _is_confirmed(self, call: _Call) -> bool:
        """Whether a request of the stateless era brings the user's agreement."""
        exchange = call.exchange
        is_passed = CONFIRMED in exchange.states
        state = exchange.states.get(CONFIRMED if is_passed else ASKED)
        result = members(exchange.responses.get(ASKED))
        if state is None or not (is_passed or result):
            return False
        nonce, *about = state
        if about != _subject(call):
            raise ToolChanged(call.tool.name)
        if not await self._spent.spend(nonce, STATE_LIFETIME):
            raise StateMismatch("was used before, and counts once")
        if not is_passed:
            self._require_yes(call, str(result.get("action")), result)
        add = partial(self._passed, subject_of(exchange), about)
        exchange.client.divert(
            lambda send: PassedState(send, add, max_bytes=self._max_event_bytes)
        )
        return True

    def _passed(self, subject: Subject, about: list[Any], state: str) -> str:
        """Return a server's state behind one that says that the call is confirmed."""
        content = [secrets.token_urlsafe(12), *about]
        return self._states.seal_before(state, subject, CONFIRMED, content, STATE_LIFETIME)

    async def _ask_to_repeat(self, call: _Call) -> None:
        exchange = call.exchange
        content = [secrets.token_urlsafe(12), *_subject(call)]
        params = {"mode": "form", **_form(call)}
        result: JsonObject = {
            "resultType": INPUT_REQUIRED,
            "inputRequests": {ASKED: {"method": ELICIT, "params": params}},
            "requestState": self._states.seal(exchange, ASKED, content, STATE_LIFETIME),
        }
        exchange.outcome = CallOutcome.UNCONFIRMED
        assert exchange.request_id is not None  # noqa: S101 - only requests are calls
        await exchange.answer(200, result_body(result, exchange.request_id))

    def _require_yes(self, call: _Call, answer: str, result: JsonObject) -> None:
        is_yes = answer == "accept" and members(result.get("content")).get("confirm") is True
        answer = answer if answer in SAID else "error"
        self._note(call, answer, is_yes=is_yes)
        if not is_yes:
            raise NotConfirmed(call.tool.name, answer, SAID[answer])

    def _note(self, call: _Call, answer: str, *, is_yes: bool) -> None:
        self._admission.note_answer(
            call.exchange, call.user, call.route, call.tool.name, answer, is_yes=is_yes
        )


def _subject(call: _Call) -> list[str]:
    """Return what an agreement is about, besides the caller and the request."""
    shown = hashlib.sha256(call.tool.wire + call.exchange.preset).hexdigest()
    return [call.route.server_id, shown]


def _form(call: _Call) -> JsonObject:
    """Return the question: tool, server and arguments."""
    params = call.envelope.params
    if not call.envelope.is_canonical:
        # As the server will read them: another parser rounds large numbers.
        params = members(load_text(call.envelope.raw).get("params"))
    schema = members(orjson.loads(call.tool.wire)).get("inputSchema")
    arguments = masked(members(params.get("arguments")), members(schema))
    tool = visible(call.tool.name, MAX_NAME_CHARACTERS)
    asked = f"Confirm a call of the tool \u201c{tool}\u201d of the {call.route.noun}"
    message = f"{asked} \u201c{_named(call.route)}\u201d.\nArguments:\n{shown(arguments)}"
    return {"message": message, "requestedSchema": FORM}


def _named(route: Route) -> str:
    return visible(route.title or route.server_name, MAX_NAME_CHARACTERS)


def _why_not(exchange: GatewayRequest, *, by_request: bool) -> str:
    if by_request:
        return f"its _meta member {CONFIRM_META_KEY} needs a token with {Scope.CONFIRM_TOOLS}"
    if exchange.is_modern:
        return "its client declares no capability elicitation (form mode) in its _meta"
    if not exchange.reports_errors_in_body:
        return "its stream began before the tool needed that"
    if not streams(exchange):
        return "its client does not accept text/event-stream"
    return "its client declared no capability elicitation (form mode) when its session began"


def _how(user: UserContext, *, is_modern: bool) -> str:
    has_scope = Scope.CONFIRM_TOOLS in user.scopes
    session = "" if is_modern else ", and begin a new session"
    return (
        f"Use a client that supports elicitation{session}; or confirm the call in the request "
        f'itself, by params._meta["{CONFIRM_META_KEY}"] = true (at the HTTP endpoint of the tool, '
        f"by ?confirm=true) with a token that has the scope {Scope.CONFIRM_TOOLS} (this one "
        f"{'has' if has_scope else 'lacks'} it)."
    )
