"""Tolerant reading of stored documents: a value has the expected type, or is left out.

The driver's decoding options are here: values that it would convert or refuse must not prevent
other documents from being read. A stored value may have any BSON type; readers request the type
that they expect, with the functions here or with the field types of a `Projection`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

from bson import DatetimeMS, ObjectId
from bson.code import Code
from bson.codec_options import TypeCodec, TypeDecoder, TypeRegistry
from bson.dbref import DBRef
from pydantic import AliasPath, BaseModel, ConfigDict, JsonValue, PlainValidator
from typing_extensions import override

R = TypeVar("R")

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(microsecond=999_000, tzinfo=UTC)
"""Earlier and later dates are read as these: BSON dates span 290 million years."""


class StoredCode:
    """JavaScript in a document. The driver's own class is a `str` and has no hash."""

    __slots__ = ("code",)

    def __init__(self, code: Code) -> None:
        self.code = code

    @override
    def __repr__(self) -> str:
        return repr(self.code)


class _CodeCodec(TypeCodec):
    python_type = StoredCode
    bson_type = Code

    @override
    def transform_python(self, value: StoredCode) -> Code:
        return value.code

    @override
    def transform_bson(self, value: Code) -> StoredCode:
        return StoredCode(value)


class _ReferenceDecoder(TypeDecoder):
    """Keeps a sub-document with `$ref` and `$id` as it is: a JSON Schema may have both."""

    bson_type = DBRef

    @override
    def transform_bson(self, value: DBRef) -> dict[str, Any]:
        return dict(value.as_doc())


DECODING: Mapping[str, Any] = {
    "tz_aware": True,
    "type_registry": TypeRegistry([_CodeCodec(), _ReferenceDecoder()]),
    # As text: the client expects the spelling of connection strings.
    "datetime_conversion": "DATETIME_CLAMP",
    "unicode_decode_error_handler": "replace",
}
"""Options of the client, with which no date and no text makes a document unreadable."""


class NotJsonError(ValueError):
    """A stored value has no counterpart in JSON. The message completes "holds"."""


def text_of(stored: object) -> str | None:
    """Return a stored text, or None."""
    return stored if isinstance(stored, str) else None


def texts_of(stored: object) -> tuple[str, ...]:
    """Return the texts of a stored array; other values are left out."""
    return tuple(one for one in stored if isinstance(one, str)) if isinstance(stored, list) else ()


def moment_of(stored: object) -> datetime | None:
    """Return a stored time, timezone-aware, or None."""
    if not isinstance(stored, datetime):
        return None
    return stored if stored.tzinfo else stored.replace(tzinfo=UTC)


def whole_of(stored: object) -> int | None:
    """Return a stored whole number, or None; some programs store all numbers as floats."""
    if isinstance(stored, float) and math.isfinite(stored):
        return int(stored)
    return int(stored) if isinstance(stored, int) else None


def id_of(stored: object) -> str | None:
    """Return a stored ObjectId in 24 hexadecimal characters, or None."""
    return str(stored) if isinstance(stored, ObjectId) else None


def counts_of(stored: object) -> dict[str, int]:
    """Return the whole numbers of a stored object; other values are left out."""
    if not isinstance(stored, dict):
        return {}
    counts = {str(name): whole_of(value) for name, value in stored.items()}
    return {name: count for name, count in counts.items() if count is not None}


def json_members(stored: object) -> dict[str, JsonValue]:
    """Return the members of a stored object as JSON, without those that JSON cannot represent."""
    found: dict[str, JsonValue] = {}
    for name, value in stored.items() if isinstance(stored, dict) else ():
        with suppress(NotJsonError):
            found[str(name)] = json_of(value)
    return found


def json_of(stored: object) -> JsonValue:
    """Return a stored value as JSON: times and ids as text, everything else unchanged.

    Raises:
        NotJsonError: JSON has nothing for it, or for something in it.
    """
    value: JsonValue
    match stored:
        case None | bool() | str():
            value = stored
        case int():
            # The driver's 64-bit numbers are a class of their own.
            value = int(stored)
        case float() if math.isfinite(stored):
            value = stored
        case float():
            raise NotJsonError("a number that is not finite")
        case dict():
            value = {str(name): json_of(item) for name, item in stored.items()}
        case list():
            value = [json_of(item) for item in stored]
        case ObjectId():
            value = str(stored)
        case datetime():
            value = stored.isoformat()
        case _:
            raise NotJsonError(f"a value of the type {_name(stored)}")
    return value


def _name(stored: object) -> str:
    match stored:
        case StoredCode():
            return "Code"
        case bytes():
            return "Binary"
        case DatetimeMS():
            return "Date"
        case _:
            return type(stored).__name__


DocumentId = Annotated[str, PlainValidator(str)]
"""`_id` of any type, as text."""
StoredId = Annotated[str | None, PlainValidator(id_of)]
StoredText = Annotated[str | None, PlainValidator(text_of)]
TextOrEmpty = Annotated[str, PlainValidator(lambda stored: text_of(stored) or "")]
WholeOrZero = Annotated[int, PlainValidator(lambda stored: whole_of(stored) or 0)]
StoredTexts = Annotated[tuple[str, ...], PlainValidator(lambda stored: texts_of(_listed(stored)))]
StoredTime = Annotated[datetime | None, PlainValidator(moment_of)]
StoredWhole = Annotated[int | None, PlainValidator(whole_of)]
StoredCounts = Annotated[dict[str, int], PlainValidator(counts_of)]


def _required(read: Callable[[object], R | None]) -> Callable[[object], R]:
    def check(stored: object) -> R:
        value = read(stored)
        if value is None:
            raise ValueError("has another type")
        return value

    return check


RequiredId = Annotated[str, PlainValidator(_required(id_of))]
RequiredTime = Annotated[datetime, PlainValidator(_required(moment_of))]
RequiredWhole = Annotated[int, PlainValidator(_required(whole_of))]
"""A document without such a value cannot be read."""


def _listed(stored: object) -> object:
    return list(stored) if isinstance(stored, tuple) else stored


class _Settings:
    """Where Beanie looks for a projection."""

    projection: Mapping[str, object]


class Projection(BaseModel):
    """What is read of a document: the fields, each with the name that it is stored under.

    `alias` names a member of the document, `validation_alias=AliasPath("config", "url")` a member
    within one. The projection that is sent is derived from them. Fields with `exclude=True` are
    not stored.

    Attributes:
        computed: Expressions for fields that the database computes, by their stored names.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    Settings: ClassVar[type[_Settings]] = _Settings
    computed: ClassVar[Mapping[str, object]] = {}

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        paths = set()
        for name, field in cls.model_fields.items():
            if field.exclude:
                continue
            alias = field.validation_alias or field.alias or name
            path = alias.path if isinstance(alias, AliasPath) else [alias]
            paths.add(".".join(str(part) for part in path))
        # MongoDB refuses a path together with one within it.
        kept = [path for path in sorted(paths) if not _has_parent(path, paths)]
        projection = {**dict.fromkeys(kept, 1), **cls.computed}
        cls.Settings = type("Settings", (_Settings,), {"projection": projection})


def _has_parent(path: str, paths: set[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in paths)
