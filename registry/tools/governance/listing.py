"""Filter and search of tools in memory, for lists. Pure."""

from collections.abc import Container, Iterable, Iterator, Sequence

from registry.core.search import best_first, words_of
from registry.tools.exposure import is_served
from registry.tools.governance.values import ToolFilter
from registry.tools.lifecycle import DELETED, DISABLED, STALE
from registry.tools.metadata import REVIEW, TAG, facet
from registry.tools.values import ListedTool, ToolTraits


def listed(
    tools: Iterable[ListedTool], governed: Container[str], narrowed: ToolFilter
) -> Sequence[ListedTool]:
    """Return those of *tools* that a list shows, the best match first, else in their order.

    Args:
        tools: Of the servers that the caller sees.
        governed: Servers that the caller may change; of others only served tools are shown.
        narrowed: The filter.
    """
    return best_first(list(_narrowed(tools, governed, narrowed)), words_of(narrowed.text))


def _narrowed(
    tools: Iterable[ListedTool], governed: Container[str], narrowed: ToolFilter
) -> Iterator[ListedTool]:
    # Many tools share one traits object, so results are cached by identity: comparing a hundred
    # thousand of them would take longer than everything else.
    known: dict[int, tuple[ToolTraits, bool, bool]] = {}
    for tool in tools:
        found = known.get(id(tool.traits))
        if found is None:
            found = (tool.traits, *_matches(tool.traits, narrowed))
            known[id(tool.traits)] = found
        _, for_deciders, for_viewers = found
        if for_viewers or (for_deciders and tool.owner_id in governed):
            yield tool


def _matches(traits: ToolTraits, narrowed: ToolFilter) -> tuple[bool, bool]:
    """Return whether such tools are shown to editors of their server, and to all who see it."""
    if not (_is_in_state(traits, narrowed) and _has_facets(traits, narrowed)):
        return False, False
    # What waits is for callers who may decide.
    is_open = is_served(traits.registration_state, traits.exposure_state) and not narrowed.reviews
    return True, is_open


def _is_in_state(traits: ToolTraits, narrowed: ToolFilter) -> bool:
    registration, exposure = traits.registration_state, traits.exposure_state
    if narrowed.registration_state is not None:
        if registration is not narrowed.registration_state:
            return False
    elif registration is STALE and not narrowed.with_stale:
        return False
    if narrowed.exposure_state is not None:
        return exposure is narrowed.exposure_state
    if narrowed.reviews:
        # A tool that the policy `block` disabled waits for a decision like any other.
        return exposure is not DELETED
    return narrowed.with_disabled or exposure not in {DISABLED, DELETED}


def _has_facets(traits: ToolTraits, narrowed: ToolFilter) -> bool:
    facets = traits.facets
    return (
        narrowed.source_type in {None, traits.source_type}
        and (not narrowed.reviews or any(facet(REVIEW, one) in facets for one in narrowed.reviews))
        and all(facet(TAG, tag) in facets for tag in narrowed.tags)
        and all(facet(flag, value) in facets for flag, value in narrowed.flags.items())
    )
