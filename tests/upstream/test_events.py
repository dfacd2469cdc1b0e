"""Events of a stream, however its bytes are cut: the parser of discovery and gateway."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.upstream.events import (
    BYTE_ORDER_MARK,
    SILENT,
    EventParser,
    EventTooLargeError,
    ServerSentEvent,
    written,
)

ENDS = ("\n", "\r", "\r\n")
TEXT = st.text(alphabet="ab: é{}", max_size=6)
FIELDS = st.one_of(
    st.tuples(st.just("data"), TEXT),
    st.tuples(st.just("event"), st.sampled_from(["", "message", "endpoint", "x"])),
    st.tuples(st.just("id"), TEXT),
    st.tuples(st.just("retry"), st.sampled_from(["5", "x", ""])),
    st.tuples(st.sampled_from(["", "other"]), TEXT),
)
BLOCKS = st.lists(st.lists(FIELDS, max_size=4), max_size=5)


def parsed(*pieces: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: {}\n\n", [ServerSentEvent("message", b"{}")]),
        (b"data:{}\r\n\r\n", [ServerSentEvent("message", b"{}")]),
        (
            b"data: 1\r\rdata:2\r\r",
            [ServerSentEvent("message", b"1"), ServerSentEvent("message", b"2")],
        ),
        (b"\xef\xbb\xbfdata: 1\n\n", [ServerSentEvent("message", b"1")]),
        (b"data: \xef\xbb\xbf\n\n", [ServerSentEvent("message", b"\xef\xbb\xbf")]),
        (b"data:  {}\n\n", [ServerSentEvent("message", b" {}")]),
        (b"data: {\rdata: }\r\n\n", [ServerSentEvent("message", b"{\n}")]),
        (b"event:\ndata: {}\n\n", [ServerSentEvent("message", b"{}")]),
        (b"event: endpoint\ndata: /x\n\n", [ServerSentEvent("endpoint", b"/x")]),
        (b"id: 1\nretry: 5\n\n", [ServerSentEvent("message", b"", "1", 5)]),
        (b"id: a\0\n\ndata: 1\n\n", [ServerSentEvent("message", b"1")]),
        (b": data: x\n\ndatabase: x\n\n", []),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"data\n\n", [ServerSentEvent("message", b"")]),
    ],
)
def test_events_are_read_as_the_standard_says(
    stream: bytes, events: list[ServerSentEvent]
) -> None:
    assert parsed(stream) == events


@given(
    blocks=BLOCKS,
    end=st.sampled_from(ENDS),
    cuts=st.sets(st.integers(1, 200)),
    mark=st.sampled_from([b"", BYTE_ORDER_MARK]),
)
def test_events_are_the_same_whatever_ends_lines_and_wherever_the_stream_is_cut(
    blocks: list[list[tuple[str, str]]], end: str, cuts: set[int], mark: bytes
) -> None:
    lines = [line for block in blocks for line in [*(f"{k}: {v}" for k, v in block), ""]]
    stream = mark + "".join(line + end for line in lines).encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[begin:end] for begin, end in pairwise(edges)]

    assert parsed(*pieces) == parsed("".join(f"{line}\n" for line in lines).encode())


@given(st.lists(st.binary(max_size=12), max_size=12))
def test_any_bytes_are_read_alike_in_pieces_and_at_once(pieces: list[bytes]) -> None:
    assert parsed(*pieces) == parsed(b"".join(pieces))


@given(st.lists(st.sampled_from([b"\r", b"\n", b"data:1", b"\xef", b"\xbb\xbf", b"id:1"])))
def test_ends_of_lines_and_marks_are_read_alike_however_they_are_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    # By the standard: the mark goes, and each of the three ends is one.
    lines = whole.removeprefix(BYTE_ORDER_MARK)
    usual = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    usual = usual.removeprefix(BYTE_ORDER_MARK) if lines == whole else usual

    single = [whole[at : at + 1] for at in range(len(whole))]

    assert parsed(*pieces) == parsed(*single) == parsed(whole)
    assert parsed(whole) == parsed(b"\n" + usual)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"data: 1\r", b"data: 2\r\r"),
        (b"data: 1\r", b"\ndata: 2\r\n\r", b"\n"),
        (b"data: 1\r", b"", b"\n", b"data: 2\n", b"\r"),
    ],
)
def test_a_return_at_the_end_of_a_read_ends_one_line(pieces: tuple[bytes, ...]) -> None:
    assert parsed(*pieces) == [ServerSentEvent("message", b"1\n2")]


def test_an_event_is_given_out_with_its_last_byte() -> None:
    parser = EventParser()

    assert list(parser.feed(b"data: 1\n")) == []
    assert list(parser.feed(b"\ndata: 2")) == [ServerSentEvent("message", b"1")]
    assert list(parser.feed(b"\r")) == []
    assert list(parser.feed(b"\r")) == [ServerSentEvent("message", b"2")]
    assert list(parser.feed(b"\n")) == []


def test_what_says_nothing_can_be_counted() -> None:
    assert list(EventParser().feed_all(b": x\n\n\ndata: 1\n\n")) == [
        SILENT,
        SILENT,
        ServerSentEvent("message", b"1"),
    ]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_an_event_without_an_end_is_given_up(end: bytes) -> None:
    parser = EventParser(max_bytes=100)
    pieces = (list(parser.feed(b"data: 12345" + end)) for _ in range(30))

    with pytest.raises(EventTooLargeError):
        list(pieces)


def test_an_event_is_written_as_it_is_read() -> None:
    event = ServerSentEvent("endpoint", b"/x", "7", 5)

    assert parsed(written(event)) == [event]
