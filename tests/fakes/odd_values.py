"""Values of every BSON type, as other programs may store them anywhere."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bson import (
    Code,
    CodecOptions,
    DatetimeConversion,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    decode,
)
from bson.binary import Binary
from hypothesis import strategies
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, OperationFailure

from packages.database.client import Doc
from packages.database.stored import DECODING

ODD_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a number": 5,
    "a long number": Int64(2**62),
    "a float": 1.5,
    "infinity": float("inf"),
    "no number": float("nan"),
    "a decimal": Decimal128("1.5"),
    "no decimal": Decimal128("NaN"),
    "an empty text": "",
    "a text": "text",
    "brackets": "[" * 5_000 + "]" * 5_000,
    "half a character": '{"a": "\\ud800"}',
    "a number beyond floats": '{"a": 1e400}',
    "a time": datetime(2020, 1, 1, tzinfo=UTC),
    "the last time": datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    "the first time": datetime(1, 1, 1, tzinfo=UTC),
    "an id": ObjectId("c" * 24),
    "an empty object": {},
    "an object": {"a": 1, "$b": 2, "c.d": 3, "": 4},
    "a reference": {"$ref": "#/a", "$id": "b", "$db": "c"},
    "an odd reference": {"$ref": "#/a", "$id": {"$ref": 5, "$id": []}},
    "an array": [],
    "an array of anything": ["a", None, {"$ref": "a", "$id": 1}, Code("x"), float("inf")],
    "an array of texts": ["shared_app", "active"],
    "a DBRef": DBRef("users", ObjectId("c" * 24), "other"),
    "code": Code("shared_app"),
    "code with a scope": Code("active", {"a": Regex("x")}),
    "a regex": Regex("(", "i"),
    "bytes": b"\xff\x00",
    "a uuid": Binary(b"0123456789abcdef", 4),
    "encrypted": Binary(b"x", 6),
    "a timestamp": Timestamp(1, 1),
    "the least key": MinKey(),
    "the greatest key": MaxKey(),
    "nested": [[[[[[[[{"a": [{"b": [[[[{}]]]]}]}]]]]]]]],
}
"""By what they are called in tests."""

_SIMPLE = strategies.one_of(
    strategies.sampled_from([value for name, value in ODD_VALUES.items() if "[" not in name]),
    strategies.text(
        strategies.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20
    ),
    strategies.integers(-(2**63), 2**63 - 1),
    strategies.floats(),
    strategies.binary(max_size=5),
    strategies.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)),
)
_NAMES = strategies.sampled_from(
    ["a", "", "$ref", "$id", "$db", "name", "type", "key", "function", "parameters", "required"]
)
BSON_VALUES: strategies.SearchStrategy[Any] = strategies.recursive(
    _SIMPLE,
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=3), strategies.dictionaries(_NAMES, inner, max_size=4)
    ),
    max_leaves=8,
)

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    type_registry=DECODING["type_registry"],
    datetime_conversion=DatetimeConversion[DECODING["datetime_conversion"]],
    unicode_decode_error_handler=DECODING["unicode_decode_error_handler"],
)
"""As the client's."""


def decoded(document: bytes) -> dict[str, Any]:
    """Return a document as repositories get it."""
    return decode(document, OPTIONS)


def encoded_member(kind: int, payload: bytes) -> bytes:
    """Return a document with one member `a` of a BSON type and these bytes."""
    element = bytes([kind]) + b"a\0" + payload + b"\0"
    return struct.pack("<i", len(element) + 4) + element


async def insert_odd(rows: AsyncCollection[Doc], documents: Sequence[Doc]) -> None:
    """Insert all that the database takes, in as few commands as possible.

    The embedded one refuses a whole command because of one value.
    """
    try:
        await rows.insert_many(documents, ordered=False)
    except BulkWriteError as exc:
        tried = exc.details["nInserted"] + len(exc.details["writeErrors"])
    except OperationFailure:
        tried = 0
    else:
        return
    middle = len(documents) // 2
    if middle and tried < len(documents):
        # What was inserted is refused the second time.
        await insert_odd(rows, documents[:middle])
        await insert_odd(rows, documents[middle:])
