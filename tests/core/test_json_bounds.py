"""Counting in JSON text without parsing it."""

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from registry.core.asgi import declares_more
from registry.core.json import (
    holds_more_values,
    load_exact,
    repeats_members,
    without_strings,
)

TEXTS = st.text(alphabet='ab\\":,[]{} é\n', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def structure(value: Any) -> str:
    """Return the characters that JSON text has for *value* outside of strings and scalars."""
    match value:
        case dict():
            return "{" + ",".join(":" + structure(inner) for inner in value.values()) + "}"
        case list():
            return "[" + ",".join(structure(inner) for inner in value) + "]"
        case _:
            return ""


@given(value=VALUES, is_ascii=st.booleans())
def test_what_is_outside_of_strings_is_found_in_any_text(value: Any, *, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()

    outside = "".join(item for item in without_strings(text).decode() if item in "{}[]:,")

    assert outside == structure(value)


@given(value=VALUES, indent=st.integers(0, 4), is_ascii=st.booleans())
def test_a_text_is_of_one_value_and_repeats_nothing_however_it_is_written(
    value: Any, *, indent: int, is_ascii: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()

    assert not repeats_members(text, orjson.dumps(value))


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), st.data())
def test_a_repeated_member_is_found_wherever_it_is(value: dict[str, Any], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    text = json.dumps(value)[:-1] + f", {json.dumps(name)}: 0}}"
    nested = f'{{"x": [1, {text}]}}'.encode()

    assert repeats_members(nested, orjson.dumps(orjson.loads(nested)))


@given(VALUES)
def test_the_number_of_values_is_not_underestimated(value: Any) -> None:
    text = json.dumps(value).encode()
    found = structure(value)
    values = found.count(",") + found.count("[") + found.count("{")

    assert holds_more_values(text, values - 1) or values == 0
    assert not holds_more_values(text, max(values, len(text)))


@given(st.binary(max_size=60), st.integers(0, 20))
def test_what_is_no_json_can_be_counted_too(text: bytes, limit: int) -> None:
    holds_more_values(text, limit)
    repeats_members(text, text)


def test_a_declared_length_is_a_plain_number_within_the_limit() -> None:
    lengths = ["0", "10", "0010", "11", "9" * 5000, "0" * 5000, "", "-1", "+1", "1 ", "²"]

    refused = [length for length in lengths if declares_more(length, 10)]

    assert refused == ["11", "9" * 5000, "", "-1", "+1", "1 ", "²"]


@given(
    st.recursive(
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=20,
    )
)
def test_numbers_of_any_size_are_parsed_exactly(value: Any) -> None:
    found = load_exact(json.dumps(value).encode())

    assert json.dumps(found) == json.dumps(value)
