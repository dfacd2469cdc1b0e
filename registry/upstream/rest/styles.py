"""How values are written in URLs, headers and cookies: the parameter styles of OpenAPI. Pure.

They are expansions of RFC 6570, with what OpenAPI adds for headers, cookies and delimiters. What a
style cannot carry without becoming something else is refused, never sent altered.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Final, TypeAlias
from urllib.parse import quote

import orjson

from registry.core.json import JsonValue
from registry.openapi.binding import Style

Encode: TypeAlias = Callable[[str], str]
"""From a text to what stands for it in a request; raises `UnfitValueError`."""

Pairs: TypeAlias = list[tuple[str, str]]
"""Names and values, both encoded."""

EXACT_FLOATS = 2.0**53

MAX_TARGET_CHARACTERS: Final = 64 * 1024
"""Longest path with its query. Servers take 8 to 16 KiB, few take more."""

MAX_HEADER_CHARACTERS: Final = 16 * 1024
"""Longest value of a header or cookie; the same is true of them."""

PATH_RESERVED = ":[]@!$&'()*,;=+"
"""What `allowReserved` lets through in a path: no character that ends a segment or the path."""

QUERY_RESERVED = ":/?[]@!$'()*,;="
"""The same in a query: nothing that begins another parameter or the fragment, nor a plus sign,
which is read as a space."""

TRIPLET = re.compile(r"%(?![0-9A-Fa-f]{2})")
PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
DOT_SEGMENT = re.compile(r"(?:^|[/\\])\.{1,2}(?:$|[/\\;])")
"""What clients, proxies or servers remove from paths, some of them after decoding `%2F`."""

NO_HEADER_TEXT = re.compile(r"[^\t\x20-\x7e]")
NO_COOKIE_TEXT = re.compile(r"[^\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]")
"""Characters that are no `cookie-octet` (RFC 6265, 4.1.1)."""

TOO_LONG: Final = "makes an address that no server takes"

DELIMITERS: Final[Mapping[str, str]] = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|"}


class UnfitValueError(Exception):
    """A value cannot be written at its place; the message completes "the argument ... "."""


def text_of(value: JsonValue) -> str:
    """Return a value as text: strings as they are, whole numbers without a point, others as JSON.

    Raises:
        UnfitValueError: A number is none, or a string no text.
    """
    match value:
        case str():
            return value
        case True:
            return "true"
        case False:
            return "false"
        case float() if value.is_integer() and abs(value) < EXACT_FLOATS:
            return str(int(value))
        case int():
            return str(value)
        case float() if not isfinite(value):
            raise UnfitValueError("is no number of JSON")
        case _:
            return json_text(value).decode()


def json_text(value: JsonValue) -> bytes:
    """Return the JSON text of a value, whole numbers of any size included.

    Raises:
        UnfitValueError: It has none.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        return json.dumps(
            value, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except (ValueError, RecursionError):
        raise UnfitValueError("cannot be written as JSON") from None


def encoded(text: str, safe: str = "") -> str:
    """Return a text percent-encoded.

    Raises:
        UnfitValueError: It is no Unicode text, or too long.
    """
    if len(text) > MAX_TARGET_CHARACTERS:
        raise UnfitValueError(TOO_LONG)
    if PLAIN.fullmatch(text):
        return text
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise UnfitValueError("is not valid Unicode") from None


def path_text(text: str) -> str:
    """Return a text for one segment of a path."""
    return _path_text(text, "")


def reserved_path_text(text: str) -> str:
    """Return a text for one segment of a path, reserved characters as they are."""
    return _path_text(text, PATH_RESERVED)


def _path_text(text: str, safe: str) -> str:
    if len(text) > MAX_TARGET_CHARACTERS:
        raise UnfitValueError(TOO_LONG)
    if "." in text and DOT_SEGMENT.search(text):
        raise UnfitValueError("must not hold the path segments '.' and '..'")
    if PLAIN.fullmatch(text):
        return text
    if CONTROL.search(text):
        raise UnfitValueError("holds control characters, which no path may")
    return encoded(text, safe)


def query_text(text: str) -> str:
    """Return a text for a query, where nothing in it has a meaning."""
    return encoded(text)


def reserved_query_text(text: str) -> str:
    """Return a text for a query as `{+var}` has it: reserved characters and triplets stay.

    Except for those that would end the parameter.
    """
    if len(text) > MAX_TARGET_CHARACTERS:
        raise UnfitValueError(TOO_LONG)
    return encoded(TRIPLET.sub("%25", text), QUERY_RESERVED + "%")


def header_text(text: str) -> str:
    """Return a text for a header, which has no escapes.

    Raises:
        UnfitValueError: A header cannot carry it.
    """
    if len(text) > MAX_HEADER_CHARACTERS:
        raise UnfitValueError("is longer than a header can be")
    if NO_HEADER_TEXT.search(text):
        raise UnfitValueError("holds characters that no header can carry")
    return text


def cookie_text(text: str) -> str:
    """Return a text for a cookie, which has no escapes; see `header_text`."""
    if len(text) > MAX_HEADER_CHARACTERS:
        raise UnfitValueError("is longer than a cookie can be")
    if NO_COOKIE_TEXT.search(text):
        raise UnfitValueError("holds characters that no cookie can carry")
    return text


def item_text(encode: Encode, delimiter: str) -> Encode:
    """Return *encode* for items of a list that are told apart by a delimiter without an escape."""

    def checked(text: str) -> str:
        if delimiter in text:
            raise UnfitValueError(f"holds {delimiter!r} in an item, which separates items here")
        return encode(text)

    return checked


def is_undefined(value: JsonValue) -> bool:
    """Whether a value expands to nothing (RFC 6570, 2.3)."""
    return value is None or value in ([], {})


def expanded(  # noqa: PLR0911 - one for each form
    name: str, value: JsonValue, style: Style, encode: Encode, *, explode: bool
) -> str:
    """Return a value in the style of paths and headers: `simple`, `label` or `matrix`.

    Args:
        name: Of the parameter, encoded.
        value: Of any type; None is undefined.
        style: One of the three.
        encode: For its texts.
        explode: Whether its items stand apart.
    """
    prefix = {"label": ".", "matrix": ";"}.get(style, "")
    separator = prefix if explode and prefix else ","
    if is_undefined(value):
        return f";{name}" if style == "matrix" else prefix
    if style == "label" and explode and isinstance(value, list | dict):
        # No escape tells a point in an item from one that separates items.
        encode = item_text(encode, prefix)
    match value:
        case list():
            texts = [encode(text_of(item)) for item in value if item is not None]
            if style != "matrix":
                return prefix + separator.join(texts)
            if explode:
                return "".join(f";{name}={text}" if text else f";{name}" for text in texts)
            return f";{name}={','.join(texts)}"
        case dict():
            pairs = [*_members(value, encode)]
            if explode:
                return prefix + separator.join(f"{key}={text}" for key, text in pairs)
            flat = ",".join(f"{key},{text}" for key, text in pairs)
            return f";{name}={flat}" if style == "matrix" else prefix + flat
        case _:
            text = encode(text_of(value))
            if style == "matrix":
                return f";{name}={text}" if text else f";{name}"
            return prefix + text


def pairs_of(name: str, value: JsonValue, style: Style, encode: Encode, *, explode: bool) -> Pairs:
    """Return a value as the pairs of a query, form or cookie.

    Args:
        name: Of the parameter, encoded.
        value: Of any type; what is undefined has no pairs.
        style: `form`, `spaceDelimited`, `pipeDelimited`, `deepObject` or `cookie`.
        encode: For its texts, and the names of its members.
        explode: Whether its items are pairs of their own.
    """
    if is_undefined(value):
        return []
    if style == "deepObject":
        return [*_deep(name, value, encode)]
    if not isinstance(value, list | dict):
        return [(name, encode(text_of(value)))]
    if explode:
        if isinstance(value, dict):
            return [*_members(value, encode)]
        return [(name, encode(text_of(item))) for item in value if item is not None]
    delimiter = DELIMITERS.get(style, ",")
    if delimiter == ",":
        joined = ",".join(_flat(value, encode))
    else:
        joined = encode(delimiter).join(_flat(value, item_text(encode, delimiter)))
    return [(name, joined)]


def _members(value: Mapping[str, JsonValue], encode: Encode) -> Iterator[tuple[str, str]]:
    for key, member in value.items():
        if member is not None:
            yield encode(key), encode(text_of(member))


def _flat(value: list[JsonValue] | dict[str, JsonValue], encode: Encode) -> Iterator[str]:
    if isinstance(value, dict):
        for pair in _members(value, encode):
            yield from pair
    else:
        for item in value:
            if item is not None:
                yield encode(text_of(item))


def _deep(name: str, value: JsonValue, encode: Encode) -> Iterator[tuple[str, str]]:
    """Yield `name[member]`, and `name[member][0]` for what is deeper than OpenAPI defines."""
    if value is None:
        return
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in inner:
            yield from _deep(f"{name}%5B{encode(str(key))}%5D", member, encode)
    else:
        yield name, encode(text_of(value))
