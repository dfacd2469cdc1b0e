"""The inverse of `request_of`: what a server reads of a request, by the same binding."""

import json
import re
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from urllib.parse import parse_qsl, unquote, urlsplit

from registry.core.json import JsonObject, JsonValue
from registry.openapi.binding import BodyBinding, Location, OperationBinding, ParameterBinding
from registry.upstream.rest.requests import RestRequest


def arguments_of(
    binding: OperationBinding, request: RestRequest, kinds: dict[str, str]
) -> JsonObject:
    """Return the arguments that a request says.

    Args:
        binding: Of the operation.
        request: What was sent, to an API at the root of its host.
        kinds: `string`, `array` or `object`, by argument.
    """
    found: JsonObject = {}
    parts = urlsplit(request.url)
    for parameter in binding.parameters:
        kind = kinds[parameter.argument]
        match parameter.location:
            case Location.PATH:
                text = _in_path(binding.path, parts.path, parameter.name)
                found[parameter.argument] = _of_path(parameter, kind, text)
            case Location.HEADER:
                found[parameter.argument] = _plain(
                    parameter, kind, request.headers[parameter.name]
                )
            case Location.QUERY:
                pairs = _split(parts.query, "&")
                found[parameter.argument] = _of_pairs(parameter, kind, pairs, unquote)
            case Location.COOKIE:
                pairs = _split(request.headers["Cookie"], "; ")
                undo = str if parameter.style == "cookie" else unquote
                found[parameter.argument] = _of_pairs(parameter, kind, pairs, undo)
            case Location.QUERY_STRING:
                found[parameter.argument] = json.loads(unquote(parts.query))
    if binding.body is not None and request.content is not None:
        found |= _of_body(binding.body, request)
    return found


def _split(text: str, separator: str) -> list[tuple[str, str]]:
    parts = (pair.partition("=") for pair in text.split(separator))
    return [(name, value) for name, _, value in parts]


def _in_path(template: str, path: str, name: str) -> str:
    pattern = re.sub(r"\{([^{}]+)\}", lambda found: f"(?P<{found[1]}>[^/]*)", template)
    found = re.fullmatch(pattern, path)
    assert found is not None, f"{path} is not {template}"
    return found[name]


def _of_path(  # noqa: PLR0911 - one for each form
    parameter: ParameterBinding, kind: str, text: str
) -> JsonValue:
    name = parameter.name
    match parameter.style, parameter.explode, kind:
        case "matrix", False, _:
            return _plain(parameter, kind, text.removeprefix(f";{name}=").removeprefix(f";{name}"))
        case "matrix", True, "string":
            return unquote(text.removeprefix(f";{name}=").removeprefix(f";{name}"))
        case "matrix", True, "array":
            return [unquote(item.partition("=")[2]) for item in text[1:].split(";")]
        case "matrix", True, _:
            return _object(text[1:].split(";"))
        case "label", True, "array":
            return [unquote(item) for item in text[1:].split(".")]
        case "label", True, "object":
            return _object(text[1:].split("."))
        case "label", _, _:
            return _plain(parameter, kind, text[1:])
        case _:
            return _plain(parameter, kind, text)


def _plain(parameter: ParameterBinding, kind: str, text: str) -> JsonValue:
    undo = str if parameter.location is Location.HEADER else unquote
    match kind:
        case "string":
            return undo(text)
        case "array":
            return [undo(item) for item in text.split(",")]
        case _ if parameter.explode and parameter.style == "simple":
            pairs = [item.partition("=") for item in text.split(",")]
            return {undo(name): undo(value) for name, _, value in pairs}
        case _:
            return _flat([undo(item) for item in text.split(",")])


def _of_pairs(
    parameter: ParameterBinding,
    kind: str,
    pairs: list[tuple[str, str]],
    undo: Callable[[str], str],
) -> JsonValue:
    name = parameter.name
    if parameter.style == "deepObject":
        inside = re.compile(rf"{re.escape(name)}\[(.*)\]", re.DOTALL)
        found = [(inside.fullmatch(unquote(key)), undo(text)) for key, text in pairs]
        return {key[1]: text for key, text in found if key is not None}
    values = [text for key, text in pairs if undo(key) == name]
    if kind == "string":
        return undo(values[0])
    if parameter.explode:
        if kind == "array":
            return [undo(text) for text in values]
        return {undo(key): undo(text) for key, text in pairs}
    delimiter = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(parameter.style, ",")
    items: list[JsonValue] = [undo(item) for item in values[0].split(delimiter)]
    return items if kind == "array" else _flat(items)


def _object(texts: list[str]) -> JsonObject:
    pairs = [text.partition("=") for text in texts]
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _flat(items: list[JsonValue]) -> JsonObject:
    names = map(str, items[::2])
    return dict(zip(names, items[1::2], strict=True))


def _of_body(body: BodyBinding, request: RestRequest) -> JsonObject:
    assert request.content is not None
    kind = request.headers["Content-Type"]
    value: JsonValue
    if kind == "application/json":
        value = json.loads(request.content)
    elif kind == "application/x-www-form-urlencoded":
        value = dict(parse_qsl(request.content.decode(), keep_blank_values=True))
    elif kind.startswith("multipart/form-data"):
        value = {name: text.decode() for name, text, _ in parts_of(request)}
    else:
        value = request.content.decode()
    if body.argument is not None:
        return {body.argument: value}
    assert isinstance(value, dict)
    names = {name: argument for argument, name in body.properties.items()}
    return {names.get(name, name): member for name, member in value.items()}


def parts_of(request: RestRequest) -> list[tuple[str, bytes, Message]]:
    """Return name, content and headers of the parts of a multipart body."""
    assert request.content is not None
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    whole = message_from_bytes(head + request.content)
    assert whole.is_multipart()
    boundary = f"--{whole.get_boundary()}".encode()
    # The parser of mail decodes line ends, so contents are cut out of the bytes.
    pieces = request.content.split(boundary)[1:-1]
    contents = [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces]
    messages = [part for part in whole.get_payload() if isinstance(part, Message)]
    names = [
        str(part.get_param("name", header="content-disposition", unquote=True))
        for part in messages
    ]
    return [*zip(names, contents, messages, strict=True)]
