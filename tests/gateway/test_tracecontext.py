"""What of a client's trace context may pass, and which of two contexts counts."""

import time

import pytest

from registry.gateway.protocol.trace_context import (
    TraceContext,
    clean_context,
    is_baggage,
    is_tracestate,
    parse_traceparent,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = f"00-{'a' * 32}-{'b' * 16}-00"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (PARENT, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 255),
        (f"01-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", 1),
    ],
)
def test_a_traceparent_names_a_span(text: str, flags: int) -> None:
    assert parse_traceparent(text) == TraceContext(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "00-1-2-03",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"0g-{TRACE}-{SPAN}-01",
        f" {PARENT}",
        f"{PARENT}\n",
        f"01-{TRACE}-{SPAN}-01.",
        f"01-{TRACE}-{SPAN}-01-é",
        f"01-{TRACE}-{SPAN}-01-a\r\nX-Other: 1",
        f"01-{TRACE}-{SPAN}-01-{'x' * 600}",
    ],
)
def test_a_malformed_traceparent_names_none(text: object) -> None:
    assert parse_traceparent(text) is None


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("rojo=00f067aa0ba902b7", True),
        ("rojo=1,congo=t61rcWkgMzE", True),
        ("tenant@vendor=a b", True),
        ("rojo=1, ,congo=2", True),
        (",".join(f"k{number}=1" for number in range(32)), True),
        (",".join(f"k{number}=1" for number in range(33)), False),
        ("rojo=1,rojo=2", False),
        ("Rojo=1", False),
        ("rojo", False),
        ("rojo=", False),
        ("rojo=a=b", False),
        ("rojo=é", False),
        ("rojo=1\r\nX-Other: 1", False),
        ("", False),
        ("x=" + "y" * 5000, False),
        (None, False),
    ],
)
def test_a_tracestate_is_a_list_of_vendors_marks(text: object, is_good: bool) -> None:  # noqa: FBT001 - a table
    assert is_tracestate(text) is is_good


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("userId=alice,serverNode=DF%2028,isProduction=false", True),
        ("key1=value1;property1;property2 , key2 = value2; p=v", True),
        ("empty=", True),
        ("no value", False),
        ("a b=c", False),
        ('k="v"', False),
        ("k=v\r\nX-Other: 1", False),
        ("k=é", False),
        ("", False),
        ("k=" + "v" * 9000, False),
        (",".join(["k=v"] * 181), False),
        ({}, False),
    ],
)
def test_baggage_is_a_list_of_names_with_values(text: object, is_good: bool) -> None:  # noqa: FBT001 - a table
    assert is_baggage(text) is is_good


def test_no_text_takes_long_to_judge() -> None:
    began = time.process_time()

    for text in ("k=" + " " * 8000 + "!", "k=v;" + " \t" * 4000 + "=", "a=" + "b " * 2000):
        is_baggage(text)
        is_tracestate(text)

    assert time.process_time() - began < 0.1


def test_malformed_headers_are_dropped_and_a_state_without_a_span_with_them() -> None:
    headers = {"traceparent": "nonsense", "tracestate": "a=1", "baggage": "=", "accept": "x"}

    context = clean_context(headers, None)

    assert context is None
    assert headers == {"accept": "x"}


def test_well_formed_headers_stay_as_they_are() -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}

    context = clean_context(dict(headers), {"progressToken": 1})

    assert context == TraceContext(TRACE, SPAN, 1, "a=1")


def test_a_bad_state_costs_the_span_nothing() -> None:
    headers = {"traceparent": PARENT, "tracestate": "A=1"}

    assert clean_context(headers, None) == TraceContext(TRACE, SPAN, 1)
    assert headers == {"traceparent": PARENT}


def test_what_only_the_body_says_goes_into_the_headers() -> None:
    headers: dict[str, str] = {}

    context = clean_context(
        headers, {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}
    )

    assert context == TraceContext(TRACE, SPAN, 1, "a=1")
    assert headers == {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}


def test_the_body_counts_where_both_speak_and_the_headers_stay_their_own() -> None:
    headers = {"traceparent": OTHER}

    context = clean_context(headers, {"traceparent": PARENT})

    assert context == TraceContext(TRACE, SPAN, 1)
    assert headers == {"traceparent": OTHER}


@pytest.mark.parametrize("meta", [None, [], "x", {"traceparent": 5, "baggage": []}, {"a": 1}])
def test_a_body_that_says_nothing_of_use_changes_nothing(meta: object) -> None:
    headers = {"traceparent": OTHER}

    assert clean_context(headers, meta) == parse_traceparent(OTHER)
    assert headers == {"traceparent": OTHER}
