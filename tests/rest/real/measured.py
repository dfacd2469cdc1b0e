"""What becomes of a real description: its tools, and whether their requests are accepted."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs

from registry.core.json import JsonObject, members
from registry.openapi.binding import Location, OperationBinding, binding_of
from registry.openapi.description import describe
from registry.openapi.documents import load
from registry.openapi.tools import Converted, ConvertedTool, Selection, tools_of
from registry.upstream.rest.requests import ArgumentError, Operation, RestRequest
from tests.rest.real.arguments import NoArgumentsError, arguments
from tests.rest.real.judge import HOST, METHODS, judged, refusals

NARROW_STYLES = frozenset({"spaceDelimited", "pipeDelimited"})
SEEDS = ((1, False), (2, True))
"""Seeds of arguments, and whether what need not be there is there: two requests an operation."""


@dataclass(slots=True)
class Measured:
    """What was found.

    Attributes:
        operations: As the document has them.
        tried: Tools that were called.
        accepted: Those of which the judge accepted each request.
        reasons: Why the others were not, and what became no tool.
    """

    name: str
    openapi: str
    operations: int
    tools: int
    tried: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A description that was read.

    Attributes:
        document: As it was parsed.
        judge: The document by which requests are judged.
        paths: Of the document, by external id.
    """

    document: JsonObject
    judge: Mapping[str, Any]
    converted: Converted
    paths: Mapping[str, str]
    reading: tuple[str, ...]


def loaded(file: Path, twin: Path | None = None) -> Loaded:
    """Read a description."""
    document = load(file.read_bytes())
    description = describe(document, url=None, files={})
    judge = document if twin is None else load(twin.read_bytes())
    return Loaded(
        document,
        judge,
        tools_of(description, Selection()),
        {one.external_id: one.path for one in description.operations},
        tuple(problem.reason for problem in description.problems),
    )


def operations(document: JsonObject) -> int:
    """Return how many operations a document has."""
    return sum(1 for _ in _operations(document))


def _operations(document: JsonObject) -> Iterator[str]:
    for path, value in members(document.get("paths")).items():
        item: Any = value
        while isinstance(item, dict) and isinstance(item.get("$ref"), str):
            target: Any = document
            for step in item["$ref"].split("/")[1:]:
                target = target[step.replace("~1", "/").replace("~0", "~")]
            item = target
        for method in METHODS & members(item).keys():
            yield f"{method} {path}"


def measured(name: str, found: Loaded, tools: Sequence[ConvertedTool]) -> Measured:
    """Call each of some tools with generated arguments, and have the requests judged."""
    document = found.document
    version = str(document.get("openapi") or document.get("swagger"))
    whole = Measured(name, version, operations(document), len(found.converted.tools))
    for tool in tools:
        whole.tried += 1
        reason, example = judgement(found, tool)
        if reason is None:
            whole.accepted += 1
        else:
            whole.reasons[reason] += 1
            whole.examples.setdefault(reason, f"{tool.external_id}: {example}")
    return whole


def sample(tools: Sequence[ConvertedTool], most: int, seed: int) -> list[ConvertedTool]:
    """Return some of the tools, the same for the same seed."""
    if len(tools) <= most:
        return [*tools]
    return random.Random(seed).sample([*tools], most)  # noqa: S311 - the same each time


def generated(
    tool: ConvertedTool, binding: OperationBinding, seed: int, *, is_full: bool
) -> JsonObject:
    """Return arguments for a tool that its request can carry.

    Raises:
        NoArgumentsError: None were found.
    """
    schema = members(tool.definition["inputSchema"])
    plain = narrow_arguments(binding)
    return arguments(schema, seed, is_full=is_full, plain=plain)


def narrow_arguments(binding: OperationBinding) -> frozenset[str]:
    """Return the arguments whose places carry plain text alone."""
    plain = frozenset(
        one.argument
        for one in binding.parameters
        if one.location is Location.HEADER or one.style in NARROW_STYLES
    )
    if binding.body is not None:
        narrow = {name for name, part in binding.body.parts.items() if part.style in NARROW_STYLES}
        plain |= {argument for argument, name in binding.body.properties.items() if name in narrow}
    return plain


def refused_request(
    found: Loaded,
    tool: ConvertedTool,
    line: tuple[str, str],
    headers: Mapping[str, str],
    content: bytes,
) -> list[str]:
    """Return why a request that another program made for a tool's operation is refused."""
    binding = binding_of(tool.definition)
    assert binding is not None
    method, target = line
    request = RestRequest(method, HOST, target, headers, content or None)
    return refusals(judged(found.judge, binding, found.paths[tool.external_id]), binding, request)


def judgement(found: Loaded, tool: ConvertedTool) -> tuple[str | None, str]:
    """Return why the requests of a tool are not accepted; None if they are."""
    schema = tool.definition["inputSchema"]
    jsonschema_rs.meta.validate({"$schema": DIALECT, **members(schema)})
    binding = binding_of(tool.definition)
    assert binding is not None
    operation = Operation(binding.model_copy(update={"base_url": None}), HOST)
    judge = judged(found.judge, binding, found.paths[tool.external_id])
    for seed, is_full in SEEDS:
        given: JsonObject = {}
        try:
            given = generated(tool, binding, seed, is_full=is_full)
            request = operation.request(given)
        except NoArgumentsError:
            return "no arguments were found that the schema allows", ""
        except ArgumentError as exc:
            return f"the argument {exc.reason}", str(given)[:300]
        try:
            refused = refusals(judge, binding, request)
        except Exception as exc:  # noqa: BLE001 - of the library, which cannot read the description
            return "the judge cannot read the description", repr(exc)[:300]
        if refused:
            return _reason(refused[0], binding), f"{refused[0][:500]} | {request.target[:300]}"
    return None, ""


DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _reason(refusal: str, binding: OperationBinding) -> str:
    """Return the kind of a refusal."""
    kind = "" if binding.body is None else binding.body.content_type
    if refusal.startswith("Request body") and "xml" in kind:
        return "bodies of XML are arguments of text"
    if "query parameter" in refusal.lower() and "object" in refusal:
        return "objects in arrays of a query, which OpenAPI leaves undefined"
    if refusal.startswith("Request body") and "form" in kind:
        return "a form's value that several schemas may describe"
    return refusal.partition(":")[0].lower()
