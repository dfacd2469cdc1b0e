"""Policy decision: who may use a tool, for lists, calls and explanations alike. Pure.

A served tool of a server that the caller may use can be used, unless a policy denies it to them,
or there are policies that allow it and none of them names the caller. On a server that refuses its
tools by default it needs a policy that allows it. Deny takes precedence, also for administrators;
the need of a policy that allows does not apply to them.

Combinations are computed once for all callers: `rules_of` finds the policies for each tool, and a
`ToolRule` holds all their subjects in a few sets.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from packages.models.states import Effect, SourceType
from registry.access.policies.values import (
    NO_SUBJECTS,
    Policy,
    PolicyDecision,
    Subjects,
    ToolFacts,
)
from registry.auth.identity import UserContext
from registry.core.json import JsonValue, canonical_json
from registry.tools.metadata import facet

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class ToolRule:
    """All policies for a tool, combined.

    Attributes:
        policies: Enabled ones, in the order of their ids.
        default: What holds while no policy allows the tool.
        denied: The callers that any deny policy names.
        allowed: The callers that any allow policy names; None if everyone may use the tool.
    """

    policies: tuple[Policy, ...]
    default: Effect = Effect.ALLOW
    denied: Subjects = field(init=False, compare=False, repr=False)
    allowed: Subjects | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Combine policies."""
        denied = NO_SUBJECTS
        allowed = NO_SUBJECTS if self.default is Effect.DENY else None
        for policy in self.policies:
            if policy.effect is Effect.DENY:
                denied = denied.merged(policy.subjects)
            else:
                allowed = policy.subjects.merged(allowed or NO_SUBJECTS)
        object.__setattr__(self, "denied", denied)
        object.__setattr__(self, "allowed", allowed)


NO_RULE = ToolRule(())
CLOSED = ToolRule((), Effect.DENY)
"""The rule for a tool without policies on a server that refuses its tools by default."""


def version_of(rule: ToolRule) -> str:
    """Return a digest of a rule; another after each change of its policies or its default."""
    said: JsonValue = [
        rule.default.value,
        *(
            [policy.id, policy.effect.value, policy.problem, _plain(policy.subjects)]
            for policy in rule.policies
        ),
    ]
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def _plain(subjects: Subjects) -> JsonValue:
    return {
        field.name: sorted(value) if isinstance(value, frozenset) else value
        for field in fields(subjects)
        for value in (getattr(subjects, field.name),)
    }


def decide(user: UserContext, rule: ToolRule) -> PolicyDecision:
    """Decide whether *user* may use a tool that is otherwise served to them."""
    if rule.denied.names(user):
        return PolicyDecision.DENIED
    if rule.allowed is None:
        return PolicyDecision.OPEN
    if rule.allowed.names(user):
        return PolicyDecision.ALLOWED
    if user.is_admin:
        return PolicyDecision.ADMINISTRATOR
    return PolicyDecision.CLOSED if rule.allowed == NO_SUBJECTS else PolicyDecision.NOT_NAMED


def deciding(user: UserContext, rule: ToolRule) -> tuple[Policy, ...]:
    """Return the policies behind the result of `decide`: those that name the caller, or omit them.

    None for a tool that is open, or closed by default; the allow policies, for an administrator.
    """
    match decide(user, rule):
        case PolicyDecision.OPEN | PolicyDecision.CLOSED:
            return ()
        case PolicyDecision.DENIED:
            return _of(rule, lambda item: _denies(item) and item.subjects.names(user))
        case PolicyDecision.ALLOWED:
            return _of(rule, lambda item: not _denies(item) and item.subjects.names(user))
        case PolicyDecision.NOT_NAMED | PolicyDecision.ADMINISTRATOR:
            return _of(rule, lambda item: not _denies(item))


def ways(user: UserContext, subjects: Subjects) -> tuple[str, ...]:
    """Return how *subjects* name *user*, as texts; empty if they do not."""
    scopes = sorted(subjects.scopes & user.held_scopes)
    found = {
        "everyone": subjects.everyone,
        "user": user.user_id in subjects.users,
        "group": not subjects.groups.isdisjoint(user.groups),
        f"role {user.role.value}": user.role in subjects.roles,
        f"scope {' '.join(scopes)}": bool(scopes),
    }
    return tuple(way for way, is_so in found.items() if is_so)


def is_named(patterns: Sequence[str], name: str) -> bool:
    """Whether any of the *patterns* matches that tool name; no patterns match nothing."""
    return not patterns or any(fits(pattern, name) for pattern in patterns)


def fits(pattern: str, name: str) -> bool:
    """Whether *name* matches *pattern*, in which `*` matches any text. Takes linear time."""
    first, *others = pattern.split(WILDCARD)
    if not others:
        return pattern == name
    last = others.pop()
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    # The leftmost match of each piece leaves the most text for those after it.
    start, end = len(first), len(name) - len(last)
    for piece in others:
        found = name.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


class PolicyIndex:
    """All enabled policies, by server."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        everywhere: list[Policy] = []
        by_owner: dict[str, list[Policy]] = {}
        for policy in sorted(policies, key=lambda policy: policy.id):
            if not policy.is_enabled:
                continue
            if policy.target.owner_id is None:
                everywhere.append(policy)
            else:
                by_owner.setdefault(policy.target.owner_id, []).append(policy)
        self._everywhere = {
            kind: tuple(policy for policy in everywhere if policy.target.may_concern(kind))
            for kind in (None, *SourceType)
        }
        self._by_owner = {
            owner_id: tuple(sorted((*everywhere, *own), key=lambda policy: policy.id))
            for owner_id, own in by_owner.items()
        }

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self._everywhere[None] and not self._by_owner

    def about(self, owner_id: str, source_type: SourceType | None = None) -> tuple[Policy, ...]:
        """Return the policies for any tool of a server, in the order of their ids.

        Args:
            owner_id: The server.
            source_type: Its kind; None if that is unknown, and policies about either count.
        """
        own = self._by_owner.get(owner_id)
        if own is None:
            return self._everywhere[source_type]
        return tuple(policy for policy in own if policy.target.may_concern(source_type))


def rules_of(
    policies: Sequence[Policy], tools: Iterable[ToolFacts], default: Effect = Effect.ALLOW
) -> Mapping[str, ToolRule]:
    """Return the rules of one server's tools, by name; none for those that everyone may use.

    Tools with the same policies share a rule.

    Args:
        policies: Enabled ones for the server.
        tools: All its tools.
        default: What holds for a tool that no policy allows.
    """
    tests = [(policy, *_test(policy)) for policy in policies]
    # Exact names are looked up, not matched.
    exact: dict[str, list[Policy]] = {}
    for policy, names, _ in tests:
        for name in names:
            exact.setdefault(name, []).append(policy)
    others = [(policy, test) for policy, _, test in tests if test is not None]
    rules: dict[tuple[str, ...], ToolRule] = {}
    found: dict[str, ToolRule] = {}
    for tool in tools:
        about = {policy.id: policy for policy, test in others if test(tool)}
        for policy in exact.get(tool.name, ()):
            about[policy.id] = policy
        if about:
            key = tuple(sorted(about))
            if key not in rules:
                rules[key] = ToolRule(tuple(about[policy_id] for policy_id in key), default)
            found[tool.name] = rules[key]
        elif default is Effect.DENY:
            found[tool.name] = CLOSED
    return found


Test = Callable[[ToolFacts], bool]


def _test(policy: Policy) -> tuple[frozenset[str], Test | None]:
    """Return the exact names that a policy applies to, and a test for others."""
    target = policy.target
    facets = [facet(flag, value) for flag, value in target.metadata.items()]

    def has_facets(tool: ToolFacts) -> bool:
        return all(one in tool.facets for one in facets)

    if facets or not target.tools:
        patterns = target.tools
        return frozenset(), lambda tool: has_facets(tool) and is_named(patterns, tool.name)
    wild = tuple(pattern for pattern in target.tools if WILDCARD in pattern)
    exact = frozenset(target.tools) - set(wild)
    return exact, (lambda tool: is_named(wild, tool.name)) if wild else None


def _denies(policy: Policy) -> bool:
    return policy.effect is Effect.DENY


def _of(rule: ToolRule, is_meant: Callable[[Policy], bool]) -> tuple[Policy, ...]:
    return tuple(policy for policy in rule.policies if is_meant(policy))
