"""Replays decide as calls do, and never claim what no record says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packages.models.states import Effect
from registry.access.limits.values import Dimension, Limit, Period, Rate
from registry.access.policies.decisions import NO_RULE, PolicyIndex, decide, rules_of
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget, ToolFacts
from registry.access.simulation.replaying import LimitReplay, PolicyReplay
from registry.access.simulation.values import CallEffect, RecordedCall, RecordedCaller
from registry.auth.identity import Role, UserContext
from registry.usage.values import UsageRecord
from tests.access.policies.strategies import OWNERS, USER_IDS, callers, policies, tools

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ECHO = ToolFacts("echo")
MINUTE = Rate(2, Period.MINUTE)


def recorded(
    user: UserContext,
    tool: ToolFacts | None = ECHO,
    *,
    seconds: float = 0,
    outcome: str = "ok",
    knows_people: bool = True,
    may_be_admin: bool = False,
    server_id: str = OWNERS[0],
    took_ms: float = 1.0,
    default: Effect = Effect.ALLOW,
) -> RecordedCall:
    """Return a call, with what is known of its caller."""
    known = UserContext(user.user_id, user.username, Role.USER, frozenset())
    if knows_people:
        known = replace(known, role=user.role, groups=user.groups)
    is_sent = outcome == "ok"
    record = UsageRecord(
        id="0" * 24,
        started_at=NOON + timedelta(seconds=seconds),
        user_id=user.user_id,
        username=user.username,
        token_id=None,
        server_id=server_id,
        server="demo",
        method="tools/call",
        tool="echo",
        era="modern",
        outcome=outcome,
        error_code=None,
        duration_ms=took_ms,
        admission_ms=1.0 if is_sent else None,
        upstream_ms=1.0 if is_sent else None,
        relay_ms=1.0 if is_sent else None,
        request_bytes=1,
        response_bytes=1,
        trace_id=None,
        worker="host:1",
    )
    caller = RecordedCaller(known, knows_people=knows_people, may_be_admin=may_be_admin)
    return RecordedCall(record, server_id, caller, tool, default_effect=default)


def real(
    found: list[Policy], user: UserContext, server_id: str, tool: ToolFacts, default: Effect
) -> bool:
    """Return what a call would be told."""
    rules = rules_of(PolicyIndex(found).about(server_id), [tool], default)
    return decide(user, rules.get(tool.name, NO_RULE)).is_allowed


EFFECTS = {
    (True, True): CallEffect.UNCHANGED,
    (False, False): CallEffect.UNCHANGED,
    (True, False): CallEffect.REFUSED,
    (False, True): CallEffect.ALLOWED,
}


@given(
    *(policies, policies, st.sampled_from(OWNERS), tools, callers),
    *(st.booleans(), st.sampled_from(Effect)),
)
def test_what_is_decided_is_what_calls_are_told(
    before: list[Policy],
    after: list[Policy],
    server_id: str,
    tool: ToolFacts,
    user: UserContext,
    knows_people: bool,  # noqa: FBT001 - drawn
    default: Effect,
) -> None:
    replay = PolicyReplay(before, after, closes=default is Effect.DENY)
    looked_up = knows_people and replay.needs_people
    call = recorded(
        user,
        tool,
        server_id=server_id,
        knows_people=looked_up,
        # Where the rules ask for no roles, nobody is looked up.
        may_be_admin=replay.needs_people and not knows_people,
        default=default,
    )

    effect, because = replay.judge(call)

    was, then = (real(found, user, server_id, tool, default) for found in (before, after))
    if effect is CallEffect.UNDECIDED:
        assert because is not None
    else:
        assert effect is EFFECTS[was, then]


def test_administrators_are_looked_up_where_a_server_refuses_what_no_policy_allows() -> None:
    everyone = Policy("1", "all", Effect.ALLOW, PolicyTarget(), EVERYONE)
    replay = PolicyReplay([], [everyone], closes=True)

    assert replay.needs_people
    call = recorded(OTHER, outcome="ok", default=Effect.DENY)
    assert replay.judge(call)[0] is CallEffect.UNCHANGED


@given(policies, policies, tools, callers)
def test_all_is_decided_where_no_rule_names_scopes(
    before: list[Policy], after: list[Policy], tool: ToolFacts, user: UserContext
) -> None:
    def unscoped(found: list[Policy]) -> list[Policy]:
        return [replace(one, subjects=replace(one.subjects, scopes=frozenset())) for one in found]

    effect, _ = PolicyReplay(unscoped(before), unscoped(after), closes=False).judge(
        recorded(user, tool)
    )

    assert effect is not CallEffect.UNDECIDED


SOMEBODY = UserContext(USER_IDS[0], "alice", Role.USER, frozenset())
OTHER = UserContext(USER_IDS[1], "bob", Role.ADMIN, frozenset())


def limit(**changes: object) -> Limit:
    """Return a limit on all calls of all tools."""
    return replace(Limit("1", "few", PolicyTarget(), EVERYONE), **changes)  # type: ignore[arg-type]  # tests name their members


def refused(replay: LimitReplay, *calls: RecordedCall) -> list[int]:
    """Return the places of the calls that a draft would have refused."""
    effects = [replay.judge(call)[0] for call in calls]
    return [place for place, effect in enumerate(effects) if effect is CallEffect.REFUSED]


@pytest.mark.parametrize(
    ("drafted", "places"),
    [
        (limit(rates=(Rate(0, Period.DAY),)), [0, 1, 2, 3, 4]),
        (limit(in_flight=0), [0, 1, 2, 3, 4]),
        # A call counts until its slot lies a minute back; what is refused counts nowhere.
        (limit(rates=(MINUTE,)), [2, 3]),
        (limit(rates=(Rate(1, Period.SECOND), Rate(3, Period.MINUTE))), [1]),
        (limit(in_flight=1), [1]),
        (limit(rates=(MINUTE,), per=(Dimension.USER,)), [2]),
        (limit(rates=(MINUTE,), per=(Dimension.ROLE,)), [2]),
        (limit(rates=(MINUTE,), target=PolicyTarget(owner_id=OWNERS[1])), []),
        (limit(rates=(MINUTE,), target=PolicyTarget(tools=("ech*",))), [2, 3]),
        (limit(rates=(MINUTE,), is_enabled=False), []),
    ],
    ids=str,
)
def test_a_limit_counts_as_the_engine_does(drafted: Limit, places: list[int]) -> None:
    calls = [
        recorded(SOMEBODY, seconds=0, took_ms=1_500),
        recorded(SOMEBODY, seconds=1),
        recorded(SOMEBODY, seconds=10),
        recorded(OTHER, seconds=20),
        recorded(SOMEBODY, seconds=64),
    ]

    assert refused(LimitReplay(None, drafted), *calls) == places


def test_what_another_rule_refused_takes_no_room() -> None:
    replay = LimitReplay(None, limit(rates=(Rate(1, Period.MINUTE),)))
    outcomes = ("limited", "denied", "invalid_arguments", "quarantined", "ok", "unconfirmed")
    calls = [
        recorded(SOMEBODY, seconds=number, outcome=one) for number, one in enumerate(outcomes)
    ]

    assert refused(replay, *calls) == [5]
