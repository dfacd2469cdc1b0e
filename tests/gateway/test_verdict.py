"""How a relayed answer says that the call ended."""

import pytest

from registry.gateway.errors import CallOutcome
from registry.gateway.protocol.response_classification import (
    MAX_JUDGED_BYTES,
    Answer,
    judge,
    may_be_answer,
    read_handshake,
)

GOOD = (CallOutcome.OK, 0)
FAILED = (CallOutcome.TOOL_ERROR, 0)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"", GOOD),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}', GOOD),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":false}}', GOOD),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}', FAILED),
        (b'{"result": {"isError": true, "content": []}, "id": 1}', FAILED),
        (b'{"result":{"isError":true,"x":{"isError":false}}}', FAILED),
        (b'{"result":{"structuredContent":{"isError":true},"isError":false}}', GOOD),
        (b'{"result":{"structuredContent":{"error":"none"}}}', GOOD),
        (b'{"result":{"content":[{"text":"\\"isError\\":true"}]}}', GOOD),
        (b'{"id":1,"error":{"code":-32602,"message":"m"}}', (CallOutcome.RPC_ERROR, -32602)),
        (b'{"id":1,"error":{"code":"odd"}}', (CallOutcome.RPC_ERROR, 0)),
        # Records are written in batches: one that the database refuses takes others with it.
        (b'{"id":1,"error":{"code":true}}', (CallOutcome.RPC_ERROR, 0)),
        (b'{"id":1,"error":{"code":9223372036854775808}}', (CallOutcome.RPC_ERROR, 0)),
        (b'event: message\ndata: {"result":{"isError":true}}\n\n', FAILED),
        (
            b'data:{"method":"x"}\r\n\r\ndata:{"error":{"code":5}}\r\n\r\n',
            (CallOutcome.RPC_ERROR, 5),
        ),
        (b'data: {"result":{"content":[],"isError":false}}\n\n', GOOD),
        (b'"error" and no JSON', GOOD),
        (b'["error"]', GOOD),
        (b'{"result":{"isError":true},"x":"' + b"y" * MAX_JUDGED_BYTES + b'"}', GOOD),
    ],
)  # fmt: skip
def test_an_answer_tells_how_the_call_ended(
    answer: bytes, verdict: tuple[CallOutcome, int]
) -> None:
    assert judge(answer) == verdict


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', True),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}', True),
        (b'{"\\u0072esult":{}}', True),
        (b'{"jsonrpc":"2.0","id":1}', False),
        (b"OK", False),
        (b"", False),
    ],
)
def test_a_body_that_names_no_member_of_answers_is_none(body: bytes, found: bool) -> None:  # noqa: FBT001 - a table
    assert may_be_answer(body) is found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b' {"id":1,"result":{}}', Answer.RESULT),
        (b'{"id":1,"result":null}', Answer.INVALID),
        (b'{"id":1,"error":{"code":1}}', Answer.ERROR),
        (b'{"id":1,"error":"no"}', Answer.INVALID),
        (b'data: {"method":"x"}\n\ndata: {"id":1,"result":{}}\n\n', Answer.RESULT),
        (b'data: {"method":"x"}\n\n', Answer.INVALID),
        (b"id: 1\ndata: \n\n", Answer.LATER),
    ],
)
def test_the_answer_to_a_handshake_is_read(body: bytes, found: Answer) -> None:
    assert read_handshake(body) is found
