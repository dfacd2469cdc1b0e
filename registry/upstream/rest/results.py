"""From the answer of an API to the result of a tool. Pure.

JSON becomes structured content and text, other texts text, images and sounds content of their own
kind, other bytes an embedded resource. Statuses of errors become failed results, which models can
read and act on. What is too long is cut, and says so.
"""

import base64
import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson

from registry.core.json import MAX_VALUES, holds_more_values, load_exact, parsing
from registry.openapi.projection import Projection, ProjectionError
from registry.upstream.masking import masked
from registry.upstream.rest.bodies import is_json
from registry.upstream.rest.styles import UnfitValueError, json_text

MAX_RESULT_BYTES: Final = 1024 * 1024
"""Longest body that becomes a result. Models take far less; structured content doubles it."""

MAX_ERROR_BYTES: Final = 16 * 1024
"""Longest part of an error's body that is shown."""

MAX_RETRY_AFTER: Final = 64
SUCCESS: Final = range(200, 300)
NO_BODY: Final = "no body"
UNPROJECTED: Final = "The projection of this tool needs JSON, and the API answered"
NOT_OF_TEXT: Final = frozenset({"idna", "punycode", "undefined", "unicode_escape"})
"""Encodings of Python that are none of texts, or slow for long ones."""

TEXTUAL: Final = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/jsonlines",
        "application/sql",
        "application/toml",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "image/svg+xml",
    }
)
UNTYPED: Final = frozenset({"", "application/octet-stream", "binary/octet-stream", "text/plain"})
"""Types that servers give for want of a better one."""


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """An answer that was read, as far as its bound.

    Attributes:
        content_type: As it was sent; empty if it was not.
        body: Decoded, and cut at the bound.
        is_cut: Whether more would have come.
        length: Of the whole body, where the answer says it.
        retry_after: The header of that name.
        place: Path of the request without its query.
    """

    status: int
    content_type: str
    body: bytes = field(repr=False)
    is_cut: bool = False
    length: int | None = None
    retry_after: str | None = None
    place: str = "/"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the result of a tool must look like.

    Attributes:
        wraps: Whether its structured content is `{"result": ...}`.
        is_promised: Whether the tool has an output schema, so that clients refuse a result
            without structured content.
        expects_json: Whether the operation answers JSON.
        projection: What is left of the answer; None for all.
    """

    wraps: bool = False
    is_promised: bool = False
    expects_json: bool = False
    projection: Projection | None = None


PLAIN: Final = Shape()


def result_of(
    answer: RestAnswer,
    shape: Shape = PLAIN,
    *,
    sent: Iterable[tuple[str, str]] = (),
    url: str = "",
) -> dict[str, Any]:
    """Return the members of a `CallToolResult`, fit for `orjson`; `isError` is the last.

    Args:
        answer: Of the API.
        shape: What the tool promises.
        sent: Headers that went there with credentials, which must not come back in errors.
        url: The address of the API, the same.
    """
    if answer.status not in SUCCESS:
        return _failed(answer, sent, url)
    if not answer.body:
        return _empty(answer, shape)
    essence = answer.content_type.partition(";")[0].strip().lower()
    is_untyped = essence in UNTYPED and (shape.expects_json or not essence)
    found = _json_result(answer, shape) if is_untyped or is_json(essence) else None
    return found or _other_result(answer, shape, essence)


def _other_result(answer: RestAnswer, shape: Shape, essence: str) -> dict[str, Any]:
    if shape.projection is not None:
        # Shown whole, it would show what the projection is to leave out.
        size = ", too long to be read" if answer.is_cut else ""
        return failure_result(f"{UNPROJECTED} {essence or 'an unknown type'}{size}.")
    if is_json(essence):
        return _text_result(answer, shape, is_broken=True)
    is_text = essence.startswith("text/") or essence in TEXTUAL or essence.endswith("+xml")
    if is_text or (not essence and _is_text(answer.body)):
        return _text_result(answer, shape)
    return _binary_result(answer, essence or "application/octet-stream")


def failure_result(text: str) -> dict[str, Any]:
    """Return a failed result that says *text*."""
    return {"content": [_text(text)], "isError": True}


def _failed(answer: RestAnswer, sent: Iterable[tuple[str, str]], url: str) -> dict[str, Any]:
    said = f"The API answered HTTP {answer.status}{_phrase(answer.status)}."
    retry_after = (answer.retry_after or "")[:MAX_RETRY_AFTER]
    facts: dict[str, Any] = {"status": answer.status}
    if retry_after:
        facts["retryAfter"] = retry_after
        unit = " seconds" if retry_after.isdecimal() else ""
        said += f" Retry after: {retry_after}{unit}."
    content = [_text(said)]
    # Masked before it is cut: a secret at the cut would not be found.
    body = masked(answer.body, sent, url)
    shown = _decoded(body, answer.content_type) if _is_text(body[:1024]) else ""
    if shown.strip():
        content.append(_text(_cut(shown, answer, len(body), MAX_ERROR_BYTES)))
    return {"content": content, "_meta": {HTTP_META_KEY: facts}, "isError": True}


HTTP_META_KEY: Final = "mcp-gateway-registry/http"
"""Member of a failed result's `_meta`: status and `retryAfter` of the API's answer."""


def _empty(answer: RestAnswer, shape: Shape) -> dict[str, Any]:
    said = f"HTTP {answer.status}{_phrase(answer.status)}: {NO_BODY}."
    result: dict[str, Any] = {"content": [_text(said)]}
    if shape.is_promised:
        result["structuredContent"] = {"result": None} if shape.wraps else {}
    result["isError"] = False
    return result


def _json_result(answer: RestAnswer, shape: Shape) -> dict[str, Any] | None:
    """Return the result for a body of JSON; None if it is none that can be read."""
    if answer.is_cut or holds_more_values(answer.body, MAX_VALUES):
        return None
    body = _utf_8(answer)
    try:
        with parsing(body):
            value = load_exact(body)
    except (ValueError, RecursionError):
        return None
    if shape.projection is not None:
        try:
            value = shape.projection.of(value, MAX_RESULT_BYTES)
        except ProjectionError as exc:
            return failure_result(f"The projection of this tool {exc}.")
    try:
        text = json_text(value)
    except UnfitValueError:
        return None
    if len(text) > MAX_RESULT_BYTES:
        shown = _cut(text.decode(), answer, len(text), MAX_RESULT_BYTES)
        return {"content": [_text(shown)], "isError": shape.is_promised}
    result: dict[str, Any] = {"content": [{"type": "text", "text": text.decode()}]}
    if shape.wraps or (shape.projection is not None and not isinstance(value, dict)):
        result["structuredContent"] = orjson.Fragment(b'{"result":%s}' % text)
    elif isinstance(value, dict):
        result["structuredContent"] = orjson.Fragment(text)
    result["isError"] = shape.is_promised and "structuredContent" not in result
    return result


def _text_result(answer: RestAnswer, shape: Shape, *, is_broken: bool = False) -> dict[str, Any]:
    shown = _decoded(answer.body, answer.content_type)
    text = _cut(shown, answer, len(answer.body), MAX_RESULT_BYTES)
    content = [_text(text)]
    is_whole = text is shown
    if is_broken and is_whole:
        content.append(_text("The API called this JSON, but it cannot be read as such."))
    result: dict[str, Any] = {"content": content}
    if shape.wraps and shape.is_promised and not is_broken and is_whole:
        result["structuredContent"] = {"result": text}
    # Without what was promised, clients would refuse the result, and nobody could read it.
    result["isError"] = shape.is_promised and "structuredContent" not in result
    return result


def _binary_result(answer: RestAnswer, essence: str) -> dict[str, Any]:
    if answer.is_cut or len(answer.body) > MAX_RESULT_BYTES:
        size = "more" if answer.length is None else f"{answer.length} bytes"
        return failure_result(
            f"The API answered {size} of {essence}, where a result takes at most "
            f"{MAX_RESULT_BYTES} bytes; nothing of it is shown."
        )
    data = base64.b64encode(answer.body).decode()
    kind = essence.partition("/")[0]
    content: dict[str, Any]
    if kind in {"image", "audio"}:
        content = {"type": kind, "data": data, "mimeType": essence}
    else:
        resource = {"uri": f"api:{answer.place}", "mimeType": essence, "blob": data}
        content = {"type": "resource", "resource": resource}
    return {"content": [content], "isError": False}


def _cut(text: str, answer: RestAnswer, size: int, most: int) -> str:
    """Return a text, or its beginning and how much is missing."""
    if not answer.is_cut and size <= most:
        return text
    kept = text.encode(errors="replace")[:most].decode(errors="ignore")
    whole = answer.length if answer.is_cut else size
    missing = "more" if whole is None or whole <= most else f"{whole - most} of {whole} bytes"
    return f"{kept}\n[cut: {missing} follow here, which are not shown]"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _utf_8(answer: RestAnswer) -> bytes:
    """Return a body of JSON in UTF-8, without a mark of its byte order."""
    body = answer.body
    charset = _charset(answer.content_type)
    if charset not in {None, "utf-8", "utf8", "us-ascii"} or body[:2] in {
        b"\xff\xfe",
        b"\xfe\xff",
    }:
        body = _decoded(body, answer.content_type).encode(errors="replace")
    return body.removeprefix(codecs.BOM_UTF8)


def _decoded(body: bytes, content_type: str) -> str:
    charset = _charset(content_type) or "utf-8"
    if body[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        charset = "utf-16"
    try:
        name = codecs.lookup(charset).name
        if name not in NOT_OF_TEXT:
            return body.decode("utf-8-sig" if name == "utf-8" else name)
    except (LookupError, ValueError):
        pass
    return body.decode("utf-8-sig", errors="replace")


def _charset(content_type: str) -> str | None:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower() or None
    return None


def _is_text(body: bytes) -> bool:
    """Whether bytes without a type look like text."""
    if b"\0" in body:
        return False
    try:
        body[:1024].decode()
    except UnicodeDecodeError as exc:
        return exc.start > len(body[:1024]) - 4
    return True
