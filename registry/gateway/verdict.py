"""Tell from an answer that was relayed how the call ended on the server. Pure.

A tool that fails is a successful exchange over HTTP, and often in JSON-RPC too.
"""

import orjson

from registry.gateway.errors import Outcome

MAX_JUDGED_BYTES = 64 * 1024
"""Longer answers, and those whose last piece holds no whole message, are taken to be good."""

MAX_CODE = 2**63 - 1
"""Greatest code that is taken for one, for the database has no greater numbers."""

GOOD_ENDS = tuple(
    space.join((b'"isError":', b"false}}")) + end
    for space in (b"", b" ")
    for end in (b"", b"\n\n", b"\r\n\r\n")
)
"""How nearly all results of tools end. The second brace closes the message, so this is the member
of its result."""

KEY_ENDS = b'rror"'
"""In every answer that tells of an error: of `"error"` and of `"isError"`."""

DATA = b"data:"
GOOD = (Outcome.OK, 0)


def judge(answer: bytes) -> tuple[Outcome, int]:
    """Return how *answer* says that the call ended, and the code of its error, or 0.

    Args:
        answer: The body, or the last piece of an event stream.
    """
    if len(answer) > MAX_JUDGED_BYTES or answer.endswith(GOOD_ENDS) or KEY_ENDS not in answer:
        return GOOD
    return _read(answer)


def is_good(answer: bytes) -> bool:
    """Whether *answer*, or each event in it, certainly tells of no error and of no failed tool."""
    if answer.startswith(b"{") and answer.endswith(GOOD_ENDS):
        # Nearly all calls: nothing has to be parsed.
        return True
    if len(answer) > MAX_JUDGED_BYTES:
        return False
    texts = [answer]
    if not answer.startswith(b"{"):
        lines = [line for line in answer.splitlines() if line.startswith(DATA)]
        texts = [text for line in lines if (text := line.removeprefix(DATA).strip())]
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
    """Return the JSON text of an answer, or of the last event of a stream."""
    if answer.startswith(b"{"):
        return answer
    lines = [line for line in answer.splitlines() if line.startswith(DATA)]
    return lines[-1].removeprefix(DATA) if lines else answer


def _read(answer: bytes) -> tuple[Outcome, int]:
    text = _message_text(answer)
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return GOOD
    match message:
        case {"error": {"code": code}} if type(code) is int and abs(code) <= MAX_CODE:
            return Outcome.RPC_ERROR, code
        case {"error": {}}:
            return Outcome.RPC_ERROR, 0
        case {"result": {"isError": True}}:
            return Outcome.TOOL_ERROR, 0
        case _:
            return GOOD
