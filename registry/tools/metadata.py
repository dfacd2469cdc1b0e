"""Metadata: what is known of a tool's effects, and the source of each fact. Pure.

Of three sources, the first with a value counts: a person (`manual`), the upstream's own
annotations (`upstream`), the tool's name (`inferred`). The last two are claims: they are shown as
such, and never override a person.

A read-only tool destroys nothing: in MCP, `destructiveHint` has no meaning where `readOnlyHint` is
true. If both are claimed, only one of them counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from registry.core.json import JsonObject, load_text, members

READ_ONLY = "read_only"
DESTRUCTIVE = "destructive"
HUMAN_APPROVAL_REQUIRED = "human_approval_required"
FLAGS = (READ_ONLY, DESTRUCTIVE, "idempotent", "sensitive", HUMAN_APPROVAL_REQUIRED)
COST_TIER = "cost_tier"
TAG = "tag"
"""Prefix of tags among the facets."""
REVIEW = "review"
"""Prefix of the review reason among the facets."""
NO_EFFECTS = (f"{TAG}:", f"{REVIEW}:")

HINTS = {
    READ_ONLY: "readOnlyHint",
    DESTRUCTIVE: "destructiveHint",
    "idempotent": "idempotentHint",
}
"""Flags that MCP has annotations for."""

SAFE_FLAGS = {READ_ONLY: True, DESTRUCTIVE: False, "idempotent": True}
"""Flags, each with the value that makes a tool look safer."""

SAFE_HINTS = {**{HINTS[flag]: safe for flag, safe in SAFE_FLAGS.items()}, "openWorldHint": False}
"""MCP's annotations, each with its safer value; the other value is MCP's default."""

READ_ONLY_PREFIXES = ("get_", "list_")
DESTRUCTIVE_PREFIXES = ("delete_", "remove_", "drop_", "destroy_", "purge_")
HEURISTICS: tuple[tuple[tuple[str, ...], str], ...] = (
    (READ_ONLY_PREFIXES, READ_ONLY),
    (DESTRUCTIVE_PREFIXES, DESTRUCTIVE),
)
"""Prefixes of names, and the flag that they suggest."""


class MetadataSource(StrEnum):
    """The sources, in order of precedence."""

    MANUAL = "manual"
    UPSTREAM = "upstream"
    INFERRED = "inferred"


@dataclass(frozen=True, slots=True)
class KnownMetadata:
    """The metadata that counts.

    Attributes:
        values: Flags and the cost tier, as far as any source has them.
        sources: The source of each.
    """

    values: Mapping[str, bool | str]
    sources: Mapping[str, MetadataSource]


def facet(flag: str, value: bool | str) -> str:  # noqa: FBT001 - a value, not a switch
    """Return a flag and its value as one text, for the index that all of them share."""
    return f"{flag}:{str(value).lower() if isinstance(value, bool) else value}"


def requires_approval(facets: Iterable[str]) -> bool:
    """Whether the metadata requires a person's approval of each call."""
    return facet(HUMAN_APPROVAL_REQUIRED, value=True) in facets


def facets_of(counts: KnownMetadata) -> tuple[str, ...]:
    """Return the metadata that counts as facets."""
    return tuple(facet(flag, value) for flag, value in counts.values.items())


def said_in(definition: str) -> JsonObject:
    """Return the annotations in the JSON text of a tool object; empty if there are none.

    A value that is not an object with annotations counts as one without.
    """
    try:
        return members(members(load_text(definition)).get("annotations"))
    except (ValueError, RecursionError):
        return {}


def known(
    name: str,
    annotations: JsonObject | None,
    manual: Mapping[str, object],
    offered: JsonObject | None = None,
) -> KnownMetadata:
    """Combine the sources of a tool's metadata.

    Args:
        name: The tool's name.
        annotations: The upstream's, in the served definition.
        manual: A person's values; members that are not flags are ignored.
        offered: The annotations of the definition that the upstream now offers, if it is another
            one. A claim of safety counts only if both make it.
    """
    counts = _known(name, annotations, manual)
    return counts if offered is None else _cautious(counts, _known(name, offered, manual))


def cautious_hints(said: JsonObject, offered: JsonObject) -> dict[str, bool]:
    """Return the annotations to change because the offered definition withdraws a safety claim.

    Args:
        said: Annotations of the served definition.
        offered: Those of the definition that the upstream now offers.
    """
    hints: dict[str, bool] = {}
    for hint, safe in SAFE_HINTS.items():
        is_claimed_now = offered.get(hint) is safe
        is_denied_now = offered.get(hint) is (not safe)
        if not is_claimed_now and (said.get(hint) is safe or is_denied_now):
            hints[hint] = not safe
    return {hint: value for hint, value in hints.items() if said.get(hint) is not value}


def _cautious(served: KnownMetadata, newest: KnownMetadata) -> KnownMetadata:
    values, sources = dict(served.values), dict(served.sources)
    for flag, safe in SAFE_FLAGS.items():
        value = newest.values.get(flag)
        if served.sources.get(flag) is MetadataSource.MANUAL or value is safe:
            continue
        if value is not None:
            values[flag], sources[flag] = value, newest.sources[flag]
        elif values.get(flag) is safe:
            del values[flag], sources[flag]
    return KnownMetadata(values, sources)


def _known(
    name: str, annotations: JsonObject | None, manual: Mapping[str, object]
) -> KnownMetadata:
    values: dict[str, bool | str] = {}
    sources: dict[str, MetadataSource] = {}
    for flag in FLAGS:
        said = _said(flag, name, annotations or {}, manual)
        if said is not None:
            values[flag], sources[flag] = said
    _settle(values, sources)
    tier = manual.get(COST_TIER)
    if isinstance(tier, str):
        values[COST_TIER], sources[COST_TIER] = tier, MetadataSource.MANUAL
    return KnownMetadata(values, sources)


def hints_of(counts: KnownMetadata) -> dict[str, bool]:
    """Return the annotations that clients get because of a person's values."""
    return {
        hint: value
        for flag, hint in HINTS.items()
        if counts.sources.get(flag) is MetadataSource.MANUAL
        and isinstance(value := counts.values[flag], bool)
    }


def effects_of(facets: Iterable[str] | None, name: str, definition: str) -> tuple[str, ...]:
    """Return the known effects of a tool, as facets: neither tags nor the review reason.

    Policies depend on them, so a row without any must not pass for a tool without effects.

    Args:
        facets: Those stored; None for another program's row, whose definition counts instead.
        name: The tool's name.
        definition: JSON text of its definition.
    """
    if facets is None:
        return facets_of(known(name, said_in(definition), {}))
    return tuple(one for one in facets if not one.startswith(NO_EFFECTS))


def metadata_fields(
    counts: KnownMetadata, tags: Iterable[str], review: str | None
) -> dict[str, object]:
    """Return the metadata fields of a row, with its facets."""
    return {
        "metadata": dict(counts.values),
        "metadata_sources": {flag: source.value for flag, source in counts.sources.items()},
        "facets": refiled((*facets_of(counts), *(facet(TAG, tag) for tag in tags)), review),
    }


def refiled(facets: Iterable[str], review: str | None) -> list[str]:
    """Return *facets* with *review* as the only review reason."""
    others = [one for one in facets if not one.startswith(f"{REVIEW}:")]
    return others if review is None else [*others, facet(REVIEW, review)]


def _settle(values: dict[str, bool | str], sources: dict[str, MetadataSource]) -> None:
    """Let only one of `read_only` and `destructive` be true, by their sources.

    The better source counts. Within an upstream's annotations it is `read_only`, as in MCP:
    frameworks send `destructiveHint: true` with everything, because that is its default. Within a
    person's values it is `destructive`, the more careful one.
    """
    if not (values.get(READ_ONLY) is True and values.get(DESTRUCTIVE) is True):
        return
    reads, destroys = sources[READ_ONLY], sources[DESTRUCTIVE]
    if reads is destroys:
        is_destructive = reads is MetadataSource.MANUAL
    else:
        is_destructive = min((reads, destroys), key=list(MetadataSource).index) is destroys
    counts, other = (DESTRUCTIVE, READ_ONLY) if is_destructive else (READ_ONLY, DESTRUCTIVE)
    values[other], sources[other] = False, sources[counts]


def _said(
    flag: str, name: str, annotations: JsonObject, manual: Mapping[str, object]
) -> tuple[bool, MetadataSource] | None:
    own = manual.get(flag)
    if isinstance(own, bool):
        return own, MetadataSource.MANUAL
    hint = annotations.get(HINTS.get(flag, ""))
    if isinstance(hint, bool):
        return hint, MetadataSource.UPSTREAM
    if any(name.startswith(prefixes) for prefixes, meant in HEURISTICS if meant == flag):
        return True, MetadataSource.INFERRED
    return None
