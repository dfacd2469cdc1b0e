"""Documents as bytes: what the driver reads of values that no program of ours writes."""

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, encode
from bson.binary import Binary
from hypothesis import given

from packages.database.client import Database
from packages.database.stored import (
    EARLIEST,
    LATEST,
    NotJsonError,
    StoredCode,
    id_of,
    json_of,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from tests.fakes.odd_values import BSON_VALUES, decoded, encoded_member

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_schema_with_ref_and_id_stays_an_object() -> None:
    schema = {"$ref": "#/a", "$id": {"$ref": "b", "$id": 1, "deep": [{"$ref": "c", "$id": 2}]}}

    assert decoded(encode({"schema": schema}))["schema"] == schema


def test_code_is_no_text_and_is_written_as_it_was_read() -> None:
    document = encode({"_id": Code("x"), "scope": Code("shared_app", {"a": 1})})

    found = decoded(document)

    assert isinstance(found["scope"], StoredCode)
    assert text_of(found["scope"]) is None
    assert encode(found, codec_options=options()) == document


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (9, struct.pack("<q", 2**62), LATEST),
        (9, struct.pack("<q", -(2**62)), EARLIEST),
        (2, struct.pack("<i", 5) + b"\xed\xa0\x80!\0", "\ufffd\ufffd\ufffd!"),
        (6, b"", None),
        (14, struct.pack("<i", 2) + b"x\0", "x"),
    ],
    ids=["a late date", "an early date", "half a character", "undefined", "a symbol"],
)
def test_what_no_value_here_can_say_is_read_as_the_nearest(
    kind: int, payload: bytes, value: object
) -> None:
    assert decoded(encoded_member(kind, payload)) == {"a": value}


@given(BSON_VALUES)
def test_a_stored_value_is_what_it_should_be_or_nothing(value: object) -> None:
    stored = decoded(encode({"a": value}))["a"]

    assert isinstance(text_of(stored), str | None)
    assert all(isinstance(one, str) for one in texts_of(stored))
    assert isinstance(moment_of(stored), datetime | None)
    assert isinstance(whole_of(stored), int | None)
    assert isinstance(id_of(stored), str | None)


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (Int64(5), 5),
        ({"a": [ObjectId("a" * 24), NOW]}, {"a": ["a" * 24, "2026-01-01T00:00:00+00:00"]}),
    ],
)
def test_ids_and_times_are_texts_in_json(stored: object, value: object) -> None:
    assert json_of(stored) == value


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (float("inf"), "a number that is not finite"),
        (float("nan"), "a number that is not finite"),
        (StoredCode(Code("x")), "a value of the type Code"),
        (Regex("x"), "a value of the type Regex"),
        (Binary(b"x", 5), "a value of the type Binary"),
        (Timestamp(1, 1), "a value of the type Timestamp"),
        (Decimal128("1"), "a value of the type Decimal128"),
        (MinKey(), "a value of the type MinKey"),
        (MaxKey(), "a value of the type MaxKey"),
        (DBRef("a", 1), "a value of the type DBRef"),
    ],
)
def test_what_json_cannot_say_is_named(stored: object, told: str) -> None:
    with pytest.raises(NotJsonError, match=told):
        json_of({"deep": [stored]})


def options() -> Any:
    """Return the options with which every document is read."""
    return Database("mongodb://127.0.0.1:1/", timeout_ms=1).db.codec_options
