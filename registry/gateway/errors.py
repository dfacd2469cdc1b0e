"""Every way the gateway itself refuses a request.

Refusal
├── transport: OriginNotAllowed, MethodNotAllowed, BodyTooLarge, BodyTooSlow, …
├── protocol:  MalformedJson, InvalidRequest, InvalidParams, HeaderMismatch
├── policy:    ServerUnknown, SessionUnknown, ToolUnknown, ToolDenied
├── loop:      LoopDetected
└── upstream:  UpstreamUnreachable, UpstreamTimedOut, UpstreamMisbehaved, CredentialsRejected, …

The data plane is itself the rim where HTTP and JSON-RPC meet, so a refusal knows its status and
its code. Codes of our own equal the HTTP status: JSON-RPC and MCP reserve negative ones only.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

from registry.upstream.loops import LOOP_DETECTED

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
UNSUPPORTED_PROTOCOL_VERSION = -32022

RETRY_AFTER_SECONDS = 2
"""Told to clients when the gateway cannot answer for the moment."""


class CallOutcome(StrEnum):
    """How a request ended, as metrics count it.

    `DENIED` is what policies refuse; callers are told the same as of what does not exist.
    `TOOL_ERROR` and `RPC_ERROR` are answers of the upstream that were relayed whole: a result
    with `isError`, and a JSON-RPC error. The time of requests is counted as `OK` for both.
    """

    OK = "ok"
    TOOL_ERROR = "tool_error"
    RPC_ERROR = "rpc_error"
    INVALID = "invalid"
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    DENIED = "denied"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    DISCONNECTED = "disconnected"


class Wait(StrEnum):
    """What of an upstream did not come in time."""

    CONNECTION = "connect"
    ANSWER = "first_byte"
    MORE = "idle"
    END = "total"


WAITS = {
    Wait.CONNECTION: "took no connection in time",
    Wait.ANSWER: "did not begin to answer in time",
    Wait.MORE: "fell silent in the middle of its answer",
    Wait.END: "did not finish its answer in time",
}


class Refusal(Exception):  # noqa: N818 - a decision that travels as an exception
    """A request that gets a JSON-RPC error instead of an answer.

    Attributes:
        message: Safe to show: names things, never secrets, never an upstream's own words.
        facts: Members of the error's `data`.
        headers: Further response headers.
        is_of_http: Whether clients act on the status itself, in every era: they send another
            token, or begin another session.
        is_for_model: Whether whoever asked for a tool can act on it: by other arguments, another
            tool, a word to the user. In the handshake's era it is a result of the call.
    """

    status: ClassVar[int] = 400
    code: ClassVar[int] = INVALID_REQUEST
    error: ClassVar[str] = "validation_error"
    outcome: ClassVar[CallOutcome] = CallOutcome.INVALID
    is_of_http: ClassVar[bool] = False
    is_for_model: ClassVar[bool] = False

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
    """A browser page of another origin called."""

    status = 403
    code = 403
    error = "forbidden"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("This Origin may not call the gateway; ALLOWED_ORIGINS lists those.")


class MethodNotAllowed(Refusal):
    """The path does not take this HTTP method."""

    status = 405
    code = 405
    error = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(
            f"Only {allowed} may be used here.", headers=[(b"allow", allowed.encode())]
        )


class BodyTooSlow(Refusal):
    """The request's body did not arrive in time; what is left of it is not waited for."""

    status = 408
    code = 408
    error = "request_timeout"

    def __init__(self) -> None:
        super().__init__(
            "The request body did not arrive in time.", headers=[(b"connection", b"close")]
        )


class NotAcceptable(Refusal):
    """The client takes neither of the forms that answers have."""

    status = 406
    code = 406

    def __init__(self) -> None:
        super().__init__("Accept must allow application/json and text/event-stream.")


class BodyTooLarge(Refusal):
    """The request body is over the limit."""

    status = 413
    code = 413
    error = "payload_too_large"

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(f"The request body is larger than {max_body_bytes} bytes.")


class NotJson(Refusal):
    """The request body is declared to be something else than plain JSON."""

    status = 415
    code = 415

    def __init__(self) -> None:
        super().__init__("The body must be sent as application/json without Content-Encoding.")


class MalformedJson(Refusal):
    """The body is not JSON."""

    code = PARSE_ERROR

    def __init__(self) -> None:
        super().__init__("The body is not valid JSON.")


class InvalidRequest(Refusal):
    """The body is JSON but no single, unambiguous JSON-RPC message."""


class InvalidParams(Refusal):
    """The message's `params` cannot be used."""

    code = INVALID_PARAMS


class ArgumentsRefused(InvalidParams):
    """The arguments of a call do not fit the tool's definition."""

    is_for_model = True

    def __init__(self, problem: str) -> None:
        super().__init__(f"The arguments do not fit the tool's definition: {problem}.")


class HeaderMismatch(Refusal):
    """Headers repeat, or disagree with the body."""

    code = HEADER_MISMATCH


class LadderRefusal(Refusal):
    """What the protocol's own checks of a stateless request found (SDK `mcp.shared.inbound`)."""

    def __init__(self, code: int, message: str, facts: Mapping[str, object]) -> None:
        super().__init__(message, facts=facts)
        self.rpc_code = code


class Unauthorized(Refusal):
    """No bearer token, or one that cannot be accepted."""

    status = 401
    code = 401
    error = "unauthorized"
    outcome = CallOutcome.UNAUTHORIZED
    is_of_http = True


class InsufficientScope(Refusal):
    """The token is good but does not allow this."""

    status = 403
    code = 403
    error = "insufficient_scope"
    outcome = CallOutcome.UNAUTHORIZED
    is_of_http = True


class ServerUnknown(Refusal):
    """There is no such server, it is not active, or the caller may not know of it."""

    status = 404
    code = 404
    error = "not_found"
    outcome = CallOutcome.REFUSED
    is_of_http = True

    def __init__(self) -> None:
        super().__init__("There is no such server.")


class SessionUnknown(Refusal):
    """The session id is not one of ours, has expired, or belongs to someone else."""

    status = 404
    code = 404
    error = "not_found"
    outcome = CallOutcome.REFUSED
    is_of_http = True

    def __init__(self) -> None:
        super().__init__("Session not found; initialize a new one.")


class StateUnknown(Refusal):
    """The requestState is not one of ours any more, or belongs to another call."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("The requestState is unknown or has expired; send the request anew.")


class AnswerUnwanted(Refusal):
    """The process that asked a client something cannot be reached with the answer."""

    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__(
            "What asked this is over, or was asked by another replica of the registry; answers "
            "to a call go where the call went."
        )


class RequestCancelled(Refusal):
    """The client said that it does not want the answer any more."""

    status = 200
    code = 499
    error = "cancelled"
    outcome = CallOutcome.DISCONNECTED

    def __init__(self) -> None:
        super().__init__("Request cancelled")


class PromptUnknown(Refusal):
    """There is no such prompt, or the caller may not use it."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown prompt: {name}")


class ResourceUnknown(Refusal):
    """There is no such resource, or the caller may not read it.

    Args:
        uri: As it was asked for.
        code: The one that the client's era has for it.
    """

    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, uri: str, code: int) -> None:
        super().__init__("Resource not found", facts={"uri": uri})
        self.rpc_code = code


class ToolUnknown(Refusal):
    """There is no such tool, or the caller may not use it. The wording is the specification's."""

    code = INVALID_PARAMS
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown tool: {name}")


class ToolDenied(ToolUnknown):
    """Policies refuse the tool to the caller, who is told that there is none."""

    outcome = CallOutcome.DENIED


class ApprovalRequired(Refusal):
    """A person must approve each call of the tool, and there is no way yet to ask one."""

    status = 403
    code = 403
    error = "approval_required"
    outcome = CallOutcome.REFUSED
    is_for_model = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The tool {name} requires human approval (human_approval_required), and approvals "
            "are not available yet: the call was not made. An operator may remove the flag from "
            "the tool, or set APPROVALS=advisory.",
            facts={"tool": name},
        )


class MethodUnknown(Refusal):
    """The server does not have this JSON-RPC method."""

    status = 404
    code = -32601
    error = "not_found"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__("Method not found")


class NotSubscribable(Refusal):
    """The server whose resource it is does not tell when resources change."""

    code = MethodUnknown.code
    error = "not_found"

    def __init__(self, server_name: str) -> None:
        super().__init__(f"The server {server_name} does not take subscriptions to resources.")


class NotServing(Refusal):
    """The gateway cannot answer for the moment."""

    status = 503
    code = 503
    error = "service_unavailable"
    outcome = CallOutcome.UNAVAILABLE
    is_for_model = True

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            facts={"retry_after_seconds": RETRY_AFTER_SECONDS},
            headers=[(b"retry-after", str(RETRY_AFTER_SECONDS).encode())],
        )


class UpstreamBusy(NotServing):
    """As many calls to the server are under way, and wait, as may be."""

    error = "upstream_busy"

    def __init__(self, server_name: str) -> None:
        super().__init__(f"Too many calls to {server_name} are under way; try again in a moment.")


class ShuttingDown(NotServing):
    """This process is on its way out; another answers, or this one's successor."""

    def __init__(self) -> None:
        super().__init__("The gateway is being shut down.")
        self.headers = (*self.headers, (b"connection", b"close"))


class InternalFailure(Refusal):
    """Something unforeseen; it was logged."""

    status = 503
    code = INTERNAL_ERROR
    error = "internal_error"
    outcome = CallOutcome.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("Something went wrong in the gateway; it was recorded.")


class LoopDetected(Refusal):
    """The request was sent by this deployment itself, and led back to it."""

    status = 508
    code = 508
    error = "loop_detected"
    outcome = CallOutcome.REFUSED

    def __init__(self) -> None:
        super().__init__(
            f"{LOOP_DETECTED}: a server that is registered in this registry leads back to it."
        )


class UpstreamFailed(Refusal):
    """The server behind the gateway could not be asked, or answered what cannot be passed on."""

    status = 502
    code = 502
    error = "upstream_error"
    outcome = CallOutcome.UPSTREAM_ERROR
    is_for_model = True


class InputRefused(UpstreamFailed):
    """The client answered what the server asked of it with an error."""

    status = 200
    code = 400
    outcome = CallOutcome.REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(f"The client did not give what the server asked for: {reason[:200]}")


class UserKeyNeeded(UpstreamFailed):
    """The caller has stored no key of their own. The upstream was not asked."""

    outcome = CallOutcome.REFUSED


class UpstreamAnswered(UpstreamFailed):
    """The upstream's error status is passed on, its body (an HTML page, say) is not."""

    def __init__(self, server_name: str, status: int, answered: int) -> None:
        super().__init__(f"The server {server_name} answered HTTP {answered}.")
        self.answered = answered
        self.http_status = status
        self.rpc_code = status


class NoJsonRpcAnswer(UpstreamFailed):
    """The server answered a request with success, and with no JSON-RPC answer in it.

    It is there, so that nobody answers in its place, and works for nobody.
    """

    def __init__(self, server_name: str, status: int) -> None:
        super().__init__(
            f"The server {server_name} answered with HTTP {status} but without a JSON-RPC answer."
        )


class SessionForgotten(UpstreamAnswered):
    """The server does not know the session of a client that talks to it itself."""

    is_of_http = True


class UpstreamTimedOut(UpstreamFailed):
    """The upstream was silent, or the answer took, longer than allowed."""

    status = 504
    code = 504
    outcome = CallOutcome.TIMEOUT

    def __init__(self, server_name: str, waited_for: Wait = Wait.ANSWER) -> None:
        super().__init__(
            f"The server {server_name} {WAITS[waited_for]}.", facts={"timeout": waited_for}
        )


class UpstreamPaused(UpstreamFailed):
    """The server failed so often that it is left alone for a while."""

    status = 503
    code = 503
    error = "upstream_unavailable"
    outcome = CallOutcome.UNAVAILABLE

    def __init__(self, server_name: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"The server {server_name} failed several times in a row; "
            f"it is not asked for {retry_after_seconds} s.",
            facts={"retry_after_seconds": retry_after_seconds},
            headers=[(b"retry-after", str(retry_after_seconds).encode())],
        )


class CredentialsRejected(UpstreamFailed):
    """The upstream refused the credentials stored for it; the caller's own token is fine."""

    def __init__(self, server_name: str, status: int) -> None:
        super().__init__(
            f"The server {server_name} rejected the credentials stored for it (HTTP {status})."
        )
