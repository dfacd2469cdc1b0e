"""Events of a stream, however its bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.upstream.events import EventSplitter, message_of, with_data

STREAMS = [
    b": comment\n\ndata: 1\n\nevent: ping\ndata: 2\n\n",
    b"data: 1\r\n\r\nid: 7\r\ndata: 2\r\n\r\n",
    b"data: 1\r\rdata:2\r\r",
    b"\n\n\ndata: 1\n\r\ndata: 2\r\n\n",
]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\r\n\r\n", b"{}"),
        (b"data:  {}\n\n", b" {}"),
        (b"data: {\ndata: }\n\n", b"{\n}"),
        (b"event: message\ndata: {}\n\n", b"{}"),
        (b"event:\ndata: {}\n\n", b"{}"),
        (b"event: endpoint\ndata: /x\n\n", None),
        (b"id: 1\ndata:\n\n", None),
        (b": data: x\n\n", None),
        (b"database: x\n\n", None),
    ],
)
def test_the_data_of_messages_is_told_from_everything_else(
    event: bytes, message: bytes | None
) -> None:
    assert message_of(event) == message


def test_other_data_leaves_the_rest_of_an_event_alone() -> None:
    event = b"id: 1\r\ndata: a\r\nretry: 5\r\ndata: b\r\n: note\r\n\r\n"

    assert with_data(event, b"c") == b"id: 1\nretry: 5\n: note\ndata: c\n\n"


@given(stream=st.sampled_from(STREAMS), cuts=st.sets(st.integers(1, 40)))
def test_events_are_the_same_wherever_the_stream_is_cut(stream: bytes, cuts: set[int]) -> None:
    splitter = EventSplitter()
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in pairwise(edges)]

    events = [event for piece in pieces for event in splitter.feed(piece)]

    messages = [message for event in events if (message := message_of(event)) is not None]
    assert messages == [b"1", b"2"] or (b"ping" in stream and messages == [b"1"])


def test_an_event_is_given_out_with_its_last_byte() -> None:
    splitter = EventSplitter()

    assert list(splitter.feed(b"data: 1\n")) == []
    assert list(splitter.feed(b"\ndata: 2")) == [b"data: 1\n\n"]
    assert list(splitter.feed(b"\r")) == []
    assert list(splitter.feed(b"\r")) == [b"data: 2\r\r"]
