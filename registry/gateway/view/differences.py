"""Compare two versions of the gateway's view: which lists changed for whom. Pure.

Only servers whose route was rebuilt are compared, by the text of their lists: a change of one
server among a thousand costs the comparison of that one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from registry.access.policies.decisions import ToolRule
from registry.gateway.values import FeatureEntry, Route, ToolEntry
from registry.gateway.view.catalogue import Catalogue

TOOLS, PROMPTS, RESOURCES = 1, 2, 4
"""Kinds of lists, as bits of an integer; resource templates count as resources."""

NOTHING = 0
ALL_LISTS = TOOLS | PROMPTS | RESOURCES

T = TypeVar("T", ToolEntry, FeatureEntry)
Seen: TypeAlias = Callable[[Route], Route | None]
"""Returns a route as a caller may use it; None if it does not exist for them."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    """The routes of one server before and after; None where it has no route.

    Attributes:
        lost: The lists that got shorter for callers who saw the server and no longer do.
        gained: The lists that got longer for callers who see the server from now on.
        changed: The lists that differ for callers who see both.
        same_rights: Whether the callers who see it are the same.
        is_policed: Whether what callers see of it depends on policies.
    """

    before: Route | None
    after: Route | None
    lost: int
    gained: int
    changed: int
    same_rights: bool
    is_policed: bool = False


def differences(old: Catalogue, new: Catalogue) -> list[RouteChange]:
    """Return what changed for any caller: lists, who may see them, or the server's location."""
    found: list[RouteChange] = []
    before, after = old.members, new.members
    for prefix, member in after.items():
        former = before.get(prefix)
        if former is None:
            gained = offered_lists(member.route)
            found.append(
                RouteChange(
                    None, member.route, NOTHING, gained, NOTHING, False, _is_policed(member.route)
                )
            )
        elif former.route is not member.route:
            change = _difference(former.route, member.route)
            if change is not None:
                found.append(change)
    found += [
        RouteChange(
            member.route,
            None,
            offered_lists(member.route),
            NOTHING,
            NOTHING,
            False,
            _is_policed(member.route),
        )
        for prefix, member in before.items()
        if prefix not in after
    ]
    return found


def _difference(before: Route, after: Route) -> RouteChange | None:
    changed = changed_lists(before, after)
    same_rights = before.facts == after.facts
    is_policed = _is_policed(before) or _is_policed(after)
    same_rules = not is_policed or _rules(before) == _rules(after)
    if same_rights and same_rules and not changed and _reached_by(before) == _reached_by(after):
        # Read again and found to be equal.
        return None
    lost, gained = offered_lists(before), offered_lists(after)
    return RouteChange(before, after, lost, gained, changed, same_rights, is_policed)


def _is_policed(route: Route) -> bool:
    return route.policies is not None


def _rules(route: Route) -> Mapping[str, ToolRule]:
    return {} if route.policies is None else route.policies.rules


def _reached_by(route: Route) -> tuple[object, ...]:
    return (
        route.server_id,
        route.url,
        route.transport,
        route.eras,
        route.headers,
        route.credential_problem,
        route.per_user,
        route.capabilities,
    )


def seen_changes(changes: Iterable[RouteChange], seen: Seen) -> tuple[int, bool]:
    """Return which lists changed for a caller, and whether any of their servers did."""
    lists, is_touched = NOTHING, False
    for change in changes:
        before = None if change.before is None else seen(change.before)
        after = before
        if change.is_policed or not change.same_rights:
            after = None if change.after is None else seen(change.after)
        is_touched = is_touched or before is not None or after is not None
        if change.is_policed:
            lists |= changed_for(before, after)
        elif before is not None and after is not None:
            lists |= change.changed
        elif before is not None:
            lists |= change.lost
        elif after is not None:
            lists |= change.gained
    return lists, is_touched


def changed_views(catalogue: Catalogue, saw: Seen, sees: Seen) -> int:
    """Return which lists changed for a caller whose own rights changed."""
    lists = NOTHING
    for member in catalogue.members.values():
        lists |= changed_for(saw(member.route), sees(member.route))
    return lists


def changed_for(before: Route | None, after: Route | None) -> int:
    """Return which lists differ between a server as a caller saw it and as they see it now."""
    if before is after:
        return NOTHING
    if before is not None and after is not None:
        return changed_lists(before, after)
    route = before or after
    return NOTHING if route is None else offered_lists(route)


def changed_lists(before: Route, after: Route) -> int:
    """Return which lists of one server differ."""
    lists = NOTHING
    if not _are_same(before.tools, after.tools):
        lists |= TOOLS
    if not _are_same(before.prompts, after.prompts):
        lists |= PROMPTS
    if not (
        _are_same(before.resources, after.resources)
        and _are_same(before.templates, after.templates)
    ):
        lists |= RESOURCES
    return lists


def offered_lists(route: Route) -> int:
    """Return which lists of one server are not empty."""
    lists = TOOLS if route.tools else NOTHING
    if route.prompts:
        lists |= PROMPTS
    if route.resources or route.templates:
        lists |= RESOURCES
    return lists


def _are_same(before: Mapping[str, T], after: Mapping[str, T]) -> bool:
    if before is after:
        return True
    if len(before) != len(after):
        return False
    pairs = zip(before.values(), after.values(), strict=True)
    return all(one.wire == other.wire for one, other in pairs)
