"""From the arguments of a tool to the request of its operation. Pure.

Above is what sends requests; below are the styles of parameters and the kinds of bodies. Scheme,
host and the shape of the path are the description's: no argument can leave its place.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from registry.core.json import JsonObject, JsonValue
from registry.openapi.binding import (
    HEADER_NAME,
    NOT_ARGUMENTS,
    BodyBinding,
    Location,
    OperationBinding,
    ParameterBinding,
)
from registry.upstream.rest.bodies import MEDIA_TYPE, content_of, is_json, query_string
from registry.upstream.rest.styles import (
    MAX_TARGET_CHARACTERS,
    TOO_LONG,
    Encode,
    Pairs,
    UnfitValueError,
    cookie_text,
    encoded,
    expanded,
    header_text,
    is_undefined,
    item_text,
    json_text,
    pairs_of,
    path_text,
    query_text,
    reserved_path_text,
    reserved_query_text,
    text_of,
)

EXPRESSION = re.compile(r"\{([^{}]+)\}")
DOTS: Final = frozenset({"", ".", ".."})
LITERAL_SAFE: Final = "/:@!$&'()*+,;=~%"

MOST_ACCEPTED: Final = 8
"""Media types of an `Accept` header; descriptions name dozens."""


class ArgumentError(Exception):
    """A request cannot be made of the arguments; nothing was sent.

    Attributes:
        argument: The one at fault.
        reason: Completes a sentence that begins with it.
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"The argument {argument!r} {reason}. Nothing was sent.")
        self.argument = argument
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request to an API, credentials apart.

    Attributes:
        method: In capitals.
        origin: Scheme, host and port.
        target: Path and query, encoded.
        headers: All but those that the connection needs.
        content: The body; None if there is none.
    """

    method: str
    origin: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Return the whole address."""
        return self.origin + self.target


def request_of(binding: OperationBinding, arguments: JsonObject, base_url: str) -> RestRequest:
    """Return the request of one call; `Operation` is for more than one.

    Args:
        binding: Of the operation.
        arguments: Of the call.
        base_url: Of the API.

    Raises:
        ArgumentError: It cannot be made of these arguments.
        ValueError: The base URL is no absolute HTTP URL.
    """
    return Operation(binding, base_url).request(arguments)


def origin_of(parts: SplitResult) -> str:
    """Return scheme, host and port of a URL, equal for equal places."""
    place = parts.netloc.rpartition("@")[2].lower()
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{place.removesuffix(default)}"


ToText: TypeAlias = Callable[[JsonValue], str]
ToPairs: TypeAlias = Callable[[JsonValue], Pairs]


@dataclass(frozen=True, slots=True)
class _Written:
    """A parameter with what writes its value."""

    argument: str
    name: str
    is_required: bool
    text: ToText = str
    pairs: ToPairs | None = None
    names_members: bool = False


class Operation:
    """An operation that is ready to be called: all that does not depend on arguments is done.

    Args:
        binding: How it is called.
        base_url: Of the API.

    Attributes:
        method: In capitals.
        origin: Where its requests go.
        idempotency_header: The header that makes repetition safe; None if there is none.
        is_public: Whether no credentials are sent.

    Raises:
        ValueError: The base URL is no absolute HTTP URL.
    """

    __slots__ = (
        "_body",
        "_cookies",
        "_fixed_query",
        "_headers",
        "_known",
        "_path",
        "_plain_headers",
        "_queries",
        "_query_names",
        "_query_string",
        "idempotency_header",
        "is_public",
        "method",
        "origin",
    )

    def __init__(self, binding: OperationBinding, base_url: str) -> None:
        parts = urlsplit(urljoin(base_url, binding.base_url or base_url))
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("The base URL is not an absolute HTTP URL.")
        self.method = binding.method.upper()
        if not HEADER_NAME.fullmatch(self.method):
            raise ValueError("The method is none of HTTP.")
        self.origin = origin_of(parts)
        self.idempotency_header = binding.idempotency_key
        self.is_public = binding.is_public
        paths = {
            parameter.name: parameter
            for parameter in binding.parameters
            if parameter.location is Location.PATH
        }
        path, _, query = binding.path.partition("?")
        self._path = _compiled_path(parts.path.rstrip("/"), path, paths)
        fixed_query = "&".join(text for text in (parts.query, query) if text)
        self._fixed_query = quote(fixed_query, safe="/:?@!$&'()*+,;=[]%~")
        self._queries = tuple(
            _query(parameter)
            for parameter in binding.parameters
            if parameter.location is Location.QUERY
        )
        fixed = (pair.partition("=")[0] for pair in self._fixed_query.split("&"))
        self._query_names = frozenset([*fixed, *(written.name for written in self._queries)])
        self._query_string = next(
            (
                parameter
                for parameter in binding.parameters
                if parameter.location is Location.QUERY_STRING
            ),
            None,
        )
        self._headers = tuple(
            _header(parameter)
            for parameter in binding.parameters
            if parameter.location is Location.HEADER
            and parameter.name.lower() not in NOT_ARGUMENTS
            and HEADER_NAME.fullmatch(parameter.name)
        )
        self._cookies = tuple(
            _cookie(parameter)
            for parameter in binding.parameters
            if parameter.location is Location.COOKIE
        )
        self._plain_headers = {"Accept": _accept(binding.accepts)}
        self._body = binding.body
        self._known = _known(binding)

    def request(self, arguments: JsonObject) -> RestRequest:
        """Return the request of one call.

        Raises:
            ArgumentError: It cannot be made of these arguments.
        """
        known = self._known
        if known is not None and not known.issuperset(arguments):
            unknown = next(name for name in arguments if name not in known)
            raise ArgumentError(unknown, "is none that this tool takes")
        target = self._target(arguments)
        headers = self._plain_headers
        if self._headers or self._cookies or self._body is not None:
            headers = headers.copy()
            self._add_headers(headers, arguments)
        content = None
        if self._body is not None:
            content = self._content(self._body, headers, arguments)
        return RestRequest(self.method, self.origin, target, headers, content)

    def _target(self, arguments: JsonObject) -> str:
        path = [
            segment if isinstance(segment, str) else segment.text(arguments)
            for segment in self._path
        ]
        query = [self._fixed_query] if self._fixed_query else []
        for written in self._queries:
            value = _given(written, arguments)
            if value is not None:
                pairs = _made(written, value)
                if written.names_members:
                    self._check_members(written, pairs)
                query += [f"{name}={text}" for name, text in pairs]
        if self._query_string is not None:
            query += _whole_query(self._query_string, arguments)
        target = "".join(path)
        if query:
            target += "?" + "&".join(query)
        if len(target) > MAX_TARGET_CHARACTERS:
            longest = max(arguments, key=lambda name: len(repr(arguments[name])))
            raise ArgumentError(longest, TOO_LONG)
        return target

    def _check_members(self, written: _Written, pairs: Pairs) -> None:
        """Refuse members of an object that would be another parameter of the query."""
        for name, _ in pairs:
            if name != written.name and name in self._query_names:
                raise ArgumentError(written.argument, f"must not set the parameter {name!r}")

    def _add_headers(self, headers: dict[str, str], arguments: JsonObject) -> None:
        for written in self._headers:
            value = _given(written, arguments)
            if value is not None:
                headers[written.name] = _text(written, value)
        cookies: list[str] = []
        for written in self._cookies:
            value = _given(written, arguments)
            if value is not None:
                cookies += [f"{name}={text}" for name, text in _made(written, value)]
        if cookies:
            headers["Cookie"] = "; ".join(cookies)

    def _content(
        self, body: BodyBinding, headers: dict[str, str], arguments: JsonObject
    ) -> bytes | None:
        if body.argument is not None:
            argument = body.argument
            if argument not in arguments:
                if body.required:
                    raise ArgumentError(argument, "is required")
                return None
            value = arguments[argument]
        else:
            value = self._properties(body, arguments)
            argument = next(iter(body.properties), "body")
            if not value and not body.required:
                return None
        try:
            content = content_of(body, value)
        except UnfitValueError as exc:
            raise ArgumentError(_at_fault(body, value, argument), str(exc)) from None
        headers["Content-Type"] = content.content_type
        return content.content

    def _properties(self, body: BodyBinding, arguments: JsonObject) -> JsonObject:
        found = {
            name: arguments[argument]
            for argument, name in body.properties.items()
            if argument in arguments
        }
        if body.is_open:
            others = self._bound(body)
            found |= {
                name: value
                for name, value in arguments.items()
                if name not in others and name not in found
            }
        return found

    def _bound(self, body: BodyBinding) -> set[str]:
        written = (*self._queries, *self._headers, *self._cookies)
        segments = (segment for segment in self._path if isinstance(segment, _Segment))
        bound = {one.argument for one in written} | {*body.properties}
        if self._query_string is not None:
            bound.add(self._query_string.argument)
        return bound.union(*(segment.arguments for segment in segments))


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment of a path with parameters in it; texts between them are encoded."""

    pieces: tuple["str | _Written", ...]

    @property
    def arguments(self) -> frozenset[str]:
        return frozenset(piece.argument for piece in self.pieces if isinstance(piece, _Written))

    def text(self, arguments: JsonObject) -> str:
        """Return the segment of one call.

        Raises:
            ArgumentError: An argument is missing, or would make another path of it.
        """
        found, last = "", ""
        for piece in self.pieces:
            if isinstance(piece, str):
                found += piece
                continue
            last = piece.argument
            value = arguments.get(last)
            if value is None:
                raise ArgumentError(last, "is required")
            found += _text(piece, value)
        if found.partition(";")[0] in DOTS and found[:1] != ";":
            raise ArgumentError(last, "must not be empty, '.' or '..' in a path")
        return found


def _compiled_path(
    base: str, path: str, parameters: Mapping[str, ParameterBinding]
) -> tuple[str | _Segment, ...]:
    """Return a path as texts and segments that depend on arguments."""
    compiled: list[str | _Segment] = []
    fixed = quote(base, safe=LITERAL_SAFE)
    for text in (path if path.startswith("/") else f"/{path}")[1:].split("/"):
        fixed += "/"
        pieces = _pieces(text, parameters)
        if all(isinstance(piece, str) for piece in pieces):
            fixed += "".join(map(str, pieces))
            continue
        compiled += [fixed, _Segment(pieces)]
        fixed = ""
    if fixed:
        compiled.append(fixed)
    return tuple(compiled)


def _pieces(
    segment: str, parameters: Mapping[str, ParameterBinding]
) -> tuple[str | _Written, ...]:
    found: list[str | _Written] = []
    end = 0
    for expression in EXPRESSION.finditer(segment):
        parameter = parameters.get(expression[1])
        if parameter is None:
            continue
        found += [quote(segment[end : expression.start()], safe=LITERAL_SAFE), _path(parameter)]
        end = expression.end()
    found.append(quote(segment[end:], safe=LITERAL_SAFE))
    return tuple(piece for piece in found if piece != "")


def _path(parameter: ParameterBinding) -> _Written:
    encode = reserved_path_text if parameter.allow_reserved else path_text
    style = parameter.style if parameter.style in {"label", "matrix"} else "simple"
    make: ToText = partial(_expanded, encoded(parameter.name), style, encode, parameter.explode)
    if parameter.content_type is not None:
        make = partial(_as_content, parameter.content_type, encode)
    return _Written(parameter.argument, parameter.name, is_required=True, text=make)


def _query(parameter: ParameterBinding) -> _Written:
    encode = reserved_query_text if parameter.allow_reserved else query_text
    return _paired(parameter, encoded(parameter.name), encode)


def _cookie(parameter: ParameterBinding) -> _Written:
    encode = cookie_text if parameter.style == "cookie" else query_text
    return _paired(parameter, encoded(parameter.name), encode)


def _paired(parameter: ParameterBinding, name: str, encode: Encode) -> _Written:
    style = parameter.style
    if style in {"simple", "label", "matrix"}:
        style = "form"
    make: ToPairs = partial(_pairs, name, style, encode, parameter.explode)
    if parameter.content_type is not None:
        make = partial(_one_pair, name, parameter.content_type, encode)
    return _Written(
        parameter.argument,
        name,
        parameter.required,
        pairs=make,
        names_members=parameter.explode and style != "deepObject",
    )


def _header(parameter: ParameterBinding) -> _Written:
    make: ToText = partial(_header_value, parameter.explode)
    if parameter.content_type is not None:
        make = partial(_as_content, parameter.content_type, header_text)
    return _Written(parameter.argument, parameter.name, parameter.required, text=make)


def _expanded(
    name: str,
    style: str,
    encode: Encode,
    explode: bool,  # noqa: FBT001 - bound by `partial`
    value: JsonValue,
) -> str:
    match style:
        case "label" | "matrix":
            return expanded(name, value, style, encode, explode=explode)
        case _:
            if isinstance(value, str):
                return encode(value)
            return expanded(name, value, "simple", encode, explode=explode)


def _header_value(explode: bool, value: JsonValue) -> str:  # noqa: FBT001 - bound by `partial`
    encode: Encode = header_text
    if isinstance(value, list | dict):
        encode = item_text(header_text, ",")
    return expanded("", value, "simple", encode, explode=explode)


def _pairs(
    name: str,
    style: str,
    encode: Encode,
    explode: bool,  # noqa: FBT001 - bound by `partial`
    value: JsonValue,
) -> Pairs:
    if isinstance(value, str):
        return [(name, encode(value))]
    match style:
        case "deepObject" | "spaceDelimited" | "pipeDelimited" | "cookie":
            return pairs_of(name, value, style, encode, explode=explode)
        case _:
            return pairs_of(name, value, "form", encode, explode=explode)


def _as_content(content_type: str, encode: Encode, value: JsonValue) -> str:
    return encode(json_text(value).decode() if is_json(content_type) else text_of(value))


def _one_pair(name: str, content_type: str, encode: Encode, value: JsonValue) -> Pairs:
    return [(name, _as_content(content_type, encode, value))]


def _given(written: _Written, arguments: JsonObject) -> JsonValue:
    """Return the value of a parameter; None if there is none to be sent."""
    value = arguments.get(written.argument)
    if value is None and written.is_required:
        raise ArgumentError(written.argument, "is required")
    return value


def _text(written: _Written, value: JsonValue) -> str:
    try:
        return written.text(value)
    except UnfitValueError as exc:
        raise ArgumentError(written.argument, str(exc)) from None


def _made(written: _Written, value: JsonValue) -> Pairs:
    assert written.pairs is not None  # noqa: S101 - those of queries and cookies have it
    try:
        return written.pairs(value)
    except UnfitValueError as exc:
        raise ArgumentError(written.argument, str(exc)) from None


def _whole_query(parameter: ParameterBinding, arguments: JsonObject) -> list[str]:
    value = arguments.get(parameter.argument)
    if is_undefined(value):
        if parameter.required:
            raise ArgumentError(parameter.argument, "is required")
        return []
    try:
        return [query_string(parameter.content_type or "text/plain", value)]
    except UnfitValueError as exc:
        raise ArgumentError(parameter.argument, str(exc)) from None


def _accept(accepts: tuple[str, ...]) -> str:
    """Return the `Accept` header: what the operation answers, and then anything for its errors."""
    known = [kind for kind in accepts if MEDIA_TYPE.fullmatch(kind)][:MOST_ACCEPTED]
    if not known:
        return "application/json, */*;q=0.5"
    first, *others = known
    listed = [first, *(f"{kind};q=0.9" for kind in others if ";" not in kind)]
    if not any(kind.partition(";")[0] == "*/*" for kind in known):
        listed.append("*/*;q=0.1")
    return ", ".join(listed)


def _known(binding: OperationBinding) -> frozenset[str] | None:
    """Return the arguments that mean something; None if any may."""
    body = binding.body
    if body is not None and body.is_open:
        return None
    found = {parameter.argument for parameter in binding.parameters}
    if body is not None:
        found.update(body.properties)
        if body.argument is not None:
            found.add(body.argument)
    return frozenset(found)


def _at_fault(body: BodyBinding, value: JsonValue, argument: str) -> str:
    """Return the argument that cannot be written, by writing each property alone."""
    if body.argument is not None or not isinstance(value, dict):
        return argument
    arguments = {name: member for member, name in body.properties.items()}
    for name, member in value.items():
        try:
            content_of(body, {name: member})
        except UnfitValueError:
            return arguments.get(name, name)
    return argument
