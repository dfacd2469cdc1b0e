"""What an OpenAPI description says, in one form for all versions of the format.

Whatever a description holds: what cannot be read is a problem with its place, and costs only
itself.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard, cast
from urllib.parse import urljoin, urlsplit

from registry.core.json import JsonObject, JsonValue, members
from registry.core.text import visible
from registry.openapi.binding import Location, SecurityScheme, Style
from registry.openapi.errors import DescriptionError
from registry.openapi.references import Place, References, below, shown

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
MAX_OPERATIONS = 10_000
"""The largest known descriptions have 4,000."""

MAX_PROBLEMS = 1_000
ROOT = Place("", "")
URL_PATH = re.compile(r"[?#]")
"""Ends the path of a URL. Some descriptions tell operations of one path apart by what follows: by
parameters of the query that are always the same, or by a fragment, which is not sent."""

STYLES: Mapping[Location, tuple[Style, ...]] = {
    Location.PATH: ("simple", "label", "matrix"),
    Location.QUERY: ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    Location.HEADER: ("simple",),
    Location.COOKIE: ("form", "cookie"),
    Location.QUERY_STRING: ("form",),
}
"""Styles of each location, the default one first."""

COLLECTION_FORMATS: Mapping[str, tuple[Style, bool]] = {
    "csv": ("form", False),
    "ssv": ("spaceDelimited", False),
    "pipes": ("pipeDelimited", False),
    "multi": ("form", True),
}
"""Formats of arrays in Swagger 2.0, as style and explode."""

JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"
MULTIPART_TYPE = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be taken.

    Attributes:
        place: JSON Pointer into the description, after the URL of another file.
        reason: Completes a sentence that begins with the place.
    """

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class SchemaAt:
    """A schema as it is described, and where."""

    schema: JsonValue
    place: Place


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation.

    Attributes:
        schema: None if it has none.
        content_type: How it is written, instead of by *style*.
    """

    name: str
    location: Location
    required: bool
    style: Style
    explode: bool
    allow_reserved: bool
    schema: SchemaAt | None
    content_type: str | None
    description: str | None
    is_deprecated: bool


@dataclass(frozen=True, slots=True)
class Media:
    """One content type of a body or of an answer.

    Attributes:
        encoding: Of the properties of forms.
    """

    content_type: str
    schema: SchemaAt | None
    encoding: Mapping[str, JsonObject] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """The body of requests."""

    media: tuple[Media, ...]
    required: bool
    description: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        method: In capitals.
        path: As it is described; what is sent of it is `target`.
        answers: Content types of its successful answer.
        servers: URLs, if it has others than the API.
        security: Alternatives of schemes with their scopes.
        is_public: Whether it says itself that it needs none (`security: []`).
    """

    method: str
    path: str
    place: Place
    operation_id: str | None
    tags: tuple[str, ...]
    summary: str | None
    description: str | None
    is_deprecated: bool
    parameters: tuple[Parameter, ...]
    body: Body | None
    answers: tuple[Media, ...]
    servers: tuple[str, ...]
    security: tuple[Mapping[str, tuple[str, ...]], ...]
    is_public: bool

    @property
    def external_id(self) -> str:
        """Return what the description calls it."""
        return self.operation_id or f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        """Return the path without a fragment; its query holds what is the same in each call."""
        path, _, query = self.path.partition("#")[0].partition("?")
        pairs = "&".join(pair for pair in query.split("&") if "{" not in pair)
        return f"{path}?{pairs}" if pairs else path


@dataclass(frozen=True, slots=True)
class Description:
    """A description.

    Attributes:
        openapi: The version of the format.
        servers: Absolute URLs, with the defaults of their variables.
        references: Resolves the references of its schemas.
        hash: SHA-256 (hexadecimal) of its canonical JSON.
    """

    openapi: str
    title: str | None
    version: str | None
    description: str | None
    servers: tuple[str, ...]
    security_schemes: Mapping[str, SecurityScheme]
    operations: tuple[Operation, ...]
    problems: tuple[Problem, ...]
    references: References
    hash: str

    @property
    def is_swagger(self) -> bool:
        """Whether it is of version 2.0."""
        return self.openapi.startswith("2")

    @property
    def has_json_schemas(self) -> bool:
        """Whether its schemas are of JSON Schema 2020-12: since 3.1."""
        return not self.openapi.startswith(("2", "3.0"))


def describe(
    document: JsonObject,
    *,
    url: str | None,
    files: Mapping[str, JsonObject],
    bases: Mapping[str, str] | None = None,
    given_as: str | None = None,
) -> Description:
    """Read a parsed description.

    Args:
        document: The description.
        url: Where it was fetched, if it was; relative URLs are relative to it.
        files: The other files that it names, by their URLs.
        bases: Where those of them were that were elsewhere.
        given_as: In place of *url*, what references in it are relative to, if it was given with
            other files. Servers are not relative to that.

    Raises:
        DescriptionError: It is no OpenAPI description.
    """
    version = _version(document)
    references = References(document, given_as or url, files, bases)
    return _Reader(document, version, url, references).read()


def check(document: JsonObject, *, url: str | None = None) -> tuple[str, ...]:
    """Return the servers that a parsed description names, without reading its operations.

    Raises:
        DescriptionError: It is no OpenAPI description.
    """
    version = _version(document)
    return _Reader(document, version, url, References(document, url, {})).servers()


def _version(document: JsonObject) -> str:
    version = document.get("openapi") or document.get("swagger")
    if isinstance(version, float | int):
        version = str(float(version))
    if not isinstance(version, str) or not version.startswith(("2.", "3.")):
        place = next((f"/{name}" for name in ("openapi", "swagger") if name in document), "")
        raise DescriptionError(place, "is neither OpenAPI 3 nor Swagger 2.0")
    if not isinstance(document.get("paths", {}), dict):
        raise DescriptionError("/paths", "has paths that are no object")
    return version


LEFT_OUT = ", so its operation is left out"
"""Ends the reason of a problem without whose cause an operation would be another one."""


class _UnusableOperationError(Exception):
    """An operation cannot be called as it is described. Its problem is noted before."""


class _Reader:
    def __init__(
        self, document: JsonObject, version: str, url: str | None, references: References
    ) -> None:
        self._document = document
        self._version = version
        self._url = url
        self._references = references
        self._is_swagger = version.startswith("2")
        self._problems: list[Problem] = []

    def servers(self) -> tuple[str, ...]:
        """Return the servers of the API."""
        return self._api_servers()

    def read(self) -> Description:
        info = members(self._document.get("info"))
        # Before operations, which are told apart by them.
        servers = self._api_servers()
        text = json.dumps(self._document, sort_keys=True, separators=(",", ":"))
        operations = tuple(self._operations())
        return Description(
            openapi=self._version,
            title=_text(info.get("title")),
            version=_text(info.get("version")),
            description=_text(info.get("description")),
            servers=servers,
            security_schemes=self._security_schemes(),
            operations=operations,
            problems=tuple(self._problems),
            references=self._references,
            hash=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        )

    def _problem(self, place: Place, reason: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(shown(place), reason))

    def _object(self, value: JsonValue, place: Place) -> tuple[JsonObject, Place] | None:
        """Follow a reference to an object; None with a problem if there is none."""
        found = self._references.resolved(value, place)
        if found is None:
            self._problem(place, "refers to nothing")
            return None
        if not isinstance(found.value, dict):
            self._problem(place, "is no object")
            return None
        if found.place != place and isinstance(value, dict):
            beside = {name: one for name, one in value.items() if name != "$ref"}
            return {**found.value, **beside}, found.place
        return found.value, found.place

    def _required_object(self, value: JsonValue, place: Place) -> tuple[JsonObject, Place]:
        """Follow a reference to a part without which an operation cannot be called.

        Raises:
            _UnusableOperationError: There is none; the problem is noted.
        """
        found = self._references.resolved(value, place)
        if found is None or not isinstance(found.value, dict):
            reason = "refers to nothing" if found is None else "is no object"
            self._problem(place, f"{reason}{LEFT_OUT}")
            raise _UnusableOperationError
        resolved = self._object(value, place)
        assert resolved is not None  # noqa: S101 - looked at above
        return resolved

    def _api_servers(self) -> tuple[str, ...]:
        if not self._is_swagger:
            stored = self._document.get("servers")
            return self._servers(stored or [{"url": "/"}])
        host, base = self._document.get("host"), self._document.get("basePath")
        path = base if isinstance(base, str) else "/"
        if not isinstance(host, str):
            return self._servers([{"url": path}])
        schemes = self._document.get("schemes")
        known = [one for one in schemes if one in {"https", "http"}] if _is_list(schemes) else []
        if not known:
            known = [urlsplit(self._url).scheme if self._url else "https"]
        best = "https" if "https" in known else str(known[0])
        return self._servers([{"url": f"{best}://{host}{path}"}])

    def _servers(self, stored: JsonValue) -> tuple[str, ...]:
        found: list[str] = []
        for one in stored if isinstance(stored, list) else []:
            url = members(one).get("url")
            if not isinstance(url, str):
                continue
            for name, variable in members(members(one).get("variables")).items():
                default = members(variable).get("default")
                if isinstance(default, str | int | float):
                    url = url.replace("{" + name + "}", str(default))
            try:
                absolute = urljoin(self._url or "", url)
                parts = urlsplit(absolute)
            except ValueError:
                continue
            if parts.scheme in {"http", "https"} and parts.netloc and "{" not in absolute:
                found.append(absolute.rstrip("/") if parts.path == "/" else absolute)
        return tuple(found)

    def _security_schemes(self) -> dict[str, SecurityScheme]:
        if self._is_swagger:
            place, stored = below(ROOT, "securityDefinitions"), self._document
            schemes = members(stored.get("securityDefinitions"))
        else:
            place = below(ROOT, "components", "securitySchemes")
            schemes = members(members(self._document.get("components")).get("securitySchemes"))
        found: dict[str, SecurityScheme] = {}
        for name, value in schemes.items():
            scheme = self._object(value, below(place, name))
            if scheme is not None:
                found[name] = _security_scheme(scheme[0])
        return found

    def _operations(self) -> Iterator[Operation]:
        paths = self._document.get("paths")
        count = 0
        for path, item in members(paths).items():
            place = below(ROOT, "paths", path)
            if not path.startswith("/"):
                if not path.startswith("x-"):
                    self._problem(place, "does not begin with a slash")
                continue
            found = self._object(item, place)
            if found is None:
                continue
            shared, at = found
            for method, value, where in self._methods(shared, at):
                count += 1
                if count > MAX_OPERATIONS:
                    self._problem(place, f"is beyond the first {MAX_OPERATIONS:,} operations")
                    return
                operation = self._operation(path, method, value, where, shared, at)
                if operation is not None:
                    yield operation

    def _methods(self, item: JsonObject, at: Place) -> Iterator[tuple[str, JsonValue, Place]]:
        for method in METHODS:
            if method in item:
                yield method.upper(), item[method], below(at, method)
        for method, value in members(item.get("additionalOperations")).items():
            if method.isascii() and method.isalpha():
                yield method.upper(), value, below(at, "additionalOperations", method)

    def _operation(
        self,
        path: str,
        method: str,
        value: JsonValue,
        place: Place,
        shared: JsonObject,
        shared_at: Place,
    ) -> Operation | None:
        if not isinstance(value, dict):
            self._problem(place, "is no object")
            return None
        if any(part in {".", ".."} for part in URL_PATH.split(path)[0].split("/")):
            self._problem(place, "has a path that is not one of a URL")
            return None
        try:
            parameters = self._parameters(value, place, shared, shared_at)
            body = self._body(value, place, parameters)
            servers = self._own_servers(value, place, shared, shared_at)
        except _UnusableOperationError:
            # Its problem is noted at the place of the part that cannot be read.
            return None
        identifier = value.get("operationId")
        tags = value.get("tags")
        return Operation(
            method=method,
            path=path,
            place=place,
            operation_id=identifier if isinstance(identifier, str) and identifier else None,
            tags=tuple(one for one in tags if isinstance(one, str)) if _is_list(tags) else (),
            summary=_text(value.get("summary")) or _text(shared.get("summary")),
            description=_text(value.get("description")) or _text(shared.get("description")),
            is_deprecated=value.get("deprecated") is True,
            parameters=tuple(one for one in parameters if isinstance(one, Parameter)),
            body=body,
            answers=self._answers(value, place),
            servers=servers,
            security=self._security(value),
            is_public=_is_public(value),
        )

    def _own_servers(
        self, operation: JsonObject, place: Place, shared: JsonObject, shared_at: Place
    ) -> tuple[str, ...]:
        """Return the servers that an operation has instead of the API's."""
        for owner, at in ((operation, place), (shared, shared_at)):
            stored = owner.get("servers")
            if not stored:
                continue
            found = self._servers(stored)
            if not found:
                # Elsewhere it must not go: that is not where it is described to be.
                self._problem(below(at, "servers"), f"names no usable URL{LEFT_OUT}")
                raise _UnusableOperationError
            return found
        return ()

    def _security(self, operation: JsonObject) -> tuple[Mapping[str, tuple[str, ...]], ...]:
        stored = operation.get("security")
        if stored is None:
            stored = self._document.get("security")
        return tuple(
            {
                name: tuple(str(scope) for scope in scopes) if isinstance(scopes, list) else ()
                for name, scopes in members(one).items()
            }
            for one in (stored if isinstance(stored, list) else [])
        )

    def _parameters(
        self, operation: JsonObject, place: Place, shared: JsonObject, shared_at: Place
    ) -> list["Parameter | _FormPart"]:
        found: dict[tuple[str, str], Parameter | _FormPart] = {}
        for owner, at in ((shared, shared_at), (operation, place)):
            listed = owner.get("parameters")
            for index, value in enumerate(listed if isinstance(listed, list) else []):
                where = below(at, "parameters", index)
                parameter = self._parameter(*self._required_object(value, where))
                if parameter is not None:
                    key = "body" if isinstance(parameter, _FormPart) else parameter.location
                    found[parameter.name, key] = parameter
        return list(found.values())

    def _parameter(self, value: JsonObject, place: Place) -> "Parameter | _FormPart | None":
        name, stored = value.get("name"), value.get("in")
        if not isinstance(name, str) or not name:
            self._without(value, place, "has no name")
            return None
        if self._is_swagger and stored in {"body", "formData"}:
            return _FormPart(name, value, place, is_body=stored == "body")
        location = next((one for one in Location if one.value == stored), None)
        if location is None:
            self._without(value, place, "is sent in an unknown place")
            return None
        style, explode = self._style(value, location)
        schema, content_type = self._parameter_schema(value, place)
        return Parameter(
            name=name,
            location=location,
            required=value.get("required") is True or location is Location.PATH,
            style=style,
            explode=explode,
            allow_reserved=value.get("allowReserved") is True,
            schema=schema,
            content_type=content_type,
            description=_text(value.get("description")),
            is_deprecated=value.get("deprecated") is True,
        )

    def _without(self, parameter: JsonObject, place: Place, reason: str) -> None:
        """Note a parameter that cannot be sent.

        Raises:
            _UnusableOperationError: It is required.
        """
        if parameter.get("required") is not True:
            self._problem(place, reason)
            return
        self._problem(place, f"{reason}{LEFT_OUT}")
        raise _UnusableOperationError

    def _style(self, value: JsonObject, location: Location) -> tuple[Style, bool]:
        known = STYLES[location]
        if self._is_swagger:
            stored = value.get("collectionFormat", "csv")
            style, explode = COLLECTION_FORMATS.get(str(stored), ("form", False))
            return (style if style in known else known[0]), explode and style in known
        said = value.get("style")
        chosen = next((one for one in known if one == said), known[0])
        stated = value.get("explode")
        return chosen, stated if isinstance(stated, bool) else chosen in {"form", "cookie"}

    def _parameter_schema(
        self, value: JsonObject, place: Place
    ) -> tuple[SchemaAt | None, str | None]:
        content = members(value.get("content"))
        for content_type, media in content.items():
            schema = members(media).get("schema")
            at = below(place, "content", content_type, "schema")
            return (None if schema is None else SchemaAt(schema, at)), content_type
        if self._is_swagger:
            return SchemaAt(_swagger_schema(value), place), None
        schema = value.get("schema")
        return (None if schema is None else SchemaAt(schema, below(place, "schema"))), None

    def _body(
        self, operation: JsonObject, place: Place, parameters: "list[Parameter | _FormPart]"
    ) -> Body | None:
        if self._is_swagger:
            parts = [one for one in parameters if isinstance(one, _FormPart)]
            return self._swagger_body(operation, parts)
        stored = operation.get("requestBody")
        if stored is None:
            return None
        body, at = self._required_object(stored, below(place, "requestBody"))
        content = body.get("content")
        media = self._media(content, below(at, "content"))
        is_required = body.get("required") is True
        if not media:
            if is_required and content:
                self._problem(below(at, "content"), f"names no usable type{LEFT_OUT}")
                raise _UnusableOperationError
            return None
        return Body(media, is_required, _text(body.get("description")))

    def _media(self, content: JsonValue, at: Place) -> tuple[Media, ...]:
        found: list[Media] = []
        for content_type, value in members(content).items():
            resolved = self._object(value, below(at, content_type))
            if resolved is None:
                continue
            media, where = resolved
            schema = media.get("schema")
            encoding = {
                name: one
                for name, one in members(media.get("encoding")).items()
                if isinstance(one, dict)
            }
            located = None if schema is None else SchemaAt(schema, below(where, "schema"))
            found.append(Media(content_type, located, encoding))
        return tuple(found)

    def _swagger_body(self, operation: JsonObject, parts: "list[_FormPart]") -> Body | None:
        if not parts:
            return None
        stored = operation.get("consumes") or self._document.get("consumes")
        types = [one for one in stored if isinstance(one, str)] if _is_list(stored) else []
        whole = next((one for one in parts if one.is_body), None)
        if whole is not None:
            schema = SchemaAt(whole.value.get("schema") or {}, below(whole.place, "schema"))
            media = tuple(Media(one, schema) for one in types or [JSON_TYPE])
            required = whole.value.get("required") is True
            return Body(media, required, _text(whole.value.get("description")))
        properties: JsonObject = {}
        encoding: dict[str, JsonObject] = {}
        has_files = False
        for part in parts:
            schema_of_part = _swagger_schema(part.value)
            has_files = has_files or schema_of_part.get("format") == "binary"
            description = part.value.get("description")
            if description is not None:
                schema_of_part["description"] = description
            properties[part.name] = schema_of_part
            said = part.value.get("collectionFormat", "csv")
            style, explode = COLLECTION_FORMATS.get(str(said), ("form", False))
            if part.value.get("type") == "array":
                encoding[part.name] = {"style": style, "explode": explode}
        needed = [part.name for part in parts if part.value.get("required") is True]
        schema_of_all: JsonObject = {"type": "object", "properties": properties}
        if needed:
            schema_of_all["required"] = cast("JsonValue", needed)
        is_multipart = has_files or (MULTIPART_TYPE in types and FORM_TYPE not in types)
        content_type = MULTIPART_TYPE if is_multipart else FORM_TYPE
        located = SchemaAt(schema_of_all, parts[0].place)
        return Body((Media(content_type, located, encoding),), bool(needed), None)

    def _answers(self, operation: JsonObject, place: Place) -> tuple[Media, ...]:
        responses = members(operation.get("responses"))
        statuses = sorted(name for name in responses if name.startswith("2"))
        if not statuses and "default" in responses:
            statuses = ["default"]
        for status in statuses:
            found = self._object(responses[status], below(place, "responses", status))
            if found is None:
                continue
            answer, at = found
            if self._is_swagger:
                media = self._swagger_answer(operation, answer, at)
            else:
                media = self._media(answer.get("content"), below(at, "content"))
            if media:
                return media
        return ()

    def _swagger_answer(
        self, operation: JsonObject, answer: JsonObject, at: Place
    ) -> tuple[Media, ...]:
        stored = operation.get("produces") or self._document.get("produces")
        types = [one for one in stored if isinstance(one, str)] if _is_list(stored) else []
        schema = answer.get("schema")
        if schema is None:
            return ()
        located = SchemaAt(schema, below(at, "schema"))
        return tuple(Media(one, located) for one in types or [JSON_TYPE])


@dataclass(frozen=True, slots=True)
class _FormPart:
    """A parameter of Swagger 2.0 that is sent in the body."""

    name: str
    value: JsonObject
    place: Place
    is_body: bool


def _swagger_schema(parameter: JsonObject) -> JsonObject:
    """Return the schema of a parameter, whose members are beside its others."""
    beside = {"name", "in", "description", "required", "collectionFormat", "allowEmptyValue"}
    schema = {name: value for name, value in parameter.items() if name not in beside}
    if schema.get("type") == "file":
        schema |= {"type": "string", "format": "binary"}
    return schema


def _is_public(operation: JsonObject) -> bool:
    """Whether an operation itself says that it needs no credentials.

    What the whole description says (`security: []` at its root) does not count: descriptions that
    leave security out look the same, and people who store a key know better.
    """
    stored = operation.get("security")
    return _is_list(stored) and all(one == {} for one in stored)


def _security_scheme(scheme: JsonObject) -> SecurityScheme:
    flows = members(scheme.get("flows"))
    if scheme.get("type") == "oauth2" and not flows:
        flow = {"accessCode": "authorizationCode", "application": "clientCredentials"}
        flows = {flow.get(str(scheme.get("flow")), str(scheme.get("flow"))): {**scheme}}
    code = members(flows.get("authorizationCode"))
    credentials = members(flows.get("clientCredentials"))
    scopes = sorted(
        {name for flow in flows.values() for name in members(members(flow).get("scopes"))}
    )
    match str(scheme.get("type")), str(scheme.get("scheme")).lower():
        case "apiKey", _:
            location = next((one for one in Location if one.value == scheme.get("in")), None)
            name = _text(scheme.get("name"))
            return SecurityScheme(kind="apiKey", name=name, location=location)
        case ("basic", _) | ("http", "basic"):
            return SecurityScheme(kind="basic")
        case "http", "bearer":
            return SecurityScheme(kind="bearer")
        case "oauth2", _:
            return SecurityScheme(
                kind="oauth2",
                token_url=_text(credentials.get("tokenUrl")) or _text(code.get("tokenUrl")),
                authorization_url=_text(code.get("authorizationUrl")),
                metadata_url=_text(scheme.get("oauth2MetadataUrl")),
                is_unattended=bool(_text(credentials.get("tokenUrl"))),
                scopes=tuple(scopes),
            )
        case "openIdConnect", _:
            url = _text(scheme.get("openIdConnectUrl"))
            return SecurityScheme(kind="openIdConnect", metadata_url=url)
        case _:
            return SecurityScheme(kind="other")


def _text(value: object) -> str | None:
    return visible(value) if isinstance(value, str) and value.strip() else None


def _is_list(value: JsonValue) -> "TypeGuard[list[JsonValue]]":
    return isinstance(value, list)
