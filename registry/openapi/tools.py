"""Tools of operations: names, schemas, annotations, and the bindings that calls are made with."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from pydantic import BaseModel, ConfigDict

from registry.core.definitions import MAX_DEPTH
from registry.core.json import JsonObject, JsonValue, members, nesting
from registry.core.schema_bounds import excess
from registry.core.text import visible
from registry.openapi.binding import (
    HEADER_NAME,
    NOT_ARGUMENTS,
    BodyBinding,
    Location,
    OperationBinding,
    ParameterBinding,
    PartBinding,
    Style,
    with_binding,
)
from registry.openapi.description import (
    FORM_TYPE,
    JSON_TYPE,
    MULTIPART_TYPE,
    URL_PATH,
    Body,
    Description,
    Media,
    Operation,
    Parameter,
    Problem,
    SchemaAt,
)
from registry.openapi.references import Place, below, shown
from registry.openapi.schemas import (
    FILE_SCHEMA,
    SchemaWriter,
    is_binary,
    is_object,
    size_of,
)

MAX_NAME_CHARACTERS: Final = 64
MAX_DESCRIPTION_CHARACTERS: Final = 4_000
MAX_TITLE_CHARACTERS: Final = 200
MAX_INPUT_BYTES: Final = 64 * 1024
"""Of an input schema; larger ones fill the context of a model. Beyond it, fewer definitions are
described."""

MAX_OUTPUT_BYTES: Final = 16 * 1024
"""Of an output schema; larger ones are left out, since results are understood without."""

DEFINITIONS_TRIED: Final = (400, 60, 20, 6, 0)
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE"})
NEGOTIATED: Final = frozenset({"accept", "accept-encoding", "content-type"})
"""Headers that follow from the operation, of which nobody needs to be told that they are sent."""

IDEMPOTENCY_KEY: Final = "idempotency-key"
NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
ARGUMENT: Final = re.compile(r"[^A-Za-z0-9_.-]+")
TEMPLATE: Final = re.compile(r"\{([^{}]*)\}")


class Rule(BaseModel):
    """Which operations a rule is about: those to which all applies that it says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tag: str | None = None
    path: str | None = None
    method: str | None = None
    id: str | None = None

    def fits(self, operation: Operation) -> bool:
        """Whether it is about an operation."""
        return (
            (self.tag is None or self.tag in operation.tags)
            and (self.path is None or _matches(self.path, operation.path))
            and (self.method is None or self.method.upper() == operation.method)
            and (self.id is None or self.id == operation.operation_id)
        )


def _matches(pattern: str, path: str) -> bool:
    """Whether a path is as a pattern says, in which only `*` is special: any characters, or none.

    Braces, brackets and `?` are parts of paths. Takes linear time.
    """
    first, *others = pattern.split("*")
    if not others:
        return pattern == path
    last = others.pop()
    start, end = len(first), len(path) - len(last)
    if end < start or not (path.startswith(first) and path.endswith(last)):
        return False
    for piece in others:
        found = path.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


@dataclass(frozen=True, slots=True)
class Selection:
    """Which operations become tools.

    Attributes:
        include: One of these rules must be about it; all operations if there are none.
        exclude: None of these may be.
    """

    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()

    def holds(self, operation: Operation) -> bool:
        """Whether an operation becomes a tool."""
        if any(rule.fits(operation) for rule in self.exclude):
            return False
        return not self.include or any(rule.fits(operation) for rule in self.include)


@dataclass(frozen=True, slots=True)
class ConvertedTool:
    """A tool of an operation.

    Attributes:
        external_id: What the description calls the operation.
        definition: The tool object, with its binding.
        base_url: Where it is called, if that is not where the API is.
        place: Of the operation in the description, as it is told to people.
    """

    name: str
    external_id: str
    tags: tuple[str, ...]
    definition: JsonObject
    base_url: str | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """The tools of a description.

    Attributes:
        skipped: How many operations were not selected.
        problems: What could not be taken.
    """

    tools: tuple[ConvertedTool, ...]
    skipped: int
    problems: tuple[Problem, ...]


class _UnusableError(Exception):
    """Why an operation becomes no tool."""


def tools_of(description: Description, selection: Selection) -> Converted:
    """Return the tools of the selected operations, in the order of the description."""
    names = tool_names(description.operations)
    tools: list[ConvertedTool] = []
    problems: list[Problem] = []
    skipped = 0
    dropped: dict[str, list[str]] = {}
    for operation, name in zip(description.operations, names, strict=True):
        if not selection.holds(operation):
            skipped += 1
            continue
        try:
            tool = _Tool(description, operation, name)
            tools.append(tool.converted())
            problems += tool.problems
            for header in tool.not_arguments:
                dropped.setdefault(header, []).append(shown(operation.place))
        except _UnusableError as exc:
            problems.append(Problem(shown(operation.place), str(exc)))
        except (RecursionError, ValueError, TypeError, KeyError, AttributeError):
            # One operation that nobody thought of must not cost the others.
            problems.append(Problem(shown(operation.place), "cannot be understood"))
    problems += [_not_an_argument(header, places) for header, places in dropped.items()]
    return Converted(tuple(tools), skipped, tuple(problems))


def _not_an_argument(header: str, places: Sequence[str]) -> Problem:
    """Return a note of a described header that callers cannot set: one for all operations."""
    if header.lower() in {"authorization", "proxy-authorization", "cookie"}:
        why = "credentials are sent as they are stored"
    elif HEADER_NAME.fullmatch(header):
        why = "the connection sets it"
    else:
        why = "no header can have that name"
    others = f" (and of {len(places) - 1:,} other operations)" if len(places) > 1 else ""
    return Problem(
        places[0], f"describes the header {visible(header)}{others}, no argument: {why}"
    )


def tool_names(operations: Sequence[Operation]) -> list[str]:
    """Return a name for each operation, which others being added or removed do not change.

    It is the operation's id if that can be a name, or a name is made of it, or of method and
    path; wherever two would be the same, those that are not ids get a digest of method and path.
    """
    wanted = [operation.operation_id or _of_path(operation) for operation in operations]
    made = [NAME.sub("_", one).strip("_") or "operation" for one in wanted]
    counts = Counter(name.lower() for name in made)
    names: list[str] = []
    known: set[str] = set()
    for operation, want, name in zip(operations, wanted, made, strict=True):
        is_id = want == operation.operation_id == name
        is_first = is_id and name not in known
        if len(name) > MAX_NAME_CHARACTERS or (counts[name.lower()] > 1 and not is_first):
            key = f"{operation.method} {operation.path}"
            digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8]
            names.append(f"{name[: MAX_NAME_CHARACTERS - 9].rstrip('_')}_{digest}")
        else:
            names.append(name)
        known.add(names[-1])
    return names


def _of_path(operation: Operation) -> str:
    path = TEMPLATE.sub(r"by_\1", operation.path)
    return f"{operation.method.lower()}_{path.strip('/')}"


class _Tool:
    """Makes one tool."""

    def __init__(self, description: Description, operation: Operation, name: str) -> None:
        self._description = description
        self._operation = operation
        self._name = name
        self.problems: list[Problem] = []
        self.not_arguments: list[str] = []

    def converted(self) -> ConvertedTool:
        operation = self._operation
        schema, parameters, body, key = self._bounded_input()
        output, wraps = self._output()
        answers = [media.content_type for media in operation.answers]
        binding = OperationBinding(
            method=operation.method,
            path=operation.target,
            base_url=self._own_server(),
            parameters=tuple(parameters),
            body=body,
            security=operation.security,
            is_public=operation.is_public,
            accepts=tuple(sorted(answers, key=lambda one: not _is_json(one))),
            idempotency_key=key,
            wraps_result=wraps,
        )
        definition: JsonObject = {"name": self._name}
        if operation.summary is not None:
            definition["title"] = _cut(operation.summary.strip(), MAX_TITLE_CHARACTERS)
        definition["description"] = self._told()
        definition["inputSchema"] = schema
        if output is not None:
            definition["outputSchema"] = output
        definition["annotations"] = self._annotations()
        return ConvertedTool(
            self._name,
            visible(operation.external_id),
            operation.tags,
            with_binding(definition, binding),
            binding.base_url,
            shown(operation.place),
        )

    def _told(self) -> str:
        operation = self._operation
        texts = [operation.summary, operation.description]
        told = "\n\n".join(dict.fromkeys(text.strip() for text in texts if text))
        told = told or visible(f"{operation.method} {operation.path}")
        if operation.is_deprecated:
            told = f"Deprecated. {told}"
        return _cut(told, MAX_DESCRIPTION_CHARACTERS)

    def _annotations(self) -> JsonObject:
        method = self._operation.method
        if method in SAFE:
            return {"readOnlyHint": True}
        if method == "DELETE":
            return {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True}
        if method == "PUT":
            return {"readOnlyHint": False, "idempotentHint": True}
        return {"readOnlyHint": False}

    def _own_server(self) -> str | None:
        own, shared = self._operation.servers, self._description.servers
        return own[0] if own and own[0] not in shared else None

    def _bounded_input(
        self,
    ) -> tuple[JsonObject, list[ParameterBinding], BodyBinding | None, str | None]:
        """Return the input, with as many definitions as fit into the bounds."""
        for most in DEFINITIONS_TRIED:
            writer = self._writer(is_input=True, most=most)
            made = _Input(self._description, self._operation, writer)
            schema = made.schema()
            if not writer.is_over and _fits(schema, MAX_INPUT_BYTES):
                self._note(writer.problems)
                self.not_arguments = made.not_arguments
                return schema, made.parameters, made.body, made.idempotency_key
        raise _UnusableError("has an input that is too large")

    def _output(self) -> tuple[JsonObject | None, bool]:
        media = next((one for one in self._operation.answers if _is_json(one.content_type)), None)
        if media is None or media.schema is None:
            return None, False
        writer = self._writer(is_input=False, most=DEFINITIONS_TRIED[0])
        written = writer.write(media.schema.schema, media.schema.place)
        target, _ = writer.resolved(media.schema)
        is_wrapped = not (is_object(target) and isinstance(written, dict))
        schema: JsonObject
        if is_wrapped:
            schema = {
                "type": "object",
                "properties": {"result": written},
                "required": ["result"],
            }
        else:
            schema = {**cast("JsonObject", written), "type": "object"}
        definitions = writer.definitions()
        if definitions:
            schema["$defs"] = definitions
        fits = not writer.is_over and _fits(schema, MAX_OUTPUT_BYTES)
        return (schema if fits else None), is_wrapped

    def _writer(self, *, is_input: bool, most: int) -> SchemaWriter:
        return SchemaWriter(
            self._description.references,
            is_input=is_input,
            has_json_schemas=self._description.has_json_schemas,
            most_definitions=most,
            most_bytes=MAX_INPUT_BYTES if is_input else MAX_OUTPUT_BYTES,
        )

    def _note(self, problems: Iterable[tuple[Place, str]]) -> None:
        self.problems += [Problem(shown(place), reason) for place, reason in problems]


class _Input:
    """The arguments of a tool, and how they are sent."""

    def __init__(
        self, description: Description, operation: Operation, writer: SchemaWriter
    ) -> None:
        self._description = description
        self._operation = operation
        self._writer = writer
        self._properties: JsonObject = {}
        self._required: list[str] = []
        self.parameters: list[ParameterBinding] = []
        self.body: BodyBinding | None = None
        self.idempotency_key: str | None = None
        self.not_arguments: list[str] = []

    def schema(self) -> JsonObject:
        for parameter in self._listed():
            self._add(parameter)
        if self._operation.body is not None:
            self.body = self._take_body(self._operation.body)
        schema: JsonObject = {"type": "object", "properties": self._properties}
        if self._required:
            schema["required"] = cast("JsonValue", self._required)
        if self.body is None or not self.body.is_open:
            schema["additionalProperties"] = False
        definitions = self._writer.definitions()
        if definitions:
            schema["$defs"] = definitions
        return schema

    def _listed(self) -> list[Parameter]:
        """Return the parameters that callers give, those of the path first."""
        path, *rest = URL_PATH.split(self._operation.path)
        named, queried = TEMPLATE.findall(path), TEMPLATE.findall("?".join(rest))
        secret = self._of_credentials()
        found = [
            parameter
            for parameter in (
                _in_query(one) if one.name in queried and one.name not in named else one
                for one in self._operation.parameters
            )
            if (parameter.location, parameter.name) not in secret
            and not self._is_no_argument(parameter)
            and (parameter.location is not Location.PATH or parameter.name in named)
        ]
        known = {one.name for one in found if one.location is Location.PATH}
        found += [_undescribed(name) for name in dict.fromkeys(named) if name not in known]
        order = list(Location)
        return sorted(found, key=lambda one: order.index(one.location))

    def _is_no_argument(self, parameter: Parameter) -> bool:
        """Whether a header is not a caller's to set; that it is described is noted."""
        if parameter.location is not Location.HEADER:
            return False
        name = parameter.name.lower()
        if name in NOT_ARGUMENTS:
            if name not in NEGOTIATED:
                self.not_arguments.append(parameter.name)
            return True
        if HEADER_NAME.fullmatch(parameter.name):
            return False
        self.not_arguments.append(parameter.name)
        return True

    def _of_credentials(self) -> set[tuple[Location, str]]:
        return {
            (scheme.location, scheme.name)
            for scheme in self._description.security_schemes.values()
            if scheme.kind == "apiKey" and scheme.location is not None and scheme.name is not None
        }

    def _add(self, parameter: Parameter) -> None:
        argument = self._free(parameter.name, parameter.location.value)
        is_key = (
            parameter.location is Location.HEADER and parameter.name.lower() == IDEMPOTENCY_KEY
        )
        if is_key:
            self.idempotency_key = parameter.name
        schema: JsonValue = {}
        if parameter.schema is not None:
            schema = self._writer.write(parameter.schema.schema, parameter.schema.place)
        elif parameter.content_type is None:
            schema = {"type": "string"}
        self._properties[argument] = _described(schema, parameter)
        if parameter.required and not is_key:
            self._required.append(argument)
        self.parameters.append(
            ParameterBinding(
                argument=argument,
                name=parameter.name,
                location=parameter.location,
                style=parameter.style,
                explode=parameter.explode,
                allow_reserved=parameter.allow_reserved,
                content_type=parameter.content_type,
                required=parameter.required and not is_key,
            )
        )

    def _free(self, name: str, kind: str) -> str:
        """Return the name of an argument: the name itself, or with what it is if that is taken."""
        base = ARGUMENT.sub("_", name)[:MAX_NAME_CHARACTERS].strip("_") or kind
        if base not in self._properties:
            return base
        room = MAX_NAME_CHARACTERS - len(kind) - 1
        other = f"{kind}_{base[:room]}" if kind == "body" else f"{base[:room]}_{kind}"
        number = 1
        found = other
        while found in self._properties:
            number += 1
            found = f"{other[: MAX_NAME_CHARACTERS - 4]}_{number}"
        return found

    def _take_body(self, body: Body) -> BodyBinding:
        media = min(body.media, key=lambda one: _preference(one.content_type))
        located = media.schema or SchemaAt({}, self._operation.place)
        target, place = self._writer.resolved(located)
        kind = _bare(media.content_type)
        is_form = kind in {FORM_TYPE, MULTIPART_TYPE}
        if not is_form and not _is_json(kind):
            return self._raw_body(body, media, target)
        if self._can_be_spread(target, body, is_form=is_form):
            return self._spread_body(body, media, target, place)
        argument = self._free("body", "body")
        schema = self._writer.write(located.schema, located.place)
        self._properties[argument] = _with_description(schema, body.description)
        if body.required:
            self._required.append(argument)
        return BodyBinding(
            content_type=media.content_type, argument=argument, required=body.required
        )

    def _can_be_spread(self, schema: JsonObject, body: Body, *, is_form: bool) -> bool:
        """Whether the properties of a body can be arguments of their own."""
        if is_form and is_object(schema):
            return True
        if not is_object(schema) or schema.get("nullable") is True:
            return False
        if any(
            name in schema
            for name in (
                *("allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "propertyNames"),
                *("minProperties", "maxProperties", "unevaluatedProperties", "dependentSchemas"),
                "discriminator",
            )
        ):
            return False
        if schema.get("additionalProperties", False) is not False:
            return False
        # With members that a body needs which need not be there, it is there or not as a whole.
        return bool(schema.get("properties")) and (body.required or not schema.get("required"))

    def _raw_body(self, body: Body, media: Media, schema: JsonObject) -> BodyBinding:
        argument = self._free("body", "body")
        is_text = _bare(media.content_type).startswith("text/") or "xml" in media.content_type
        # An API that describes base64 wants that, not what it stands for.
        is_base64 = schema.get("format") == "byte" or schema.get("contentEncoding") == "base64"
        is_file = not is_base64 and (not is_text or is_binary(schema))
        told = body.description or f"The body, as {media.content_type}."
        kind: JsonObject = dict(FILE_SCHEMA) if is_file else {"type": "string"}
        if is_base64:
            kind["contentEncoding"] = "base64"
        self._properties[argument] = {**kind, "description": told}
        if body.required:
            self._required.append(argument)
        return BodyBinding(
            content_type=media.content_type,
            argument=argument,
            is_file=is_file,
            required=body.required,
        )

    def _spread_body(
        self, body: Body, media: Media, schema: JsonObject, place: Place
    ) -> BodyBinding:
        is_form = _bare(media.content_type) in {FORM_TYPE, MULTIPART_TYPE}
        written = self._writer.write(schema, place)
        properties = members(members(written).get("properties"))
        stored = members(written).get("required")
        required = stored if isinstance(stored, list) else []
        # What must be there is asked for, even where nothing else is said of it.
        properties |= {str(name): {} for name in required if name not in properties}
        bound: dict[str, str] = {}
        parts: dict[str, PartBinding] = {}
        for name, value in properties.items():
            argument = self._free(name, "body")
            described = members(schema.get("properties")).get(name)
            at = below(place, "properties", name)
            part = self._part(name, SchemaAt(described, at), media) if is_form else None
            if part is not None:
                parts[name] = part
            is_file = part is not None and part.is_file
            self._properties[argument] = (
                self._file_schema(SchemaAt(described, at), value) if is_file else value
            )
            bound[argument] = name
            # Descriptions forget to require forms that have members which they do require.
            if name in required and (body.required or is_form):
                self._required.append(argument)
        return BodyBinding(
            content_type=media.content_type,
            properties=bound,
            parts=parts,
            required=body.required,
        )

    def _part(self, name: str, located: SchemaAt, media: Media) -> PartBinding | None:
        encoding = media.encoding.get(name, {})
        target, place = self._writer.resolved(located)
        items, _ = self._writer.resolved(SchemaAt(target.get("items") or {}, place))
        is_file = is_binary(target) or (target.get("type") == "array" and is_binary(items))
        content_type = encoding.get("contentType")
        kind = content_type if isinstance(content_type, str) and "," not in content_type else None
        style = encoding.get("style")
        explode = encoding.get("explode")
        known: Style | None = next(
            (one for one in STYLES_OF_FORMS if one == style),
            None,
        )
        part = PartBinding(
            content_type=None if kind is None or "*" in kind else kind,
            is_file=is_file,
            style=known,
            explode=explode if isinstance(explode, bool) else True,
            allow_reserved=encoding.get("allowReserved") is True,
        )
        return None if part == PartBinding() else part

    def _file_schema(self, located: SchemaAt, written: JsonValue) -> JsonValue:
        told = members(written).get("description")
        target, _ = self._writer.resolved(located)
        file: JsonObject = dict(FILE_SCHEMA)
        if target.get("type") == "array":
            file = {"type": "array", "items": file}
        return {**file, "description": told} if isinstance(told, str) else file


STYLES_OF_FORMS: Final[tuple[Style, ...]] = (
    *("form", "spaceDelimited", "pipeDelimited", "deepObject"),
)


def _in_query(parameter: Parameter) -> Parameter:
    """Return a parameter that the description calls one of the path, though it is behind `?`."""
    if parameter.location is not Location.PATH:
        return parameter
    return replace(parameter, location=Location.QUERY, style="form", explode=True)


def _undescribed(name: str) -> Parameter:
    """Return the parameter of a path that the description forgot."""
    return Parameter(
        name=name,
        location=Location.PATH,
        required=True,
        style="simple",
        explode=False,
        allow_reserved=False,
        schema=None,
        content_type=None,
        description=None,
        is_deprecated=False,
    )


def _described(schema: JsonValue, parameter: Parameter) -> JsonValue:
    described = _with_description(schema, parameter.description)
    if parameter.is_deprecated and isinstance(described, dict):
        return {**described, "deprecated": True}
    return described


def _with_description(schema: JsonValue, description: str | None) -> JsonValue:
    if description is None or not isinstance(schema, dict):
        return schema
    return {**schema, "description": _cut(description, MAX_DESCRIPTION_CHARACTERS)}


def _fits(schema: JsonObject, most_bytes: int) -> bool:
    return (
        nesting(schema, MAX_DEPTH) <= MAX_DEPTH - 4
        and size_of(schema) <= most_bytes
        and excess(schema) is None
    )


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    kind = _bare(content_type)
    return kind in {JSON_TYPE, "*/*", "application/*", "text/json"} or kind.endswith("+json")


PREFERRED: Final = (JSON_TYPE, MULTIPART_TYPE, FORM_TYPE)


def _preference(content_type: str) -> int:
    """Return the place of a content type among those that a body can have, the best first."""
    kind = _bare(content_type)
    if kind == JSON_TYPE:
        return 0
    if _is_json(kind):
        return 1
    return 2 + PREFERRED.index(kind) if kind in PREFERRED else 10


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
