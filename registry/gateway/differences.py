"""What changed in the lists that clients see, between two versions of the gateway's view. Pure.

Compared are the listed texts themselves, of the servers whose route was built anew and of no
others: a change of one server among a thousand costs the comparison of that one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from registry.gateway.catalogue import Catalogue
from registry.gateway.values import FeatureEntry, Route, ToolEntry

TOOLS, PROMPTS, RESOURCES = 1, 2, 4
"""Kinds of lists, as bits of a plain number; resource templates count as resources."""

NOTHING = 0
ALL_LISTS = TOOLS | PROMPTS | RESOURCES

T = TypeVar("T", ToolEntry, FeatureEntry)
MaySee: TypeAlias = Callable[[Route], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """One server's routes, before and after; None where it had or has none.

    Attributes:
        lost: The lists that are shorter for whoever saw it and does not any more.
        gained: The lists that are longer for whoever sees it from now on.
        changed: The lists that differ for whoever sees both.
        same_rights: Whether those who saw it are those who see it.
    """

    before: Route | None
    after: Route | None
    lost: int
    gained: int
    changed: int
    same_rights: bool


def differences(old: Catalogue, new: Catalogue) -> list[Difference]:
    """Return what changed for anybody: lists, who may see them, or where the server is."""
    found: list[Difference] = []
    before, after = old.members, new.members
    for prefix, member in after.items():
        former = before.get(prefix)
        if former is None:
            gained = offered_lists(member.route)
            found.append(Difference(None, member.route, NOTHING, gained, NOTHING, False))
        elif former.route is not member.route:
            change = _difference(former.route, member.route)
            if change is not None:
                found.append(change)
    found += [
        Difference(member.route, None, offered_lists(member.route), NOTHING, NOTHING, False)
        for prefix, member in before.items()
        if prefix not in after
    ]
    return found


def _difference(before: Route, after: Route) -> Difference | None:
    changed = changed_lists(before, after)
    same_rights = before.facts == after.facts
    if same_rights and not changed and _reached_by(before) == _reached_by(after):
        # Read again and found to be the same.
        return None
    lost, gained = offered_lists(before), offered_lists(after)
    return Difference(before, after, lost, gained, changed, same_rights)


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


def seen_changes(changes: Iterable[Difference], may_see: MaySee) -> tuple[int, bool]:
    """Return which lists changed for a caller, and whether any server of theirs did."""
    lists, is_touched = NOTHING, False
    for change in changes:
        saw = change.before is not None and may_see(change.before)
        sees = saw
        if not change.same_rights:
            sees = change.after is not None and may_see(change.after)
        is_touched = is_touched or saw or sees
        if saw and sees:
            lists |= change.changed
        elif saw:
            lists |= change.lost
        elif sees:
            lists |= change.gained
    return lists, is_touched


def changed_views(catalogue: Catalogue, saw: MaySee, sees: MaySee) -> int:
    """Return which lists changed for a caller whose own rights did."""
    lists = NOTHING
    for member in catalogue.members.values():
        if saw(member.route) != sees(member.route):
            lists |= offered_lists(member.route)
    return lists


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
    """Return which lists of one server have anything in them."""
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
