"""What comes of each fault: data of `test_faults`, and of the table in docs/operations.md."""

from dataclasses import dataclass
from enum import StrEnum

from tests.fakes.fault_proxy import Direction, Fault

HEAD_BYTES = 60
"""Within the head of every answer that the tests' upstream gives."""

BODY_BYTES = 400
"""Within the body of every such answer, and of every request that the tests send."""


class Place(StrEnum):
    """Where something goes wrong."""

    UPSTREAM = "gateway and server"
    CLIENT = "client and gateway"


class Form(StrEnum):
    """How the upstream answers."""

    JSON = "JSON"
    SSE = "stream"


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        after: Bytes that pass before it.
        moment: The same for people.
        status: That the client gets; None when it gets no answer.
        code: Of the failed result or the JSON-RPC error; None when there is none.
        counted: The outcome in metrics; None when there was no request.
        told: What the client is told, or has.
        is_whole: Whether the client has the whole answer.
    """

    place: Place
    direction: Direction
    fault: Fault
    after: int
    moment: str
    form: Form
    status: int | None
    code: int | None
    counted: str | None
    told: str
    is_whole: bool = False

    @property
    def name(self) -> str:
        """Name the case."""
        return f"{self.place}, {self.fault} {self.moment}, {self.form}"


BROKEN = "The server demo broke the connection."
NO_HTTP = "The server demo did not answer in HTTP."
NO_ANSWER = "The server demo did not begin to answer in time."
SILENT = "The server demo stopped sending in the middle of its response."
TOO_LONG = "The server demo did not finish its response in time."
ANSWER = "the answer"
ENDS = "what came before it; the stream ends"
NOTHING = "nothing"


def _upstream(
    fault: Fault,
    after: int,
    moment: str,
    form: Form,
    code: int,
    counted: str,
    told: str,
) -> Case:
    # The request was understood, so that what goes wrong is told within its answer.
    return Case(
        Place.UPSTREAM,
        Direction.ANSWER,
        fault,
        after,
        moment,
        form,
        200,
        code if code >= 400 else None,
        counted,
        told,
        told == ANSWER,
    )


def _both(
    fault: Fault, after: int, moment: str, status: int, counted: str, told: str
) -> tuple[Case, Case]:
    return (
        _upstream(fault, after, moment, Form.JSON, status, counted, told),
        _upstream(fault, after, moment, Form.SSE, status, counted, told),
    )


BEFORE = "before the answer"
IN_HEAD = "within its head"
IN_BODY = "within its body"

FROM_UPSTREAM = (
    *_both(Fault.LATENCY, 0, BEFORE, 200, "ok", ANSWER),
    *_both(Fault.RESET, 0, BEFORE, 502, "upstream_error", BROKEN),
    *_both(Fault.RESET, HEAD_BYTES, IN_HEAD, 502, "upstream_error", BROKEN),
    *_both(Fault.CUT, 0, BEFORE, 502, "upstream_error", BROKEN),
    *_both(Fault.CUT, HEAD_BYTES, IN_HEAD, 502, "upstream_error", BROKEN),
    *_both(Fault.HALF_CLOSE, 0, BEFORE, 502, "upstream_error", BROKEN),
    *_both(Fault.BLACKHOLE, 0, BEFORE, 504, "timeout", NO_ANSWER),
    *_both(Fault.BLACKHOLE, HEAD_BYTES, IN_HEAD, 504, "timeout", NO_ANSWER),
    *_both(Fault.CORRUPTION, 0, IN_HEAD, 502, "upstream_error", NO_HTTP),
    *_both(Fault.GARBAGE, 0, BEFORE, 502, "upstream_error", NO_HTTP),
    *_both(Fault.LONG_HEADER, 0, IN_HEAD, 502, "upstream_error", NO_HTTP),
    _upstream(Fault.CORRUPTION, BODY_BYTES, IN_BODY, Form.JSON, 200, "ok", "it as it came"),
    _upstream(Fault.CORRUPTION, BODY_BYTES, IN_BODY, Form.SSE, 200, "upstream_error", ENDS),
    _upstream(Fault.RESET, BODY_BYTES, IN_BODY, Form.JSON, 502, "upstream_error", BROKEN),
    _upstream(Fault.RESET, BODY_BYTES, IN_BODY, Form.SSE, 200, "upstream_error", ENDS),
    _upstream(Fault.CUT, BODY_BYTES, IN_BODY, Form.JSON, 502, "upstream_error", BROKEN),
    _upstream(Fault.CUT, BODY_BYTES, IN_BODY, Form.SSE, 200, "upstream_error", ENDS),
    _upstream(Fault.HALF_CLOSE, BODY_BYTES, IN_BODY, Form.JSON, 502, "upstream_error", BROKEN),
    _upstream(Fault.HALF_CLOSE, BODY_BYTES, IN_BODY, Form.SSE, 200, "upstream_error", ENDS),
    _upstream(Fault.BLACKHOLE, BODY_BYTES, IN_BODY, Form.JSON, 504, "timeout", SILENT),
    _upstream(Fault.BLACKHOLE, BODY_BYTES, IN_BODY, Form.SSE, 200, "timeout", ENDS),
    _upstream(Fault.SLOW_DRIP, BODY_BYTES, IN_BODY, Form.JSON, 504, "timeout", TOO_LONG),
    _upstream(Fault.SLOW_DRIP, BODY_BYTES, IN_BODY, Form.SSE, 200, "timeout", ENDS),
)


def _request(
    fault: Fault,
    after: int,
    moment: str,
    status: int | None,
    code: int | None,
    counted: str | None,
    told: str,
) -> Case:
    return Case(
        Place.CLIENT,
        Direction.REQUEST,
        fault,
        after,
        moment,
        Form.JSON,
        status,
        code,
        counted,
        told,
        told == ANSWER,
    )


def _answer(fault: Fault, after: int, moment: str, form: Form) -> Case:
    return Case(
        Place.CLIENT,
        Direction.ANSWER,
        fault,
        after,
        moment,
        form,
        None,
        None,
        "disconnected" if form is Form.SSE else "ok",
        NOTHING if not after else "what came before it",
    )


IN_REQUEST_HEAD = "within the request's head"
IN_REQUEST_BODY = "within the request's body"
INVALID_BODY = "The request body did not arrive in time."
TO_CLIENT = (
    _request(Fault.LATENCY, 0, "before the request", 200, None, "ok", ANSWER),
    _request(Fault.RESET, BODY_BYTES, IN_REQUEST_BODY, None, None, "disconnected", NOTHING),
    _request(Fault.CUT, BODY_BYTES, IN_REQUEST_BODY, None, None, "disconnected", NOTHING),
    _request(Fault.RESET, HEAD_BYTES, IN_REQUEST_HEAD, None, None, None, NOTHING),
    _request(Fault.HALF_CLOSE, BODY_BYTES, IN_REQUEST_BODY, None, None, "disconnected", NOTHING),
    _request(Fault.BLACKHOLE, HEAD_BYTES, IN_REQUEST_HEAD, 408, None, None, "no body"),
    _request(Fault.BLACKHOLE, BODY_BYTES, IN_REQUEST_BODY, 408, 408, "invalid", INVALID_BODY),
    _request(Fault.SLOW_DRIP, BODY_BYTES, IN_REQUEST_BODY, 408, 408, "invalid", INVALID_BODY),
    _request(
        Fault.CORRUPTION,
        BODY_BYTES,
        IN_REQUEST_BODY,
        400,
        -32700,
        "invalid",
        "The body is not valid JSON, or is nested too deeply.",
    ),
    _request(Fault.CORRUPTION, 0, IN_REQUEST_HEAD, 400, None, None, "plain text"),
    _request(Fault.GARBAGE, 0, "instead of a request", 400, None, None, "plain text"),
    _request(Fault.LONG_HEADER, 0, IN_REQUEST_HEAD, 431, None, None, "no body"),
    _answer(Fault.RESET, 0, BEFORE, Form.JSON),
    _answer(Fault.CUT, 0, BEFORE, Form.JSON),
    _answer(Fault.RESET, BODY_BYTES, IN_BODY, Form.SSE),
    _answer(Fault.CUT, BODY_BYTES, IN_BODY, Form.SSE),
)

CASES = FROM_UPSTREAM + TO_CLIENT


def rendered() -> str:
    """Return the table as it is in docs/operations.md."""
    lines = [
        "| Between | Fault | Answer as | HTTP | JSON-RPC code | The client gets | Metrics count |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in CASES:
        cells = (
            case.place,
            f"{case.fault} {case.moment}",
            case.form,
            str(case.status or "-"),
            str(case.code or "-"),
            case.told.replace("demo", "(name)"),
            f"`{case.counted}`" if case.counted else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
