"""Simulation on behalf of a caller: who may try what, on which recorded calls.

Only reads. What is decided from the records is in `replaying`.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from registry.access.limits.errors import LimitNotFoundError
from registry.access.limits.repository import LimitRepository
from registry.access.limits.values import Limit, LimitChange
from registry.access.policies.authority import RuleAuthority
from registry.access.policies.errors import PolicyNotFoundError
from registry.access.policies.ports import Conditions, PolicyServers
from registry.access.policies.repository import PolicyRepository
from registry.access.policies.values import NO_SUBJECTS, Policy, PolicyChange
from registry.access.policy import Permission
from registry.access.simulation.replaying import (
    LimitReplay,
    PolicyReplay,
    Replay,
    ToolsetReplay,
)
from registry.access.simulation.tools import CalledTools, cost_tier_of
from registry.access.simulation.values import (
    CallEffect,
    EffectGroup,
    RecordedCall,
    RecordedCaller,
    RuleKind,
    Simulation,
    SimulationQuestion,
)
from registry.access.toolsets.service import ToolsetService
from registry.access.toolsets.values import ToolsetChange
from registry.auth.identity import Role, UserContext
from registry.auth.repository import DirectoryRepository
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.text import OBJECT_ID
from registry.tools.repository import ToolRepository
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter, UsageRecord, UsageVisibility

MAX_RECORDS = 20_000
PAGE = 2_000
JUDGED_AT_ONCE = 200
"""Calls that are judged before other tasks get a turn."""

MAX_CALLERS = 1_000
"""Maximum number of callers whose role and groups are looked up."""

MAX_GROUPS = 200
USUAL_PERIOD = timedelta(days=1)
CALL = "tools/call"
NEW = ""
"""Id of a rule that is not stored."""

NOT_RECORDED = "No calls are recorded (USAGE_RETENTION_DAYS is 0)."
OF_TODAY = "Tools, their metadata and all other rules are those of today."
NOT_CALLED = (
    "What callers did not try is in no record: a tool that a policy hides from lists is rarely "
    "called."
)
PEOPLE_OF_TODAY = "Roles and groups of callers are those of today."
PEOPLE_NOT_LOOKED_UP = (
    "Only for administrators are the roles and groups of others looked up: they count as users "
    "who are no administrators, and what depends on roles and groups is undecided."
)
TOO_MANY_CALLERS = f"Roles and groups of the first {MAX_CALLERS} callers only were looked up."
OF_LIMITS = (
    "Counts begin with nothing at the start of the period; other limits and budgets are not "
    "replayed. Calls under way are those by their recorded times, and so approximate. An approved "
    "call is recorded when it is asked for and when it is made."
)
OF_TOOLSETS = (
    "Records do not say through which path or application a call was made: all calls of these "
    "users count, and `default_for.clients` is left out."
)


@dataclass(frozen=True, slots=True)
class SimulationStore:
    """The stores that a simulation reads."""

    policies: PolicyRepository
    limits: LimitRepository
    toolsets: ToolsetService
    servers: PolicyServers
    tools: ToolRepository
    directory: DirectoryRepository
    conditions: Conditions
    usage: UsageRepository


@dataclass(frozen=True, slots=True)
class _Records:
    """Recorded calls of a period, oldest first.

    Attributes:
        covered_since: From here on they are all there.
    """

    calls: list[UsageRecord]
    covered_since: datetime


class SimulationService:
    """Tries drafts on recorded calls.

    Args:
        policies: Who may write policies.
        limits: Who may write limits.
        records_kept: How long records of calls are kept; zero if there are none.
    """

    def __init__(
        self,
        store: SimulationStore,
        policies: RuleAuthority,
        limits: RuleAuthority,
        *,
        clock: Clock,
        records_kept: timedelta,
    ) -> None:
        self._records_kept = records_kept
        self._store = store
        self._policies = policies
        self._limits = limits
        self._clock = clock

    async def simulate(self, asked: SimulationQuestion, user: UserContext) -> Simulation:
        """Return what a draft would have changed.

        Raises:
            PolicyNotFoundError: The policy does not exist, or *user* may not write it.
            LimitNotFoundError: The same of a limit.
            ToolsetNotFoundError: The toolset does not exist, or *user* may not see it.
            ToolsetForbiddenError: They may not change it.
            PolicyForbiddenError: They may not write rules with this target.
            UnknownOwnerError: The server does not exist, or they may not see it.
            UnknownSubjectsError: The draft names a caller that does not exist.
            ValidationFailedError: The draft names another thing that does not exist, or the
                period ends before it begins.
        """
        now = self._clock.now()
        until = asked.until or now
        since = asked.since or until - USUAL_PERIOD
        if since >= until:
            raise ValidationFailedError("since", "must be before the end of the period")
        period = UsageFilter(method=CALL, since=since, until=until)
        tools = CalledTools(self._store.servers, self._store.tools)
        match asked.kind:
            case RuleKind.POLICY:
                replay, records = await self._of_policy(asked, period, user)
            case RuleKind.LIMIT:
                replay, records = await self._of_limit(asked, period, user)
            case RuleKind.TOOLSET:
                replay, records = await self._of_toolset(asked, period, user, tools)
            case _:
                assert_never(asked.kind)
        callers = _Callers(self._store.directory, user, looks_up=replay.needs_people)
        effects = _Effects()
        for number, record in enumerate(records.calls):
            if number % JUDGED_AT_ONCE == JUDGED_AT_ONCE - 1:
                await self._clock.sleep(0)
            if record.server_id is None:
                # There was no such server for the caller.
                continue
            tool = await tools.of(record.server_id, record)
            call = RecordedCall(
                record,
                record.server_id,
                await callers.of(record),
                tool,
                cost_tier_of(tool),
                await tools.default_effect(record.server_id),
            )
            if replay.concerns(call):
                effects.add(call, *replay.judge(call))
        groups = effects.groups()
        notes = [OF_TODAY, *NOTES[asked.kind], *callers.notes()]
        covered_since = max(records.covered_since, now - self._records_kept)
        return Simulation(
            asked.kind,
            since,
            until,
            min(covered_since, until),
            effects.totals,
            groups[:MAX_GROUPS],
            has_more=len(groups) > MAX_GROUPS,
            notes=notes if self._records_kept else [NOT_RECORDED, *notes],
        )

    async def _of_policy(
        self, asked: SimulationQuestion, period: UsageFilter, user: UserContext
    ) -> tuple[Replay, _Records]:
        stored, drafted = None, None
        if asked.rule_id is not None:
            record = await self._store.policies.get(asked.rule_id)
            if record is None or not await self._policies.may_write(
                record.policy.target.owner_id, user
            ):
                raise PolicyNotFoundError
            stored = record.policy
        if isinstance(asked.draft, PolicyChange):
            change = asked.draft
            drafted = Policy(
                asked.rule_id or NEW,
                change.name,
                change.effect,
                change.target,
                change.subjects,
                change.is_enabled,
            )
            await self._require_may_write(self._policies, drafted, stored, user)
        owners = _owners_of(stored, drafted)
        today = await self._store.conditions.policies()
        if owners is None:
            today = [*today, *(await self._store.policies.every()).values()]
        else:
            about = [one for key in owners for one in await self._store.policies.about(key)]
            # Those about all servers are found with each.
            today = [*today, *{one.id: one for one in about}.values()]
        after = [policy for policy in today if stored is None or policy.id != stored.id]
        after += [] if drafted is None else [drafted]
        closed = await self._store.servers.closed_by_default()
        closes = bool(closed if owners is None else owners.intersection(closed))
        return PolicyReplay(today, after, closes=closes), await self._read(period, owners, user)

    async def _of_limit(
        self, asked: SimulationQuestion, period: UsageFilter, user: UserContext
    ) -> tuple[Replay, _Records]:
        stored, drafted = None, None
        if asked.rule_id is not None:
            record = await self._store.limits.get(asked.rule_id)
            if record is None or not await self._limits.may_write(
                record.limit.target.owner_id, user
            ):
                raise LimitNotFoundError
            stored = record.limit
        if isinstance(asked.draft, LimitChange):
            change = asked.draft
            drafted = Limit(
                asked.rule_id or NEW,
                change.name,
                change.target,
                change.subjects,
                change.per,
                change.rates,
                change.in_flight,
                change.on_database_loss,
                change.is_enabled,
            )
            await self._require_may_write(self._limits, drafted, stored, user)
        owners = _owners_of(stored, drafted)
        return LimitReplay(stored, drafted), await self._read(period, owners, user)

    async def _of_toolset(
        self,
        asked: SimulationQuestion,
        period: UsageFilter,
        user: UserContext,
        tools: CalledTools,
    ) -> tuple[Replay, _Records]:
        change = asked.draft if isinstance(asked.draft, ToolsetChange) else None
        toolsets = await self._store.toolsets.drafted(change, asked.rule_id, user)
        user_ids = asked.user_ids
        if not any(one is not None and one.default_for.keys for one in toolsets):
            user_ids = user_ids or frozenset({user.user_id})
        if user_ids is not None and len(user_ids) == 1:
            period = replace(period, user_id=next(iter(user_ids)))
        records = await self._read(period, None, user)
        called = {record.server_id for record in records.calls if record.server_id is not None}
        before, after = [
            None if one is None else (one, await tools.in_toolset(one, called)) for one in toolsets
        ]
        return ToolsetReplay(before, after, user_ids), records

    async def _require_may_write(
        self,
        authority: RuleAuthority,
        drafted: Policy | Limit,
        stored: Policy | Limit | None,
        user: UserContext,
    ) -> None:
        """Check a draft as the service that would write it does."""
        owner_id = drafted.target.owner_id
        await authority.require_may_write(owner_id, user)
        before = NO_SUBJECTS if stored is None else stored.subjects
        await authority.require_known(drafted.subjects, before, owner_id, user)

    async def _read(
        self, period: UsageFilter, owners: frozenset[str] | None, user: UserContext
    ) -> _Records:
        """Return the newest calls of a period that *user* may know of.

        Args:
            period: The filter.
            owners: The servers; None for all.
            user: Who asks.
        """
        servers = self._store.servers
        shown = None
        if not (user.is_of_all_tenants or servers.sees_everything(user)):
            # Of servers that they may share, as in quarantines; and what they called themselves.
            rights = servers.rights(user)
            own = {one for one, bits in rights.items() if bits & Permission.SHARE}
            shown = UsageVisibility(user.user_id, frozenset(own | (owners or set())))
        filters = [replace(period, shown=shown)]
        if owners is not None:
            filters = [replace(filters[0], server_id=one) for one in sorted(owners)]
        assert period.since is not None  # noqa: S101 - given by the caller
        calls: list[UsageRecord] = []
        covered_since = period.since
        for one in filters:
            found, is_whole = await self._newest(one, MAX_RECORDS // len(filters))
            calls += found
            if found and not is_whole:
                covered_since = max(covered_since, found[-1].started_at)
        calls.reverse()
        if len(filters) > 1:
            calls = [record for record in calls if record.started_at >= covered_since]
            calls.sort(key=lambda record: (record.started_at, record.id))
        return _Records(calls, covered_since)

    async def _newest(self, wanted: UsageFilter, most: int) -> tuple[list[UsageRecord], bool]:
        """Return up to *most* records, newest first, and whether these are all."""
        found: list[UsageRecord] = []
        before = None
        while len(found) < most:
            count = min(PAGE, most - len(found))
            page = await self._store.usage.page(wanted, before, count)
            found += page
            if len(page) < count:
                return found, True
            before = (page[-1].started_at, page[-1].id)
            await self._clock.sleep(0)
        return found, not await self._store.usage.page(wanted, before, 1)


class _Callers:
    """Finds the callers of recorded calls; each is looked up once."""

    def __init__(
        self, directory: DirectoryRepository, user: UserContext, *, looks_up: bool
    ) -> None:
        self._directory = directory
        self._user = user
        self._looks_up = looks_up
        self._asked = 0
        self._found: dict[str, RecordedCaller] = {}

    async def of(self, record: UsageRecord) -> RecordedCaller:
        """Return the caller of a call."""
        found = self._found.get(record.user_id)
        if found is None:
            found = self._found[record.user_id] = await self._find(record)
        return found

    def notes(self) -> list[str]:
        """Return what is to be said of what is known of callers."""
        if not self._looks_up:
            return []
        if not self._user.is_admin:
            return [PEOPLE_NOT_LOOKED_UP]
        return [PEOPLE_OF_TODAY, *([TOO_MANY_CALLERS] if self._asked > MAX_CALLERS else [])]

    async def _find(self, record: UsageRecord) -> RecordedCaller:
        nobody = frozenset[str]()
        unknown = UserContext(record.user_id, record.username, Role.USER, frozenset())
        if record.user_id == self._user.user_id:
            known = replace(unknown, role=self._user.role, groups=self._user.groups)
            return RecordedCaller(known, knows_people=True)
        if not self._looks_up or not self._user.is_admin:
            return RecordedCaller(unknown, knows_people=False)
        self._asked += 1
        entry = None
        if self._asked <= MAX_CALLERS and re.fullmatch(OBJECT_ID, record.user_id):
            entry = await self._directory.get(record.user_id)
        if entry is None or not self._user.sees_tenant(entry.tenant_id):
            return RecordedCaller(unknown, knows_people=False, may_be_admin=True)
        known = replace(unknown, role=Role.parse(entry.role), groups=entry.groups or nobody)
        return RecordedCaller(known, knows_people=True)


class _Effects:
    """Counts what a draft does, by caller, server and tool.

    Attributes:
        totals: Over all of them.
    """

    def __init__(self) -> None:
        self.totals: Counter[CallEffect] = Counter()
        self._groups: dict[tuple[str, str, str], EffectGroup] = {}
        self._counts: dict[tuple[str, str, str], Counter[CallEffect]] = {}

    def add(self, call: RecordedCall, effect: CallEffect, because: str | None) -> None:
        """Count a call that is not older than the one before."""
        self.totals[effect] += 1
        record = call.record
        tool = record.own_tool or record.tool or "" if call.tool is None else call.tool.name
        key = (record.user_id, call.server_id, tool)
        counts = self._counts.setdefault(key, Counter())
        counts[effect] += 1
        if effect is CallEffect.UNCHANGED:
            return
        former = self._groups.get(key)
        self._groups[key] = EffectGroup(
            record.user_id,
            record.username,
            call.server_id,
            record.server,
            tool,
            counts,
            record.started_at,
            because or (None if former is None else former.undecided_because),
        )

    def groups(self) -> list[EffectGroup]:
        """Return the groups with a call that is not unchanged, the largest first."""

        def rank(group: EffectGroup) -> tuple[object, ...]:
            changed = group.calls.get(CallEffect.REFUSED, 0) + group.calls.get(
                CallEffect.ALLOWED, 0
            )
            undecided = group.calls.get(CallEffect.UNDECIDED, 0)
            return -changed, -undecided, group.user_id, group.server_id, group.tool

        return sorted(self._groups.values(), key=rank)


def _owners_of(*rules: Policy | Limit | None) -> frozenset[str] | None:
    """Return the servers that rules are about; None for all."""
    owners = [rule.target.owner_id for rule in rules if rule is not None]
    return None if None in owners else frozenset(one for one in owners if one is not None)


NOTES = {
    RuleKind.POLICY: (NOT_CALLED,),
    RuleKind.LIMIT: (OF_LIMITS,),
    RuleKind.TOOLSET: (OF_TOOLSETS,),
}
