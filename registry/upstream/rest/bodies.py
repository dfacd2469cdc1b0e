"""Bodies of requests: JSON, forms, multipart with files, text and bytes. Pure."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import quote_plus

from registry.core.json import JsonObject, JsonValue
from registry.openapi.binding import BodyBinding, PartBinding
from registry.upstream.rest.styles import (
    PLAIN,
    UnfitValueError,
    encoded,
    is_undefined,
    json_text,
    pairs_of,
    reserved_query_text,
    text_of,
)

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/"
OCTETS: Final = "application/octet-stream"
MAX_CONTENT_BYTES: Final = 16 * 1024 * 1024
"""Longest body. What a client may send bounds it already; a form can triple that."""

MAX_FORM_CHARACTERS: Final = 512 * 1024
"""Longest text of a form, encoded here a character at a time; more belongs into a file."""

NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
MEDIA_TYPE = re.compile(
    rf'{NAME}/{NAME}(?:[ \t]*;[ \t]*{NAME}=(?:[:/]*{NAME}|"[^"\\\x00-\x1f\x7f]*"))*'
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ESCAPED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
"""As browsers write names in parts."""

PART: Final = PartBinding()


@dataclass(frozen=True, slots=True)
class Content:
    """A body and its type."""

    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str | None
    filename: str | None


Parts: TypeAlias = list[tuple[str, bytes]]
"""Heads of parts, and what is in them."""


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON, or any may be sent."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence in {JSON, "text/json", "*/*", "application/*"} or essence.endswith("+json")


def content_of(body: BodyBinding, value: JsonValue) -> Content:
    """Return the body of a request.

    Args:
        body: How it is written.
        value: What it says.

    Raises:
        UnfitValueError: It cannot be written so.
    """
    essence = body.content_type.partition(";")[0].strip().lower()
    if body.is_file:
        content = _of_file(body, value)
    elif is_json(essence):
        content = Content(JSON if "*" in essence else body.content_type, json_text(value))
    elif essence == FORM:
        content = Content(FORM, form_text(_properties(value), body).encode())
    elif essence.startswith(MULTIPART):
        content = _multipart(essence, _properties(value), body)
    else:
        content = Content(_sent_type(body.content_type), _text(value))
    if len(content.content) > MAX_CONTENT_BYTES:
        raise UnfitValueError(f"makes a body longer than {MAX_CONTENT_BYTES} bytes")
    return content


def form_text(properties: JsonObject, body: BodyBinding | None = None) -> str:
    """Return the text of an `application/x-www-form-urlencoded` form."""
    _check_length(properties)
    parts = {} if body is None else body.parts
    pairs = [
        pair
        for name, value in properties.items()
        for pair in _form_pairs(name, value, parts.get(name, PART))
    ]
    return "&".join(f"{name}={text}" for name, text in pairs)


def _check_length(value: JsonValue) -> None:
    """Refuse a form that would take long to encode, before it does."""
    left = MAX_FORM_CHARACTERS
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                left -= len(text)
            case list(items):
                waiting += items
            case dict(members):
                left -= sum(map(len, members))
                waiting += members.values()
            case _:
                left -= 1
        if left < 0:
            raise UnfitValueError(f"makes a form of more than {MAX_FORM_CHARACTERS} characters")


def _form_pairs(name: str, value: JsonValue, part: PartBinding) -> Iterator[tuple[str, str]]:
    key = _form_text(name)
    if part.style is not None:
        encode = reserved_query_text if part.allow_reserved else _form_text
        yield from pairs_of(key, value, part.style, encode, explode=part.explode)
    elif part.content_type is not None and is_json(part.content_type):
        yield key, _form_text(json_text(value).decode())
    elif isinstance(value, list):
        for item in value:
            if item is not None:
                yield key, _form_text(text_of(item))
    elif value is not None:
        yield key, _form_text(text_of(value))


def _form_text(text: str) -> str:
    if PLAIN.fullmatch(text):
        return text
    try:
        return quote_plus(text)
    except UnicodeEncodeError:
        raise UnfitValueError("is not valid Unicode") from None


def _multipart(essence: str, properties: JsonObject, body: BodyBinding) -> Content:
    parts: Parts = []
    for name, value in properties.items():
        if not is_undefined(value):
            parts += _parts(name, value, body.parts.get(name, PART))
    boundary = _boundary(parts)
    pieces: list[bytes] = []
    for head, content in parts:
        pieces += [b"--", boundary, b"\r\n", _utf_8(head), b"\r\n\r\n", content, b"\r\n"]
    pieces += [b"--", boundary, b"--\r\n"]
    # The types of forms are the only ones whose parts have names.
    kind = essence if essence != "multipart/*" else "multipart/form-data"
    return Content(f"{kind}; boundary={boundary.decode()}", b"".join(pieces))


def _parts(name: str, value: JsonValue, part: PartBinding) -> Iterator[tuple[str, bytes]]:
    given = part.content_type
    if part.is_file:
        for item in value if isinstance(value, list) else [value]:
            file = _file(item)
            file_type = file.content_type or _concrete(given) or OCTETS
            yield _head(name, file_type, file.filename or name), file.content
    elif part.style is not None:
        for key, text in pairs_of(name, value, part.style, str, explode=part.explode):
            yield _head(key, None), _utf_8(text)
    elif given is not None and is_json(given):
        yield _head(name, _concrete(given) or JSON), json_text(value)
    else:
        for item in value if isinstance(value, list) else [value]:
            if item is None:
                continue
            kind = _concrete(given)
            if isinstance(item, dict | list):
                kind = kind or JSON
            yield _head(name, kind), _utf_8(text_of(item))


def _head(name: str, content_type: str | None, filename: str | None = None) -> str:
    head = f'Content-Disposition: form-data; name="{_quoted(name)}"'
    if filename is not None:
        head += f'; filename="{_quoted(filename)}"'
    return head if content_type is None else f"{head}\r\nContent-Type: {content_type}"


def _quoted(name: str) -> str:
    escaped = name.translate(ESCAPED)
    if CONTROL.search(escaped):
        raise UnfitValueError("has a name that holds control characters")
    return escaped


def _boundary(parts: Parts) -> bytes:
    """Return a text that is in none of the parts."""
    digest = hashlib.sha256()
    for head, content in parts:
        digest.update(_utf_8(head))
        digest.update(content)
    while True:
        boundary = digest.hexdigest()[:32].encode()
        if not any(boundary in content for _, content in parts):
            return boundary
        digest.update(boundary)


def _of_file(body: BodyBinding, value: JsonValue) -> Content:
    file = _file(value)
    kind = _concrete(body.content_type) or file.content_type or OCTETS
    return Content(kind, file.content)


def _file(value: JsonValue) -> _File:
    if isinstance(value, str):
        value = {"content": value}
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise UnfitValueError("must be a file: an object whose member content is base64")
    kind, filename = value.get("content_type"), value.get("filename")
    if kind is not None and not (isinstance(kind, str) and MEDIA_TYPE.fullmatch(kind)):
        raise UnfitValueError("has a content_type that is no media type")
    if filename is not None and not isinstance(filename, str):
        raise UnfitValueError("has a filename that is no string")
    try:
        content = base64.b64decode(str(value["content"]).encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise UnfitValueError("has a content that is no base64") from None
    return _File(content, kind, filename)


def _concrete(content_type: str | None) -> str | None:
    """Return the first media type of a description's list; None if that is a range."""
    if content_type is None:
        return None
    first = content_type.partition(",")[0].strip()
    return first if "*" not in first and MEDIA_TYPE.fullmatch(first) else None


def _sent_type(content_type: str) -> str:
    kind = _concrete(content_type)
    if kind is None:
        return "text/plain; charset=utf-8"
    if kind.lower().startswith("text/") and "charset" not in kind.lower():
        return f"{kind}; charset=utf-8"
    return kind


def _text(value: JsonValue) -> bytes:
    return _utf_8(text_of(value))


def _utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UnfitValueError("is not valid Unicode") from None


def _properties(value: JsonValue) -> JsonObject:
    if not isinstance(value, dict):
        raise UnfitValueError("must be an object, whose members are those of the form")
    return value


def query_string(content_type: str, value: JsonValue) -> str:
    """Return a whole query string that has a content type (OpenAPI 3.2).

    Raises:
        UnfitValueError: It cannot be written so.
    """
    if content_type.partition(";")[0].strip().lower() == FORM:
        return form_text(_properties(value))
    if is_json(content_type):
        return encoded(json_text(value).decode())
    return encoded(text_of(value))
