"""Refusals: every error with which the gateway itself answers a request.

Refusal
├── transport: OriginNotAllowed, MethodNotAllowed, BodyTooLarge, BodyTooSlow, …
├── protocol:  MalformedJson, InvalidRequest, InvalidParams, HeaderMismatch
├── policy:    ServerUnknown, SessionUnknown, ToolUnknown, ToolDenied
├── loop:      LoopDetected
└── upstream:  UpstreamUnreachable, UpstreamTimedOut, UpstreamMisbehaved, CredentialsRejected, …

The data plane renders them directly, so a refusal knows its HTTP status and its JSON-RPC code.
Codes of our own equal the HTTP status: JSON-RPC and MCP reserve only negative codes.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

from registry.oauth.values import AuthorizationLink, shown_scopes
from registry.upstream.loops import LOOP_DETECTED

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
UNSUPPORTED_PROTOCOL_VERSION = -32022

RETRY_AFTER_SECONDS = 2
"""Sent in `Retry-After` when the gateway is temporarily unavailable."""


class CallOutcome(StrEnum):
    """How a request ended, as metrics count it.

    `DENIED`: refused by policies; callers get the same answer as for what does not exist.
    `UNCONFIRMED`: the caller's user did not confirm the call, or could not be asked.
    `AWAITING_APPROVAL`: the call waits for people, or fetched what an approved one returned: that
    was recorded when it was executed. `APPROVAL_REFUSED`: it will not be made, or nobody knows
    whether it was.
    `TOOL_ERROR` and `RPC_ERROR` are answers of the upstream that were relayed whole: a result
    with `isError`, and a JSON-RPC error. The time of requests is counted as `OK` for both.
    """

    OK = "ok"
    TOOL_ERROR = "tool_error"
    RPC_ERROR = "rpc_error"
    INVALID = "invalid"
    INVALID_ARGUMENTS = "invalid_arguments"
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    DENIED = "denied"
    LIMITED = "limited"
    QUARANTINED = "quarantined"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    DISCONNECTED = "disconnected"
    UNCONFIRMED = "unconfirmed"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVAL_REFUSED = "approval_refused"


class Wait(StrEnum):
    """The phase in which an upstream exceeded a timeout."""

    CONNECTION = "connect"
    ANSWER = "first_byte"
    MORE = "idle"
    END = "total"


WAITS = {
    Wait.CONNECTION: "did not accept a connection in time",
    Wait.ANSWER: "did not begin to answer in time",
    Wait.MORE: "stopped sending in the middle of its response",
    Wait.END: "did not finish its response in time",
}


class Refusal(Exception):  # noqa: N818 - a decision that travels as an exception
    """A request that gets a JSON-RPC error instead of an answer.

    Attributes:
        message: Safe to show: names things, and contains neither secrets nor an upstream's text.
        facts: Members of the error's `data`.
        headers: Further response headers.
        is_of_http: Whether clients act on the status itself, in every era: they send another
            token, or begin another session.
        is_for_model: Whether the model that called a tool can act on it: by other arguments,
            another tool, or a message to the user. In the handshake's era it becomes a result of
            the call.
        is_always_result: Whether it becomes one in the stateless era too.
    """

    status: ClassVar[int] = 400
    code: ClassVar[int] = INVALID_REQUEST
    error: ClassVar[str] = "validation_error"
    outcome: ClassVar[CallOutcome] = CallOutcome.INVALID
    is_of_http: ClassVar[bool] = False
    is_for_model: ClassVar[bool] = False
    is_always_result: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        facts: Mapping[str, object] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = dict(facts or {})
        self.headers = tuple(headers)
        self.http_status = self.status
        self.rpc_code = self.code


class OriginNotAllowed(Refusal):
    """The request came from a browser page of another origin."""

    status = 403
    code = 403
    error = "forbidden"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("This Origin is not allowed; add it to ALLOWED_ORIGINS.")


class MethodNotAllowed(Refusal):
    """The path does not support this HTTP method."""

    status = 405
    code = 405
    error = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(
            f"Method not allowed; use {allowed}.", headers=[(b"allow", allowed.encode())]
        )


class BodyTooSlow(Refusal):
    """The request's body did not arrive in time; the rest of it is not read."""

    status = 408
    code = 408
    error = "request_timeout"

    def __init__(self) -> None:
        super().__init__(
            "The request body did not arrive in time.", headers=[(b"connection", b"close")]
        )


class NotAcceptable(Refusal):
    """The client accepts neither form of response."""

    status = 406
    code = 406

    def __init__(self) -> None:
        super().__init__("Accept must allow application/json and text/event-stream.")


class BodyTooLarge(Refusal):
    """The request body exceeds the limit."""

    status = 413
    code = 413
    error = "payload_too_large"

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(f"The request body is larger than {max_body_bytes} bytes.")


class NotJson(Refusal):
    """The request body's media type is not plain JSON."""

    status = 415
    code = 415

    def __init__(self) -> None:
        super().__init__("Content-Type must be application/json, without Content-Encoding.")


class MalformedJson(Refusal):
    """The body is not JSON."""

    code = PARSE_ERROR

    def __init__(self) -> None:
        super().__init__("The body is not valid JSON, or is nested too deeply.")


class InvalidRequest(Refusal):
    """The body is JSON but not a single, unambiguous JSON-RPC message."""


class InvalidParams(Refusal):
    """The message's `params` are invalid."""

    code = INVALID_PARAMS


class ArgumentsRefused(InvalidParams):
    """The arguments of a call do not match the tool's definition.

    In both eras a result of the call: its model can correct them (MCP, SEP-1303).
    """

    error = "invalid_arguments"
    outcome = CallOutcome.INVALID_ARGUMENTS
    is_for_model = True
    is_always_result = True

    def __init__(self, problem: str) -> None:
        super().__init__(f"The arguments do not match the tool's definition: {problem}.")


class HeaderMismatch(Refusal):
    """Headers are repeated, or contradict the body."""

    code = HEADER_MISMATCH


class LadderRefusal(Refusal):
    """A protocol check of a stateless request failed (SDK `mcp.shared.inbound`)."""

    def __init__(self, code: int, message: str, facts: Mapping[str, object]) -> None:
        super().__init__(message, facts=facts)
        self.rpc_code = code


class Unauthorized(Refusal):
    """There is no bearer token, or it is invalid."""

    status = 401
    code = 401
    error = "unauthorized"
    outcome = CallOutcome.UNAUTHORIZED
    is_of_http = True


class InsufficientScope(Refusal):
    """The token's scope does not allow the request."""

    status = 403
    code = 403
    error = "insufficient_scope"
    outcome = CallOutcome.UNAUTHORIZED
    is_of_http = True


class ServerUnknown(Refusal):
    """The server does not exist, is not active, or is not visible to the caller."""

    status = 404
    code = 404
    error = "not_found"
    outcome = CallOutcome.REFUSED
    is_of_http = True

    def __init__(self) -> None:
        super().__init__("Server not found.")


class ToolsetUnknown(Refusal):
    """The toolset does not exist, or the caller may not use it.

    Attributes:
        rule: Why they may not, for records; None if it does not exist.
    """

    status = 404
    code = 404
    error = "not_found"
    outcome = CallOutcome.REFUSED
    is_of_http = True

    def __init__(self, name: str, named_by: str, rule: str | None = None) -> None:
        super().__init__(
            f"The toolset {name[:64]!r} ({named_by}) does not exist, or you may not use it."
        )
        self.name = name
        self.named_by = named_by
        self.rule = rule


class SessionUnknown(Refusal):
    """The session id is unknown, has expired, or belongs to another caller."""

    status = 404
    code = 404
    error = "not_found"
    outcome = CallOutcome.REFUSED
    is_of_http = True

    def __init__(self) -> None:
        super().__init__("Session not found; initialize a new one.")


class StateUnknown(Refusal):
    """The requestState is unknown, has expired, or belongs to another call."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("The requestState is unknown or has expired; send the request again.")


class AnswerUnwanted(Refusal):
    """The worker that asked the client something cannot be reached with the answer."""

    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__(
            "The server's request has ended, or came through another replica of the registry; "
            "send the answer to the replica that has the call."
        )


class RequestCancelled(Refusal):
    """The client cancelled the request."""

    status = 200
    code = 499
    error = "cancelled"
    outcome = CallOutcome.DISCONNECTED

    def __init__(self) -> None:
        super().__init__("Request cancelled")


class PromptUnknown(Refusal):
    """The prompt does not exist, or the caller may not use it."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown prompt: {name}")


class ResourceUnknown(Refusal):
    """The resource does not exist, or the caller may not read it.

    Args:
        uri: The requested URI.
        code: The error code of the client's era.
    """

    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, uri: str, code: int) -> None:
        super().__init__("Resource not found", facts={"uri": uri})
        self.rpc_code = code


class ToolUnknown(Refusal):
    """The tool does not exist, or the caller may not use it. The wording is from MCP."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown tool: {name}")


class ToolDenied(ToolUnknown):
    """Policies refuse the tool to the caller, who gets the answer of an unknown tool."""

    outcome = CallOutcome.DENIED


class ApprovalRequired(Refusal):
    """People must approve each call of the tool, and this process keeps no requests for that."""

    status = 403
    code = 403
    error = "approval_required"
    outcome = CallOutcome.REFUSED
    is_for_model = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The tool {name} requires human approval (human_approval_required), and approvals "
            "are not available here: the call was not made.",
            facts={"tool": name},
        )


class MethodUnknown(Refusal):
    """The server does not support this JSON-RPC method."""

    status = 404
    code = -32601
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("Method not found")


class NotSubscribable(Refusal):
    """The resource's server does not support subscriptions."""

    code = MethodUnknown.code
    error = "not_found"

    def __init__(self, server_name: str) -> None:
        super().__init__(f"The server {server_name} does not support subscriptions to resources.")


class NotServing(Refusal):
    """The gateway is temporarily unavailable."""

    status = 503
    code = 503
    error = "service_unavailable"
    outcome = CallOutcome.UNAVAILABLE
    is_for_model = True

    def __init__(self, message: str, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(
            message,
            facts={"retry_after_seconds": retry_after_seconds},
            headers=[(b"retry-after", str(retry_after_seconds).encode())],
        )


class UpstreamBusy(NotServing):
    """The limits of concurrent and waiting calls to the server are reached."""

    error = "upstream_busy"

    def __init__(self, named: str) -> None:
        super().__init__(f"Too many calls to the {named} are in progress; try again later.")


class ShuttingDown(NotServing):
    """This worker is shutting down; another worker, or its successor, answers."""

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down; try again.")
        self.headers = (*self.headers, (b"connection", b"close"))


class InternalFailure(Refusal):
    """An unexpected error; it was logged."""

    status = 503
    code = INTERNAL_ERROR
    error = "internal_error"
    outcome = CallOutcome.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The gateway had an internal error; it was logged.")


class LoopDetected(Refusal):
    """The request was sent by this deployment itself, and routed back to it."""

    status = 508
    code = 508
    error = "loop_detected"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__(
            f"{LOOP_DETECTED}: a server that is registered in this registry routes back to it."
        )


class UpstreamFailed(Refusal):
    """The server could not be reached, or sent a response that cannot be relayed."""

    status = 502
    code = 502
    error = "upstream_error"
    outcome = CallOutcome.UPSTREAM_ERROR
    is_for_model = True


class InputRefused(UpstreamFailed):
    """The client answered a server's request with an error."""

    status = 200
    code = 400
    outcome = CallOutcome.REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(f"The client answered the server's request with an error: {reason[:200]}")


class UserKeyNeeded(UpstreamFailed):
    """The caller has no key or access of their own. Nothing was sent to the server."""

    outcome = CallOutcome.REFUSED


class UpstreamAnswered(UpstreamFailed):
    """The server's HTTP error status is reported, its body (an HTML page, say) is not."""

    def __init__(self, named: str, status: int, answered: int) -> None:
        super().__init__(f"The {named} answered HTTP {answered}.")
        self.answered = answered
        self.http_status = status
        self.rpc_code = status


class NoJsonRpcAnswer(UpstreamFailed):
    """The server answered a request with success but without a JSON-RPC response.

    The server is reachable, so no offline response replaces it, but it is not working.
    """

    def __init__(self, named: str, status: int) -> None:
        super().__init__(f"The {named} returned HTTP {status} without a JSON-RPC response.")


class SessionForgotten(UpstreamAnswered):
    """The server does not know the session of a client that talks to it directly."""

    is_of_http = True


class UpstreamTimedOut(UpstreamFailed):
    """The server exceeded a timeout."""

    status = 504
    code = 504
    outcome = CallOutcome.TIMEOUT

    def __init__(self, named: str, waited_for: Wait = Wait.ANSWER) -> None:
        super().__init__(f"The {named} {WAITS[waited_for]}.", facts={"timeout": waited_for})


class UpstreamPaused(UpstreamFailed):
    """The circuit breaker is open: the server failed repeatedly."""

    status = 503
    code = 503
    error = "upstream_unavailable"
    outcome = CallOutcome.UNAVAILABLE

    def __init__(self, named: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"The {named} failed several times in a row; "
            f"the next call is possible in {retry_after_seconds} s.",
            facts={"retry_after_seconds": retry_after_seconds},
            headers=[(b"retry-after", str(retry_after_seconds).encode())],
        )


class CredentialsRejected(UpstreamFailed):
    """The server refused its stored credentials; the caller's own token is valid.

    Attributes:
        answered: The HTTP status.
        challenge: The server's `WWW-Authenticate` header; never relayed.
    """

    def __init__(self, named: str, status: int, challenge: str | None = None) -> None:
        super().__init__(f"The {named} rejected the credentials stored for it (HTTP {status}).")
        self.answered = status
        self.challenge = challenge


class AccessEnded(UpstreamFailed):
    """The owner of a session or stream has no access token for the server any more."""

    outcome = CallOutcome.REFUSED

    def __init__(self, server_name: str) -> None:
        super().__init__(f"The access to {server_name} was revoked, or has ended.")


class AuthorizationRequired(UpstreamFailed):
    """The caller must first authorise the registry at the server. Nothing was sent to it.

    Attributes:
        server_id: The server.
        link: Where the caller can do so.
        wanted: What the caller has to do, without the link.
    """

    status = 403
    code = 403
    error = "authorization_required"
    outcome = CallOutcome.REFUSED

    def __init__(
        self,
        server_name: str,
        server_id: str,
        link: AuthorizationLink,
        scopes: Sequence[str] = (),
    ) -> None:
        self.wanted = f"Authorise the registry at {server_name}"
        if scopes:
            self.wanted = (
                f"{server_name} wants more than was granted: {shown_scopes(scopes)}. "
                "Authorise the registry there again"
            )
        super().__init__(f"{self.wanted}. Open {link.url} and then repeat the request.")
        self.server_id = server_id
        self.link = link

    @property
    def elicitation(self) -> dict[str, str]:
        """Return the parameters of an elicitation in URL mode."""
        return {
            "mode": "url",
            "elicitationId": self.link.flow_id,
            "url": self.link.url,
            "message": f"{self.wanted}.",
        }


class AuthorizationDeclined(UpstreamFailed):
    """The user declined to authorise the registry at the server."""

    status = 403
    code = 403
    error = "authorization_required"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("The user declined to authorise the registry at the server.")


class UrlElicitationRequired(Refusal):
    """The same for a client of the handshake's era that can open URLs (MCP 2025-11-25)."""

    status = 200
    code = -32042
    error = "authorization_required"
    outcome = CallOutcome.REFUSED

    def __init__(self, required: AuthorizationRequired) -> None:
        super().__init__(required.message, facts={"elicitations": [required.elicitation]})


class StateMismatch(Refusal):
    """The requestState was issued for another caller, tool or arguments, or was used before."""

    code = INVALID_PARAMS
    error = "state_mismatch"
    outcome = CallOutcome.UNCONFIRMED

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The requestState {problem}: nothing was sent. "
            "Send the request again without requestState and inputResponses."
        )


class ConfirmationNeeded(Refusal):
    """The caller's user must confirm the call, and cannot be asked."""

    status = 403
    code = 403
    error = "confirmation_required"
    outcome = CallOutcome.UNCONFIRMED
    is_for_model = True

    def __init__(self, tool: str, server: str, why_not: str, how: str) -> None:
        super().__init__(
            f"The tool {tool} of {server} needs its user's confirmation for each call, and "
            f"nothing was sent: {why_not}. {how}",
            facts={"tool": tool},
        )


class NotConfirmed(Refusal):
    """The caller's user did not confirm the call."""

    status = 403
    code = 403
    error = "not_confirmed"
    outcome = CallOutcome.UNCONFIRMED
    is_for_model = True

    def __init__(self, tool: str, answer: str, said: str) -> None:
        super().__init__(
            f"The call of {tool} was not made, and nothing was sent: {said}.",
            facts={"tool": tool, "answer": answer},
        )


class ToolChanged(Refusal):
    """The tool is not any more what the caller's user, or an approver, was shown."""

    status = 409
    code = 409
    error = "conflict"
    outcome = CallOutcome.UNCONFIRMED
    is_for_model = True

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"The tool {tool} changed while its call waited, and nothing was sent; call it again.",
            facts={"tool": tool},
        )


class TooManyQuestions(NotServing):
    """Too many calls wait for their users."""

    error = "too_many_questions"

    def __init__(self) -> None:
        super().__init__("Too many calls are waiting for an answer of their users; answer some.")


class OutputUncheckable(Refusal):
    """The tool's results must be checked, and cannot be."""

    status = 403
    code = 403
    error = "output_uncheckable"
    outcome = CallOutcome.REFUSED
    is_for_model = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The results of the tool {name} must match its outputSchema (validate_output), which "
            "cannot be checked: it is invalid, refers elsewhere or takes too long. The call was "
            "not made.",
            facts={"tool": name},
        )


class LimitExceeded(Refusal):
    """A limit has no room for the call now.

    Args:
        what: The limit, in words that name no policy of others.
        wait_seconds: After which a call gets through, if no others are made; None for never.
        policy: The `RateLimit-Policy` of the rate: its name, count and seconds; None for calls
            under way. Source: draft-ietf-httpapi-ratelimit-headers.
    """

    status = 429
    code = 429
    error = "rate_limited"
    outcome = CallOutcome.LIMITED

    def __init__(
        self, what: str, wait_seconds: float | None, policy: tuple[str, int, int] | None
    ) -> None:
        facts: dict[str, object] = {}
        headers: list[tuple[bytes, bytes]] = []
        advice, seconds = "none will be let through until the limit is changed", 0
        if wait_seconds is not None:
            facts["retry_after_ms"] = math.ceil(wait_seconds * 1000)
            # Whole seconds, rounded up: who waits so long gets through.
            seconds = max(1, math.ceil(wait_seconds))
            headers.append((b"retry-after", str(seconds).encode()))
            advice = f"try again in {wait_seconds:.1f} s"
        if policy is not None:
            name, count, window = policy
            reset = f";t={seconds}" if wait_seconds is not None else ""
            headers += [
                (b"ratelimit-policy", f'"{name}";q={count};w={window}'.encode()),
                (b"ratelimit", f'"{name}";r=0{reset}'.encode()),
            ]
        super().__init__(f"Over the limit of {what}; {advice}.", facts=facts, headers=headers)


class LimitsAway(NotServing):
    """A limit cannot be kept, because the database is away, and does not let calls pass then."""

    def __init__(self) -> None:
        super().__init__("The limits of this tool cannot be checked now; try again in a moment.")


class ApprovalPending(Refusal):
    """The call waits for people, for longer than its request may stay open."""

    status = 403
    code = 403
    error = "approval_pending"
    outcome = CallOutcome.AWAITING_APPROVAL
    is_for_model = True
    is_always_result = True

    def __init__(self, said: str, facts: Mapping[str, object]) -> None:
        super().__init__(said, facts=facts)


class ApprovalRefused(Refusal):
    """The call was not approved, must not be made any more, or nobody knows whether it was."""

    status = 403
    code = 403
    error = "approval_refused"
    outcome = CallOutcome.APPROVAL_REFUSED
    is_for_model = True
    is_always_result = True

    def __init__(self, said: str, facts: Mapping[str, object]) -> None:
        super().__init__(said, facts=facts)


class BudgetExceeded(Refusal):
    """A budget for the caller's calls is spent for this month, or has less left than one costs."""

    status = 429
    code = 429
    error = "budget_exceeded"
    outcome = CallOutcome.LIMITED
    is_for_model = True

    def __init__(
        self, budget: str | None, starts_again_at: str, seconds: int, *, is_spent: bool
    ) -> None:
        named = "A budget" if budget is None else f"The budget {budget!r}"
        facts = {} if budget is None else {"budget": budget}
        why = "is spent" if is_spent else "has less left than it costs"
        super().__init__(
            f"{named} for this call {why}; it starts again at {starts_again_at}. Nothing was "
            "sent.",
            facts={
                **facts,
                "starts_again_at": starts_again_at,
                "retry_after_ms": seconds * 1000,
            },
            headers=[(b"retry-after", str(seconds).encode())],
        )


class Quarantined(Refusal):
    """A server, tool, user, token or application is in quarantine."""

    status = 403
    code = 403
    error = "quarantined"
    outcome = CallOutcome.QUARANTINED
    is_for_model = True

    def __init__(self, what: str, *, was_sent: bool = False) -> None:
        became = (
            "the call was ended after it had been sent: the server may have done it all the same"
            if was_sent
            else "nothing was sent"
        )
        super().__init__(
            f"{what} is in quarantine, and {became}; ask an administrator.",
            facts={"quarantined": True},
        )
