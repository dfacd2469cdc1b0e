"""Replays of recorded calls, by the rules of today and by those with a draft. Pure.

Nothing is decided here that calls do not decide: policies by `policies.decisions`, limits by the
slots that quota is leased in, toolsets by their resolution. What records do not say is undecided.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from packages.models.states import Effect
from registry.access.limits.decisions import LimitIndex
from registry.access.limits.quotas import lease
from registry.access.limits.values import Dimension, Limit, LimitedTool, Period, key_of
from registry.access.policies.decisions import NO_RULE, PolicyIndex, ToolRule, decide, rules_of
from registry.access.policies.values import (
    EVERYONE,
    NO_SUBJECTS,
    Policy,
    PolicyTarget,
    Subjects,
)
from registry.access.simulation.values import CallEffect, RecordedCall, RecordedCaller
from registry.access.toolsets.values import DefaultFor, Toolset
from registry.auth.identity import Role

DENIED = "denied"
LIMITED = "limited"
COUNTED = frozenset({LIMITED, "unconfirmed", "awaiting_approval", "approval_refused"})
"""Outcomes of calls that limits count, or would have counted, although nothing was sent."""

TOOL_GONE = "its server offers no tool of that name any more"
SCOPES_UNKNOWN = "records do not say the scopes of tokens"
PEOPLE_UNKNOWN = "their role and groups are not known"

Judged = tuple[CallEffect, str | None]
"""What a draft does to a call, and why that is undecided."""

UNCHANGED: Judged = (CallEffect.UNCHANGED, None)
REFUSED: Judged = (CallEffect.REFUSED, None)
ALLOWED: Judged = (CallEffect.ALLOWED, None)
GONE: Judged = (CallEffect.UNDECIDED, TOOL_GONE)


class Replay(Protocol):
    """Tells of each recorded call, oldest first, what a draft does to it."""

    needs_people: bool

    def concerns(self, call: RecordedCall) -> bool:
        """Whether the call is one that the draft is tried on."""

    def judge(self, call: RecordedCall) -> Judged:
        """Return what the draft does to a call."""


class PolicyReplay:
    """The policies of today, and those with a draft.

    Args:
        before: Of today.
        after: With the draft.
        closes: Whether a server refuses tools that no policy allows.

    Attributes:
        needs_people: Whether the roles and groups of callers matter.
    """

    def __init__(
        self, before: Collection[Policy], after: Collection[Policy], *, closes: bool
    ) -> None:
        self._before, self._after = PolicyIndex(before), PolicyIndex(after)
        self._rules: dict[tuple[str, str], tuple[ToolRule, ToolRule]] = {}
        self._judged: dict[tuple[str, str, str], Judged] = {}
        # What a server refuses to others is not refused to administrators.
        self.needs_people = closes or any(map(_asks_of_people, (*before, *after)))

    def concerns(self, call: RecordedCall) -> bool:  # noqa: ARG002 - of a protocol
        """Whether the call is one that the draft is tried on: all are."""
        return True

    def judge(self, call: RecordedCall) -> Judged:
        """Return what the draft does to a call."""
        if not call.was_sent and call.record.outcome != DENIED:
            # Something else refused it, before policies were asked or after.
            return UNCHANGED
        if call.tool is None:
            return GONE
        key = (call.caller.user.user_id, call.server_id, call.tool.name)
        found = self._judged.get(key)
        if found is None:
            found = self._judged[key] = _compared(call.caller, *self._rules_for(call))
        return found

    def _rules_for(self, call: RecordedCall) -> tuple[ToolRule, ToolRule]:
        tool = call.tool
        assert tool is not None  # noqa: S101 - asked before
        key = (call.server_id, tool.name)
        if key not in self._rules:
            before, after = (
                rules_of(index.about(call.server_id), [tool], call.default_effect).get(
                    tool.name, NO_RULE
                )
                for index in (self._before, self._after)
            )
            self._rules[key] = before, after
        return self._rules[key]


def _asks_of_people(policy: Policy) -> bool:
    # Who is an administrator is not restricted by allow policies.
    return policy.is_enabled and (
        bool(policy.subjects.roles or policy.subjects.groups)
        or (policy.effect is Effect.ALLOW and not policy.subjects.everyone)
    )


def _synthetic(*, denies: bool, names: bool | None) -> ToolRule:
    """Return a rule that denies to all or nobody, and allows to all, to nobody else or openly."""
    target = PolicyTarget()
    policies = [Policy("", "", Effect.DENY, target, EVERYONE)] if denies else []
    if names is not None:
        policies.append(Policy("", "", Effect.ALLOW, target, EVERYONE if names else NO_SUBJECTS))
    return ToolRule(tuple(policies))


SYNTHETIC: Mapping[tuple[bool, bool | None], ToolRule] = {
    (denies, names): _synthetic(denies=denies, names=names)
    for denies in (False, True)
    for names in (None, False, True)
}


def _is_allowed(caller: RecordedCaller, rule: ToolRule) -> bool | None:
    """Return whether policies allow a tool to a caller; None if that follows from the unknown.

    Decided twice: as if all that is unknown were against the caller, and for them.
    """
    denied = caller.is_named(rule.denied)
    named = None if rule.allowed is None else caller.is_named(rule.allowed)
    is_open = rule.allowed is None
    worst_rule = SYNTHETIC[denied is not False, None if is_open else named is True]
    best_rule = SYNTHETIC[denied is True, None if is_open else named is not False]
    user = caller.user
    worst = decide(user, worst_rule).is_allowed
    best_user = replace(user, role=Role.ADMIN) if caller.may_be_admin else user
    best = decide(best_user, best_rule).is_allowed
    return worst if worst is best else None


def _compared(caller: RecordedCaller, before: ToolRule, after: ToolRule) -> Judged:
    was_allowed, is_allowed = _is_allowed(caller, before), _is_allowed(caller, after)
    if was_allowed is None or is_allowed is None:
        named = (before.denied, before.allowed, after.denied, after.allowed)
        return _undecided(caller, named)
    if was_allowed is is_allowed:
        return UNCHANGED
    return ALLOWED if is_allowed else REFUSED


def _undecided(caller: RecordedCaller, named: Iterable[Subjects | None]) -> Judged:
    """Return that it is unknown whether *named* are about a caller, and why."""
    subjects = [one for one in named if one is not None]
    why = [SCOPES_UNKNOWN] if any(one.scopes for one in subjects) else []
    asks = caller.may_be_admin or any(one.roles or one.groups for one in subjects)
    if not why or (asks and not caller.knows_people):
        why.append(PEOPLE_UNKNOWN)
    return CallEffect.UNDECIDED, "; ".join(why)


class LimitReplay:
    """One limit as it is and as it would be; counts begin with nothing.

    Attributes:
        needs_people: Whether the roles and groups of callers matter.
    """

    def __init__(self, before: Limit | None, after: Limit | None) -> None:
        self._before, self._after = (
            None if limit is None else _CountedLimit(limit) for limit in (before, after)
        )
        self.needs_people = any(
            limit is not None
            and (limit.subjects.roles or limit.subjects.groups or Dimension.ROLE in limit.per)
            for limit in (before, after)
        )

    def concerns(self, call: RecordedCall) -> bool:  # noqa: ARG002 - of a protocol
        """Whether the call is one that the draft is tried on: all are."""
        return True

    def judge(self, call: RecordedCall) -> Judged:
        """Count a call where there is room for it, and return what the draft does to it."""
        if not call.was_sent and call.record.outcome not in COUNTED:
            return UNCHANGED
        if call.tool is None:
            return GONE
        rooms: list[bool] = []
        for limit in (self._before, self._after):
            room = True if limit is None else limit.has_room(call)
            if room is None:
                limits = (self._before, self._after)
                return _undecided(call.caller, (one.subjects for one in limits if one is not None))
            rooms.append(room)
        had_room, has_room = rooms
        if call.record.outcome == LIMITED and had_room:
            # Another limit, or a budget, refused it: then it counts in none.
            return UNCHANGED
        for limit, room in ((self._before, had_room), (self._after, has_room)):
            if limit is not None and room:
                limit.take()
        if had_room is has_room:
            return UNCHANGED
        return ALLOWED if has_room else REFUSED


class _CountedLimit:
    """What a limit has counted."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._index = LimitIndex([limit])
        self._about: dict[tuple[str, str], bool] = {}
        self._slots: dict[tuple[str, Period], Mapping[int, int]] = {}
        self._ends: dict[str, list[float]] = {}
        self._found: list[tuple[tuple[str, Period], Mapping[int, int]]] = []
        self._ending: tuple[str, float] | None = None

    @property
    def subjects(self) -> Subjects:
        """Return the callers whom the limit names."""
        return self._limit.subjects

    def has_room(self, call: RecordedCall) -> bool | None:
        """Return whether a call has room; None if it is unknown whether it counts."""
        self._found, self._ending = [], None
        tool, limit = call.tool, self._limit
        assert tool is not None  # noqa: S101 - asked before
        limited = LimitedTool(call.server_id, tool.name, tool.facets, call.cost_tier)
        known = (call.server_id, tool.name)
        if known not in self._about:
            self._about[known] = not self._index.about(limited).is_empty
        if not self._about[known]:
            return True
        named = call.caller.is_named(limit.subjects)
        if named is not True:
            return None if named is None else True
        if Dimension.ROLE in limit.per and not call.caller.knows_people:
            return None
        user = replace(call.caller.user, token_id=call.record.token_id)
        return self._finds_room(key_of(limit, user, limited), call)

    def _finds_room(self, key: str, call: RecordedCall) -> bool:
        limit = self._limit
        now = call.record.started_at.timestamp()
        for rate in limit.rates:
            at = (key, rate.period)
            grant = lease(self._slots.get(at, {}), rate.count, rate.period, int(now * 1000), 1)
            if not grant.count:
                return False
            self._found.append((at, grant.slots))
        if limit.in_flight is not None:
            ends = self._ends.setdefault(key, [])
            while ends and ends[0] <= now:
                heapq.heappop(ends)
            if len(ends) >= limit.in_flight:
                return False
            self._ending = (key, now + call.record.duration_ms / 1000)
        return True

    def take(self) -> None:
        """Count the call that was asked for last."""
        for at, slots in self._found:
            self._slots[at] = slots
        if self._ending is not None:
            key, ends_at = self._ending
            heapq.heappush(self._ends[key], ends_at)


class ToolsetReplay:
    """A toolset as it is and as it would be, for those whose calls it narrows.

    Args:
        before: The toolset, and the server and name of each tool in it; None if it is new.
        after: The same as it would be; None if it is removed.
        user_ids: Whose calls; None for those whose default it is.

    Attributes:
        needs_people: Whether the roles and groups of callers matter.
    """

    def __init__(
        self,
        before: tuple[Toolset, Collection[tuple[str, str]]] | None,
        after: tuple[Toolset, Collection[tuple[str, str]]] | None,
        user_ids: frozenset[str] | None,
    ) -> None:
        self._toolsets = (before, after)
        self._user_ids = user_ids
        self.needs_people = user_ids is None and any(
            found is not None and bool(found[0].default_for.roles) for found in (before, after)
        )

    def concerns(self, call: RecordedCall) -> bool:
        """Whether the call is of somebody whom the toolset narrows, or may narrow."""
        return any(
            found is not None and self._narrows(found[0], call) is not False
            for found in self._toolsets
        )

    def judge(self, call: RecordedCall) -> Judged:
        """Return what the draft does to a call."""
        if not call.was_sent:
            return UNCHANGED
        if call.tool is None:
            return GONE
        inside: list[bool] = []
        for found in self._toolsets:
            narrows = False if found is None else self._narrows(found[0], call)
            if narrows is None:
                return CallEffect.UNDECIDED, PEOPLE_UNKNOWN
            is_in = found is not None and (call.server_id, call.tool.name) in found[1]
            inside.append(is_in or not narrows)
        was_inside, is_inside = inside
        if was_inside is is_inside:
            return UNCHANGED
        return ALLOWED if is_inside else REFUSED

    def _narrows(self, toolset: Toolset, call: RecordedCall) -> bool | None:
        caller = call.caller
        if self._user_ids is not None:
            return caller.user.user_id in self._user_ids
        named: DefaultFor = toolset.default_for
        if caller.user.user_id in named.users or call.record.token_id in named.tokens:
            return True
        if named.roles and not caller.knows_people:
            return None
        return caller.user.role.value in named.roles
