"""Who may use a tool: the decision, held against a reading of the rules as plain as can be."""

import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packages.models.states import Effect, SourceType
from registry.access.policies.consequences import ServerTools, consequence
from registry.access.policies.decisions import (
    NO_RULE,
    PolicyIndex,
    ToolRule,
    decide,
    deciding,
    fits,
    rules_of,
    version_of,
    ways,
)
from registry.access.policies.values import (
    EVERYONE,
    Policy,
    PolicyDecision,
    PolicyTarget,
    Subjects,
    ToolFacts,
)
from registry.auth.identity import Role, UserContext
from tests.access.policies.strategies import OWNERS, PATTERNS, callers, policies, tools
from tests.conftest import ALICE, BOB, ROOT

TOOL = ToolFacts("drop_table", ("destructive:true",))
OWNER = OWNERS[0]


def policy(effect: Effect, subjects: Subjects = EVERYONE, number: int = 1) -> Policy:
    return Policy(f"{number:024x}", f"policy {number}", effect, PolicyTarget(), subjects)


ALLOW_ALICE = policy(Effect.ALLOW, Subjects(users=frozenset({ALICE.user_id})))
DENY_ALICE = policy(Effect.DENY, Subjects(users=frozenset({ALICE.user_id})), 2)
DENY_ALL = policy(Effect.DENY, number=3)
ALLOW_USERS = policy(Effect.ALLOW, Subjects(roles=frozenset({Role.USER})), 4)
ELSEWHERE = replace(DENY_ALL, target=PolicyTarget(owner_id=OWNERS[1]))


CLOSED_BUT_ALICE = 'Closes "drop_table" to all others but 1 user and administrators.'
OPENED = 'Opens "drop_table" to everyone to whom no policy denies it.'
NOTHING = "Changes for nobody which tools they may use."


@pytest.mark.parametrize(
    ("before", "after", "default", "said"),
    [
        ([], [ALLOW_ALICE], Effect.ALLOW, CLOSED_BUT_ALICE),
        ([ALLOW_ALICE], [], Effect.ALLOW, OPENED),
        ([ALLOW_ALICE], [replace(ALLOW_ALICE, is_enabled=False)], Effect.ALLOW, OPENED),
        ([], [ALLOW_ALICE], Effect.DENY, 'Opens "drop_table" to 1 user too.'),
        ([ALLOW_ALICE], [], Effect.DENY, 'No longer allows "drop_table" to 1 user.'),
        ([], [policy(Effect.ALLOW)], Effect.ALLOW, NOTHING),
        ([], [policy(Effect.ALLOW)], Effect.DENY, OPENED),
        (
            [ALLOW_ALICE],
            [ALLOW_ALICE, ALLOW_USERS],
            Effect.ALLOW,
            'Opens "drop_table" to role user too.',
        ),
        (
            [ALLOW_ALICE],
            [ALLOW_USERS],
            Effect.ALLOW,
            'Opens "drop_table" to role user too. No longer allows "drop_table" to 1 user.',
        ),
        ([], [DENY_ALICE], Effect.ALLOW, 'Denies "drop_table" to 1 user, administrators too.'),
        ([DENY_ALICE], [DENY_ALICE, replace(DENY_ALICE, id="f" * 24)], Effect.ALLOW, NOTHING),
        ([DENY_ALICE], [], Effect.ALLOW, 'No longer denies "drop_table" to 1 user.'),
        ([], [DENY_ALL], Effect.ALLOW, 'Closes "drop_table" to everyone, administrators too.'),
        ([DENY_ALL], [DENY_ALL, ALLOW_ALICE], Effect.ALLOW, NOTHING),
        (
            [DENY_ALL, DENY_ALICE],
            [DENY_ALICE],
            Effect.ALLOW,
            'Opens "drop_table" to everyone but 1 user.',
        ),
        ([], [ELSEWHERE], Effect.ALLOW, NOTHING),
    ],
)
def test_what_a_change_of_policies_does_is_said_in_words(
    before: list[Policy], after: list[Policy], default: Effect, said: str
) -> None:
    servers = {OWNER: ServerTools(default, [TOOL])}

    assert consequence(before, after, servers) == said


def test_a_sentence_names_few_tools_and_one_about_none_says_so() -> None:
    tools = [ToolFacts(f"t{number}") for number in range(5)]

    many = consequence([], [DENY_ALL], {OWNER: ServerTools(Effect.ALLOW, tools)})
    none = consequence([], [DENY_ALL], {OWNER: ServerTools(Effect.ALLOW, [])})

    assert many == 'Closes "t0", "t1", "t2" and 2 more to everyone, administrators too.'
    assert none == "Is about no tool that there is now."


def rule_about(
    stored: Sequence[Policy], owner_id: str, tool: ToolFacts, default: Effect = Effect.ALLOW
) -> ToolRule:
    """Return the rule of a tool as the gateway works it out."""
    index = PolicyIndex(stored)
    return rules_of(index.about(owner_id, SourceType.MCP), [tool], default).get(tool.name, NO_RULE)


KINDS = (None, SourceType.MCP)
"""Of policies about all servers, those that are about an MCP server."""


def plainly_about(one: Policy, owner_id: str, tool: ToolFacts) -> bool:
    """Say whether a policy is about a tool, in other words."""
    target = one.target
    known = dict(facet.split(":") for facet in tool.facets)
    wanted = {flag: str(value).lower() for flag, value in target.metadata.items()}
    patterns = [name.replace("[", "[[]").replace("?", "[?]") for name in target.tools]
    return (
        (target.owner_id == owner_id or (target.owner_id is None and target.source_type in KINDS))
        and (not patterns or any(fnmatch.fnmatchcase(tool.name, one) for one in patterns))
        and wanted.items() <= known.items()
    )


def plainly_names(subjects: Subjects, user: UserContext) -> bool:
    """Say the same as `Subjects.names`, in other words."""
    held = {*user.scopes, *user.custom_scopes}
    return (
        subjects.everyone
        or user.user_id in subjects.users
        or bool(subjects.groups & user.groups)
        or user.role in subjects.roles
        or bool(subjects.scopes & held)
    )


def plainly_allowed(
    stored: Sequence[Policy],
    owner_id: str,
    tool: ToolFacts,
    user: UserContext,
    default: Effect,
) -> bool:
    """Say what the policies say, one after the other."""
    about = [one for one in stored if one.is_enabled and plainly_about(one, owner_id, tool)]
    if any(one.effect is Effect.DENY and plainly_names(one.subjects, user) for one in about):
        return False
    allowing = [one for one in about if one.effect is Effect.ALLOW]
    if user.is_admin or (not allowing and default is Effect.ALLOW):
        return True
    return any(plainly_names(one.subjects, user) for one in allowing)


@pytest.mark.requirement("R-009")
@given(policies, st.sampled_from(OWNERS), tools, callers, st.sampled_from(Effect))
def test_the_decision_is_what_the_policies_say_one_after_the_other(
    stored: list[Policy], owner_id: str, tool: ToolFacts, user: UserContext, default: Effect
) -> None:
    decision = decide(user, rule_about(stored, owner_id, tool, default))

    assert decision.is_allowed is plainly_allowed(stored, owner_id, tool, user, default)


@pytest.mark.requirement("R-009")
@given(policies, st.randoms(), st.sampled_from(OWNERS), tools, callers)
def test_the_same_policies_decide_the_same_in_any_order(
    stored: list[Policy],
    random: object,
    owner_id: str,
    tool: ToolFacts,
    user: UserContext,
) -> None:
    shuffled = list(stored)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' own Random

    first = rule_about(stored, owner_id, tool)
    again = rule_about(shuffled, owner_id, tool)

    assert first == again
    assert decide(user, first) is decide(user, again)
    assert deciding(user, first) == deciding(user, again)


@given(policies, st.sampled_from(OWNERS), tools, callers)
def test_one_policy_that_denies_to_everyone_wins_over_all_others(
    stored: list[Policy], owner_id: str, tool: ToolFacts, user: UserContext
) -> None:
    denied = [*stored, replace(DENY_ALL, id="f" * 24)]

    assert decide(user, rule_about(denied, owner_id, tool)) is PolicyDecision.DENIED


@given(policies, st.sampled_from(OWNERS), st.lists(tools, max_size=4, unique_by=lambda t: t.name))
def test_rules_of_many_tools_hold_exactly_the_policies_about_each(
    stored: list[Policy], owner_id: str, found: list[ToolFacts]
) -> None:
    enabled = [one for one in stored if one.is_enabled]

    rules = rules_of(PolicyIndex(stored).about(owner_id, SourceType.MCP), found)

    wanted = {
        tool.name: tuple(one for one in enabled if plainly_about(one, owner_id, tool))
        for tool in found
    }
    assert {name: rule.policies for name, rule in rules.items()} == {
        name: about for name, about in wanted.items() if about
    }


@given(policies, st.sampled_from(OWNERS), tools, callers, st.sampled_from(Effect))
def test_what_decided_names_the_caller_unless_it_leaves_them_out(
    stored: list[Policy], owner_id: str, tool: ToolFacts, user: UserContext, default: Effect
) -> None:
    rule = rule_about(stored, owner_id, tool, default)

    by = deciding(user, rule)

    named = [bool(ways(user, one.subjects)) for one in by]
    by_name = decide(user, rule) in {PolicyDecision.DENIED, PolicyDecision.ALLOWED}
    assert named == [by_name] * len(by)
    is_by_default = decide(user, rule) in {PolicyDecision.OPEN, PolicyDecision.CLOSED}
    assert is_by_default <= (not by)
    assert bool(by) or is_by_default or (user.is_admin and default is Effect.DENY)
    if default is Effect.DENY:
        assert version_of(rule) != version_of(rule_about(stored, owner_id, tool))


@given(st.sampled_from(PATTERNS), st.text("adropel_*[]?", max_size=12))
def test_a_star_stands_for_any_text_and_nothing_else_does(pattern: str, name: str) -> None:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))

    assert fits(pattern, name) is (re.fullmatch(expression, name, re.DOTALL) is not None)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    began_at = time.process_time()

    assert not fits("*a" * 120 + "*b", "a" * 100_000)

    assert time.process_time() - began_at < 1


@pytest.mark.parametrize(
    ("stored", "user", "expected"),
    [
        ((), BOB, PolicyDecision.OPEN),
        ((DENY_ALICE,), BOB, PolicyDecision.OPEN),
        ((DENY_ALICE,), ALICE, PolicyDecision.DENIED),
        ((DENY_ALL,), ROOT, PolicyDecision.DENIED),
        ((ALLOW_ALICE,), ALICE, PolicyDecision.ALLOWED),
        ((ALLOW_ALICE,), BOB, PolicyDecision.NOT_NAMED),
        ((ALLOW_ALICE,), ROOT, PolicyDecision.ADMINISTRATOR),
        ((ALLOW_ALICE, DENY_ALICE), ALICE, PolicyDecision.DENIED),
        ((ALLOW_ALICE, DENY_ALL), ROOT, PolicyDecision.DENIED),
        ((replace(DENY_ALL, is_enabled=False),), ALICE, PolicyDecision.OPEN),
        (
            (replace(DENY_ALL, target=PolicyTarget(owner_id=OWNERS[1])),),
            ALICE,
            PolicyDecision.OPEN,
        ),
        (
            (replace(DENY_ALL, target=PolicyTarget(SourceType.OPENAPI)),),
            ALICE,
            PolicyDecision.OPEN,
        ),
    ],
)
def test_denying_wins_and_allowing_to_some_keeps_the_others_out(
    stored: tuple[Policy, ...], user: UserContext, expected: PolicyDecision
) -> None:
    assert decide(user, rule_about(stored, OWNER, TOOL)) is expected


@pytest.mark.parametrize(
    ("subjects", "how"),
    [
        (Subjects(users=frozenset({ALICE.user_id})), ("user",)),
        (Subjects(groups=frozenset({"9" * 24})), ("group",)),
        (Subjects(roles=frozenset({ALICE.role})), ("role user",)),
        (Subjects(scopes=frozenset({"finance:read"})), ("scope finance:read",)),
        (Subjects(scopes=frozenset({"invoke:tools"})), ("scope invoke:tools",)),
        (EVERYONE, ("everyone",)),
        (Subjects(users=frozenset({BOB.user_id}), scopes=frozenset({"Finance:Read"})), ()),
    ],
)
def test_a_caller_is_named_by_id_group_role_or_scope(
    subjects: Subjects, how: tuple[str, ...]
) -> None:
    alice = replace(ALICE, groups=frozenset({"9" * 24}), custom_scopes=frozenset({"finance:read"}))

    assert ways(alice, subjects) == how
    assert subjects.names(alice) is bool(how)
