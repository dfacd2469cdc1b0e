"""What is read of a message, and of the objects of its lists."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.definitions import TOO_DEEP, UnreadableDefinition
from registry.upstream.messages import read_message

DEEP = b"[" * 5_000 + b"]" * 5_000
MOST = 100
SECONDS = 5.0
"""Ten times what the slowest takes on a busy machine."""

ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def answer(result: bytes) -> bytes:
    """Return a message with *result*."""
    return b'{"jsonrpc":"2.0","id":1,"result":%s}' % result


def tools(*objects: bytes) -> bytes:
    """Return a message that lists *objects*."""
    return answer(b'{"tools":[%s]}' % b",".join(objects))


def read(raw: bytes, most: int = MOST) -> Any:
    """Return the result of a message."""
    return (read_message(raw, most) or {})["result"]


def test_a_message_is_read_as_it_is() -> None:
    raw = answer(b'{"tools":[{"name":"a"},7],"nextCursor":"n"}')

    assert read_message(raw, MOST) == json.loads(raw)


@pytest.mark.parametrize("text", [b'{"tools":0}', b'{"tools":"x"}', b'{"tools":{"a":[0]}}'])
def test_what_is_no_list_is_read_as_any_value(text: bytes) -> None:
    assert read(answer(text)) == json.loads(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"{}x",
        b"[" * 1_000_000,
        b'{"a":' * 300_000,
        b"<html></html>",
        b'{"id":1,"result":{"tools":[1,]}}',
        b'{"id":1,"result":{"tools":[1 2]}}',
        b'{"id":1,"result":{"tools":[%s' % DEEP,
        b'{"id":1,"result":{"tools":[%s]}' % DEEP,
        b'{"id":1,"result":{"tools":[%s]}}}' % DEEP,
        b'{"id":1,"result":{"tools":["\\ud800%s]}}' % DEEP,
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_what_is_no_message_is_none(raw: bytes) -> None:
    assert read_message(raw, MOST) is None


@given(value=ANY_VALUE, beside=ANY_VALUE, spaces=st.sampled_from([None, 1]))
def test_what_can_be_read_is_the_same_beside_what_cannot(
    value: Any, beside: Any, spaces: int | None
) -> None:
    text = json.dumps(value, indent=spaces, ensure_ascii=bool(spaces)).encode()
    meta = json.dumps(beside).encode()

    result = read(answer(b'{"_meta":%s,"tools":[%s , %s],"ttlMs":5}' % (meta, DEEP, text)))

    items = [UnreadableDefinition({}, TOO_DEEP), value]
    assert result == {"_meta": beside, "tools": items, "ttlMs": 5}


@pytest.mark.parametrize(
    ("beside", "left"),
    [
        (DEEP, None),
        (b"[" * 150 + b"]" * 150, None),
        (b"9" * 5_000, None),
        (rb'"a\ud800"', "a?"),
        (b'"\xff"', "?"),
        (b'{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_what_cannot_be_kept_beside_a_list_is_left_out(beside: bytes, left: object) -> None:
    raw = answer(b'{"instructions":%s,"tools":[1]}' % beside)

    assert read(raw) == {"instructions": left, "tools": [1]}


@pytest.mark.parametrize(
    "first", [b"1", DEEP, b'"\\ud800"', b'{"a":1,"a":1}'], ids=["good", "deep", "half", "twice"]
)
def test_of_too_many_objects_one_more_than_allowed_is_kept(first: bytes) -> None:
    items = read(tools(first, *[b"2"] * 50, DEEP, b'"]"', *[b"{}"] * 500_000))["tools"]

    assert len(items) > MOST


def test_the_last_of_two_names_is_the_one() -> None:
    items = read(tools(b'{"name":"a","x":%s,"name":"b","uri":"u","y":"z"}' % DEEP))["tools"]

    assert items == [UnreadableDefinition({"name": "b", "uri": "u"}, TOO_DEEP)]


@pytest.mark.parametrize(
    "bad",
    [
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b'[{"a":' * 250_000 + b"0" + b"}]" * 250_000,
        b"[" * 2_000 + b"[]," * 600_000 + b"0" + b"]" * 2_000,
        b"[" * 2_000 + b"[[[1],2],3]," * 150_000 + b"0" + b"]" * 2_000,
        b'{"a":1,%s"a":%s}' % (b'"b":1,' * 300_000, DEEP),
        b'["' + b"\\\\" * 1_000_000 + b'","\\ud800"]',
    ],
    ids=["brackets", "mixed", "empty ones", "small ones", "members", "backslashes"],
)
def test_hostile_objects_are_passed_over_in_time(bad: bytes) -> None:
    began_at = time.perf_counter()

    items = read(tools(b"1", bad, b"2"))["tools"]

    assert [items[0], items[-1], len(items)] == [1, 2, 3]
    assert time.perf_counter() - began_at < SECONDS
