"""Intake: validate an upstream's prompts, resources and templates, and report problems. Pure."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from packages.models.states import FeatureKind
from registry.core.definitions import (
    MAX_DEPTH,
    TOO_DEEP,
    DecodeBudget,
    Fitting,
    Listed,
    Rejection,
    RejectionError,
    UnreadableDefinition,
    definition_text,
)
from registry.core.json import JsonObject, members, nesting
from registry.prompts_and_resources.values import Feature, FeatureSnapshot

LISTS: Mapping[str, FeatureKind] = {
    "prompts": FeatureKind.PROMPT,
    "resources": FeatureKind.RESOURCE,
    "resourceTemplates": FeatureKind.TEMPLATE,
}
"""Members of MCP results, and what they list."""

KEYS = {
    FeatureKind.PROMPT: "name",
    FeatureKind.RESOURCE: "uri",
    FeatureKind.TEMPLATE: "uriTemplate",
}
MAX_KEY_BYTES = {
    FeatureKind.PROMPT: 256,
    FeatureKind.RESOURCE: 2048,
    FeatureKind.TEMPLATE: 2048,
}
TEXTS = ("title", "description", "mimeType")
MAX_DEFINITION_BYTES = 256 * 1024
SHOWN_CHARACTERS = 128


def take(
    lists: Mapping[str, Sequence[Listed]],
    unread: Mapping[str, str],
    fitting: Fitting | None = None,
    max_bytes: int | None = None,
) -> FeatureSnapshot:
    """Return what can be stored and what cannot.

    Args:
        lists: Objects as received, by the member of the result that listed them.
        unread: Why other lists could not be read.
        fitting: A further check.
        max_bytes: Limit of all together; objects beyond it are rejected.
    """
    left = DecodeBudget(max_bytes)
    problems = [Rejection(name, reason) for name, reason in unread.items()]
    taken = {
        LISTS[name]: _taken(name, items, problems, fitting, left) for name, items in lists.items()
    }
    return FeatureSnapshot(taken, tuple(problems))


def _taken(
    name: str,
    items: Sequence[Listed],
    problems: list[Rejection],
    fitting: Fitting | None,
    left: DecodeBudget,
) -> tuple[Feature, ...]:
    kind = LISTS[name]
    taken: dict[str, Feature] = {}
    for raw in items:
        try:
            feature = _feature(kind, raw)
            _check_fit(name, raw, fitting)
        except RejectionError as exc:
            problems.append(Rejection(f"{name}/{_shown(raw, KEYS[kind])}", str(exc)))
            continue
        if feature.key in taken:
            subject = f"{name}/{_shown(raw, KEYS[kind])}"
            problems.append(Rejection(subject, "is listed twice; the first entry is used"))
        elif not left.take(feature.definition):
            problems.append(Rejection(f"{name}/{_shown(raw, KEYS[kind])}", left.reason))
        else:
            taken[feature.key] = feature
    return tuple(taken.values())


def _feature(kind: FeatureKind, raw: Listed) -> Feature:
    if isinstance(raw, UnreadableDefinition):
        raise RejectionError(raw.reason)
    if not isinstance(raw, dict):
        raise RejectionError("is not an object")
    key = _key(raw, KEYS[kind], MAX_KEY_BYTES[kind])
    # Required by clients' own types, and one invalid object makes them reject the whole list.
    if not isinstance(raw.get("name"), str):
        raise RejectionError("has no name")
    for member in TEXTS:
        if not isinstance(raw.get(member), str | None):
            raise RejectionError(f"has a {member} that is not a string")
    if kind is FeatureKind.PROMPT:
        _check_arguments(raw.get("arguments"))
    if nesting(raw, MAX_DEPTH) > MAX_DEPTH:
        raise RejectionError(TOO_DEEP)
    return Feature(kind, key, definition_text(raw, MAX_DEFINITION_BYTES))


def _key(raw: JsonObject, member: str, max_bytes: int) -> str:
    key = raw.get(member)
    if not isinstance(key, str) or not key:
        raise RejectionError(f"has no {member}")
    if not key.isprintable() or (member != "name" and " " in key):
        raise RejectionError(f"has a {member} with spaces or non-printable characters")
    if len(key.encode()) > max_bytes:
        raise RejectionError(f"has a {member} of more than {max_bytes} bytes")
    return key


def _check_fit(name: str, raw: Listed, fitting: Fitting | None) -> None:
    problem = None if fitting is None else fitting(name, members(raw))
    if problem is not None:
        raise RejectionError(problem)


def _check_arguments(arguments: JsonValue) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in arguments
    ):
        raise RejectionError("has arguments that are not a list of objects with names")


def _shown(raw: Listed, member: str) -> str:
    known = raw.members if isinstance(raw, UnreadableDefinition) else members(raw)
    key = known.get(member)
    text = key if isinstance(key, str) else ""
    return "".join(item if item.isprintable() else "?" for item in text[:SHOWN_CHARACTERS])
