"""Classify a relayed answer: success, a JSON-RPC error, or a failed tool. Pure.

A failed tool is a successful exchange over HTTP, and often in JSON-RPC too.
"""

from collections.abc import Iterable
from enum import Enum

import orjson

from registry.gateway.errors import CallOutcome

MAX_JUDGED_BYTES = 64 * 1024
"""Longer answers, and streams whose last part holds no whole message, count as successful."""

MAX_CODE = 2**63 - 1
"""Largest error code that is recorded; the database stores no greater integers."""

GOOD_ENDS = tuple(
    space.join((b'"isError":', b"false}}")) + end
    for space in (b"", b" ")
    for end in (b"", b"\n\n", b"\r\n\r\n")
)
"""The end of nearly all tool results. The second brace closes the message, so this is a member
of its result."""

KEY_ENDS = b'rror"'
"""Contained in every answer that reports an error: in `"error"` and in `"isError"`."""

DATA = b"data:"
EVENT_ID = b"id:"
GOOD = (CallOutcome.OK, 0)


class Answer(Enum):
    """The answer to a request that begins a session, or to `server/discover`."""

    RESULT = "result"
    ERROR = "error"
    """A JSON-RPC error; the client's request may be the reason."""
    LATER = "later"
    """A stream that has ended and can be resumed (2025-11-25)."""
    INVALID = "invalid"


def judge(answer: bytes) -> tuple[CallOutcome, int]:
    """Return the outcome that *answer* reports, and the code of its error, or 0.

    Args:
        answer: The body, or the last part of an event stream.
    """
    if len(answer) > MAX_JUDGED_BYTES or answer.endswith(GOOD_ENDS) or KEY_ENDS not in answer:
        return GOOD
    return _read(answer)


def may_be_answer(body: bytes) -> bool:
    """Whether *body* is a JSON-RPC answer, as far as its text shows.

    It is parsed only if its text has no member name of answers; ordinary results have one.
    """
    if b'"result"' in body or b'"error"' in body:
        return True
    return _kind_of([body]) is not Answer.INVALID


def read_handshake(body: bytes) -> Answer:
    """Parse a whole answer: a message or an event stream."""
    if not body.lstrip().startswith((b"{", b"[")):
        lines = body.splitlines()
        found = _kind_of(_data_of(lines))
        is_resumable = any(line.startswith(EVENT_ID) for line in lines)
        return Answer.LATER if found is Answer.INVALID and is_resumable else found
    return _kind_of([body])


def _kind_of(texts: Iterable[bytes]) -> Answer:
    found = Answer.INVALID
    for text in texts:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        match message:
            case {"result": {}}:
                return Answer.RESULT
            case {"error": {}}:
                found = Answer.ERROR
            case _:
                pass
    return found


def _data_of(lines: Iterable[bytes]) -> list[bytes]:
    """Return the data of a stream's events; each message is one line."""
    data = (line.removeprefix(DATA).strip() for line in lines if line.startswith(DATA))
    return [text for text in data if text]


def is_good(answer: bytes) -> bool:
    """Whether *answer*, or each event in it, certainly reports no error and no failed tool."""
    if answer.startswith(b"{") and answer.endswith(GOOD_ENDS):
        # Nearly all calls: nothing needs to be parsed.
        return True
    if len(answer) > MAX_JUDGED_BYTES:
        return False
    texts = [answer]
    if not answer.startswith(b"{"):
        texts = _data_of(answer.splitlines())
    try:
        return bool(texts) and all(_tells_no_error(orjson.loads(text)) for text in texts)
    except orjson.JSONDecodeError:
        return False


def _tells_no_error(message: object) -> bool:
    match message:
        case {"error": _} | {"result": {"isError": True}}:
            return False
        case {"result": {}} | {"method": str()}:
            return True
        case _:
            return False


def _message_text(answer: bytes) -> bytes:
    """Return the JSON text of an answer, or of a stream's last event."""
    if answer.startswith(b"{"):
        return answer
    lines = [line for line in answer.splitlines() if line.startswith(DATA)]
    return lines[-1].removeprefix(DATA) if lines else answer


def _read(answer: bytes) -> tuple[CallOutcome, int]:
    text = _message_text(answer)
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return GOOD
    match message:
        case {"error": {"code": code}} if type(code) is int and abs(code) <= MAX_CODE:
            return CallOutcome.RPC_ERROR, code
        case {"error": {}}:
            return CallOutcome.RPC_ERROR, 0
        case {"result": {"isError": True}}:
            return CallOutcome.TOOL_ERROR, 0
        case _:
            return GOOD
