"""Arguments as people are shown them."""

from typing import Any

import pytest

from registry.tools.shown_arguments import (
    HIDDEN,
    MAX_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    masked,
    shown,
    visible,
)

SECRET = {"type": "string", "format": "password"}
ARGUMENTS = {"a": "x", "b": {"c": "y", "d": ["z"]}}


@pytest.mark.parametrize(
    ("schema", "hidden"),
    [
        ({}, ARGUMENTS),
        ({"properties": {"a": SECRET}}, {**ARGUMENTS, "a": HIDDEN}),
        ({"properties": {"b": {"writeOnly": True}}}, {**ARGUMENTS, "b": HIDDEN}),
        (
            {"properties": {"b": {"properties": {"d": {"items": SECRET}}}}},
            {"a": "x", "b": {"c": "y", "d": [HIDDEN]}},
        ),
        (
            {"properties": {"b": {"properties": {"d": {"prefixItems": [SECRET]}}}}},
            {"a": "x", "b": {"c": "y", "d": [HIDDEN]}},
        ),
        (
            {"$defs": {"s": SECRET}, "properties": {"a": {"$ref": "#/$defs/s"}}},
            {**ARGUMENTS, "a": HIDDEN},
        ),
        (
            {"anyOf": [{}, {"properties": {"a": {"oneOf": [{}, SECRET]}}}]},
            {**ARGUMENTS, "a": HIDDEN},
        ),
        ({"if": {"properties": {"a": SECRET}}}, {**ARGUMENTS, "a": HIDDEN}),
        ({"additionalProperties": SECRET}, {"a": HIDDEN, "b": HIDDEN}),
        ({"patternProperties": {"(x+)+$": SECRET}}, {"a": HIDDEN, "b": HIDDEN}),
        ({"properties": {"a": {"$ref": "https://example.org/s"}}}, {"a": HIDDEN, "b": HIDDEN}),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, {"a": HIDDEN, "b": HIDDEN}),
        ({"properties": {"a": {"$ref": "#anchor"}}}, {"a": HIDDEN, "b": HIDDEN}),
        ({"$ref": "#", "properties": {"a": {"$ref": "#"}}}, ARGUMENTS),
        ({"properties": [SECRET], "anyOf": {"a": SECRET}, "items": 7}, ARGUMENTS),
        ({"properties": {"a": True, "b": False}}, ARGUMENTS),
    ],
)
def test_what_the_schema_marks_as_secret_is_hidden(schema: Any, hidden: Any) -> None:
    assert masked(ARGUMENTS, schema) == hidden


def test_a_schema_that_is_too_large_or_too_deep_hides_all() -> None:
    wide = {"anyOf": [{"minLength": number} for number in range(30_000)]}
    deep: Any = "x"
    for _ in range(2_000):
        deep = [deep]

    assert masked({"a": 1}, wide) == {"a": HIDDEN}
    assert masked({"a": deep}, {}) == {"a": HIDDEN}


def test_long_texts_are_cut_with_the_number_of_what_is_missing() -> None:
    text = shown({"a": "x" * (MAX_TEXT_CHARACTERS + 1_500)})
    many = shown({str(number): "x" * 200 for number in range(100)})

    assert "(1,500 more characters)" in text
    assert len(text) < MAX_TEXT_CHARACTERS + 100
    assert len(many) < MAX_CHARACTERS + 100
    assert many.endswith("more characters)")


def test_nothing_invisible_is_shown_as_it_is() -> None:
    text = shown({"a\u202e": "b\u200b\n\u0007"})

    assert text == '{\n  "a\\u202e": "b\\u200b\\n\\u0007"\n}'
    assert visible("a\nb\u202e" + "c" * 9, 4) == "a\\u000ab\\u202e…"
