"""An independent judge of requests: `openapi-core`, by the description itself.

It is given the one operation with all that it refers to, and the request as bytes; of security
schemes nothing, since credentials are the gateway's.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from email.message import Message
from functools import partial
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from openapi_core import Config, OpenAPI
from openapi_core.casting.schemas import (
    oas30_write_schema_casters_factory,
    oas31_schema_casters_factory,
)
from openapi_core.datatypes import RequestParameters
from openapi_core.deserializing.media_types import media_type_deserializers
from openapi_core.deserializing.media_types.factories import MediaTypeDeserializersFactory
from openapi_core.deserializing.styles import StyleDeserializersFactory, style_deserializers
from openapi_core.deserializing.styles.util import form_loads, label_loads, matrix_loads
from openapi_core.templating.paths.parsers import PathParser
from werkzeug.datastructures import Headers, ImmutableMultiDict

from registry.openapi.binding import OperationBinding
from registry.upstream.rest.requests import RestRequest

HOST = "https://api.example.com"
IGNORED = frozenset({"accept", "content-type", "authorization"})
METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace", "query"})


class _Request:
    """A request as the judge reads it."""

    def __init__(self, request: RestRequest, template: str) -> None:
        parts = urlsplit(request.url)
        self.host_url = HOST
        self.path = template
        self.method = request.method.lower()
        self.body = request.content
        self.content_type = request.headers.get("Content-Type", "")
        found = PathParser(template).parse(parts.path)
        assert found is not None, f"{parts.path} is not {template}"
        cookies = SimpleCookie(request.headers.get("Cookie", ""))
        self.parameters = RequestParameters(
            path={name: unquote(text) for name, text in found.named.items()},
            query=ImmutableMultiDict(parse_qsl(parts.query, keep_blank_values=True)),
            header=Headers(
                # What the connection adds.
                [*request.headers.items(), ("Content-Length", str(len(request.content or b"")))]
            ),
            cookie=ImmutableMultiDict(
                {name: unquote(morsel.value) for name, morsel in cookies.items()}
            ),
        )


def judged(document: Mapping[str, Any], binding: OperationBinding, described: str) -> OpenAPI:
    """Return the judge of the operation that is *described* at a path."""
    alone = _alone(document, binding, described)
    names = {parameter.name for parameter in binding.parameters}
    casters = oas31_schema_casters_factory
    if str(document["openapi"]).startswith("3.0"):
        casters = oas30_write_schema_casters_factory
    styles = StyleDeserializersFactory(
        casters,
        style_deserializers={
            **style_deserializers,
            "form": partial(_form, names),
            "deepObject": _deep_object,
            "spaceDelimited": partial(_delimited, names, " "),
            "pipeDelimited": partial(_delimited, names, "|"),
            "label": _label,
            "matrix": _matrix,
        },
    )
    config = Config(
        spec_validator_cls=None,
        style_deserializers_factory=styles,
        media_type_deserializers_factory=MediaTypeDeserializersFactory(
            styles, media_type_deserializers=_BODIES
        ),
    )
    return OpenAPI.from_dict(alone, config=config)


class _Bodies(dict[str, Any]):
    """Readers of bodies by type: the library's own, and JSON for what is JSON by its suffix."""

    def __missing__(self, kind: str) -> Any:
        if kind == "*/*" or kind.endswith("+json"):
            return media_type_deserializers["application/json"]
        return media_type_deserializers["text/plain"]


def _multipart(content: bytes, boundary: str, **_: str) -> ImmutableMultiDict[str, Any]:
    """Read a multipart body; parts without a file's name are text, of which numbers are made."""
    head = f'Content-Type: multipart/form-data; boundary="{boundary}"\r\n\r\n'.encode()
    pairs: list[tuple[str, Any]] = []
    for part in message_from_bytes(head + content).get_payload():
        assert isinstance(part, Message)
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        name = str(part.get_param("name", header="content-disposition"))
        pairs.append((name, payload if part.get_filename() else payload.decode()))
    return ImmutableMultiDict(pairs)


_BODIES = _Bodies(
    {
        kind: reader
        for kind, reader in media_type_deserializers.items()
        if kind != "application/octet-stream"
    }
    | {"multipart/form-data": _multipart}
)


def _form(
    names: set[str],
    explode: bool,  # noqa: FBT001 - as the library calls it
    name: str,
    kind: str,
    location: Mapping[str, Any],
) -> Any:
    """Read `form`, where the library takes the pairs of an exploded object for one value."""
    if explode and kind == "object" and name not in location:
        found = {key: value for key, value in location.items() if key not in names}
        if not found:
            raise KeyError(name)
        return found
    return form_loads(explode, name, kind, location)


def _delimited(
    names: set[str],
    delimiter: str,
    explode: bool,  # noqa: FBT001 - as the library calls it
    name: str,
    kind: str,
    location: Mapping[str, Any],
) -> Any:
    """Read the delimited styles, whose delimiter the library looks for in encoded texts."""
    if explode:
        return _form(names, explode, name, kind, location)
    parts = location[name].split(delimiter)
    return parts if kind != "object" else dict(zip(parts[::2], parts[1::2], strict=True))


def _deep_object(
    explode: bool,  # noqa: FBT001 - as the library calls it
    name: str,
    kind: str,
    location: Mapping[str, Any],
) -> Any:
    """Read `deepObject` as servers do that read nested forms; the library reads one level."""
    root: dict[str, Any] = {}
    for key, value in location.items():
        if key == name:
            return value
        if not key.startswith(f"{name}["):
            continue
        steps = re.findall(r"\[([^\]]*)\]", key[len(name) :])
        inner = root
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
        inner[steps[-1]] = value
    if not root:
        raise KeyError(name)
    return _with_lists(root)


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(one) for key, one in value.items()}
    if [*inner] == [str(number) for number in range(len(inner))]:
        return [*inner.values()]
    return inner


def _label(
    explode: bool,  # noqa: FBT001 - as the library calls it
    name: str,
    kind: str,
    location: Mapping[str, Any],
) -> Any:
    """Read `label`; the library looks for the parameter under another name."""
    key = f".{name}*" if explode else f".{name}"
    return label_loads(explode, name, kind, {key: location[name]})


def _matrix(
    explode: bool,  # noqa: FBT001 - as the library calls it
    name: str,
    kind: str,
    location: Mapping[str, Any],
) -> Any:
    """Read `matrix`; the library looks for the parameter under another name."""
    key = f";{name}*" if explode else f";{name}"
    return matrix_loads(explode, name, kind, {key: location[name]})


def refusals(judge: OpenAPI, binding: OperationBinding, request: RestRequest) -> list[str]:
    """Return why a request is refused; empty if it is accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = judge.iter_request_errors(_Request(request, binding.path.partition("?")[0]))
        return [said for error in errors for said in _said(error)]


def _said(error: BaseException) -> Iterator[str]:
    cause = error.__cause__
    inner = getattr(cause, "schema_errors", None)
    if inner:
        for one in inner:
            where = "/".join(map(str, one.path))
            yield f"{str(error)[:60]}: {where}: {one.message[-200:]} ({one.validator})"
    else:
        yield f"{error}: {cause!r}"[:400]


def _alone(
    document: Mapping[str, Any], binding: OperationBinding, described: str
) -> dict[str, Any]:
    """Return a description of one operation, without servers and security."""
    path, method = binding.path.partition("?")[0], binding.method.lower()
    item = dict(_followed(document, document["paths"][described]))
    item.pop("servers", None)
    operation = {
        name: value if name == "responses" else _readable(value)
        for name, value in item[method].items()
        if name not in {"security", "servers", "callbacks"}
    }
    judged_item = {"parameters": item.get("parameters", []), method: operation}
    _prepare(document, judged_item)
    whole: dict[str, Any] = {
        "openapi": document["openapi"],
        "info": {"title": "", "version": ""},
        "servers": [{"url": HOST}],
        # The other operations are here for what refers to their parts.
        "paths": {path: {**item, **judged_item}},
    }
    known: set[str] = set()
    waiting: list[Any] = [item.get("parameters"), {**operation, "responses": None}, judged_item]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            for reference in _references(node):
                if reference not in known:
                    known.add(reference)
                    waiting.append(_put(whole, document, reference))
            waiting += node.values()
    return whole


def _references(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node.get("$ref"), str):
        yield node["$ref"]
    discriminator = node.get("discriminator")
    mapping = discriminator.get("mapping") if isinstance(discriminator, dict) else None
    if isinstance(mapping, dict):
        yield from (one for one in mapping.values() if one.startswith("#/"))


def _put(whole: dict[str, Any], document: Mapping[str, Any], reference: str) -> Any:
    """Put what is referred to where it is in the whole description, and return it."""
    try:
        value = _at(document, reference)
        match _steps(reference):
            case ["components", kind, name, *_]:
                kept = whole.setdefault("components", {}).setdefault(kind, {})
                kept[name] = _readable(document["components"][kind][name])
            case [kind, name, *_]:
                whole.setdefault(kind, {}).setdefault(name, document[kind][name])
            case _:
                pass
    except KeyError:
        # It refers to nothing.
        return None
    return value


def _prepare(document: Mapping[str, Any], item: dict[str, Any]) -> None:
    """Say in the library's terms what a description says of one path.

    Parameters that the specification has ignored, and those of security schemes, are left out:
    the gateway sends them. `readOnly` is about properties, but the library refuses parameters too.
    Texts of a multipart body are no numbers to the library, unless an encoding says so.
    """
    for owner in (item, *(item[name] for name in METHODS & item.keys())):
        listed = [_followed(document, one) for one in owner.get("parameters", ())]
        keys = _keys(document)
        owner["parameters"] = [
            _writable(document, one)
            for one in listed
            if (one.get("in"), one.get("name")) not in keys
            and not (one.get("in") == "header" and str(one.get("name")).lower() in IGNORED)
            and isinstance(one.get("name"), str)
        ]
        body = _followed(document, owner.get("requestBody", {}))
        media = body.get("content", {}).get("multipart/form-data", {})
        numbers = {
            name: {"style": "form"}
            for name, one in _properties(document, media.get("schema", {})).items()
            if one.get("type") in {"integer", "number", "boolean"}
        }
        if numbers:
            encoding = {**numbers, **media.get("encoding", {})}
            content = {**body["content"], "multipart/form-data": {**media, "encoding": encoding}}
            owner["requestBody"] = {**body, "content": content}


def _keys(document: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    schemes = document.get("components", {}).get("securitySchemes", {}).values()
    found = [_followed(document, scheme) for scheme in schemes]
    return {(one.get("in"), one.get("name")) for one in found if one.get("type") == "apiKey"}


def _writable(document: Mapping[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    if "schema" not in parameter:
        return parameter
    if parameter["in"] == "query":
        # Whether an empty text is allowed is for the schema to say.
        parameter = {**parameter, "allowEmptyValue": True}
    return {**parameter, "schema": _without_read_only(document, parameter["schema"])}


def _without_read_only(document: Mapping[str, Any], schema: Any) -> Any:
    whole = _followed(document, schema)
    found = {name: one for name, one in whole.items() if name != "readOnly"}
    for kind in ("allOf", "anyOf", "oneOf"):
        if kind in found:
            found[kind] = [_without_read_only(document, one) for one in found[kind]]
    return found if found != whole else schema


def _properties(document: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    whole = _followed(document, schema)
    found = dict(whole.get("properties", {}))
    for part in whole.get("allOf", ()):
        found |= _properties(document, part)
    return {name: _followed(document, one) for name, one in found.items()}


def _followed(document: Mapping[str, Any], value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        value = _at(document, value["$ref"])
    return value


def _readable(value: Any) -> Any:
    """Return a value without the patterns that Python's regular expressions have not."""
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _readable(one)
        for name, one in value.items()
        if name != "pattern" or not isinstance(one, str) or _is_pattern(one)
    }


def _is_pattern(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _steps(reference: str) -> list[str]:
    parts = unquote(reference).partition("#")[2].split("/")[1:]
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]


def _at(document: Mapping[str, Any], reference: str) -> Any:
    found: Any = document
    for step in _steps(reference):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found
