"""Why somebody may use a tool, or not, in words. Pure.

Decides nothing by itself: the steps are those of the gateway, asked in its order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from registry.access.policies.decisions import ToolRule, decide, deciding, ways
from registry.access.policies.ports import PolicyServer
from registry.access.policies.values import Effect, Policy, PolicyDecision
from registry.access.policy import VIEW_BIT, AccessDecision
from registry.auth.identity import Scope, UserContext
from registry.tools.exposure import is_served
from registry.tools.lifecycle import State

INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class Reason:
    """One step on the way to a tool.

    Attributes:
        step: `server`, `tool`, `access`, `scope` or `policy`.
    """

    step: str
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class Consulted:
    """A policy about the tool.

    Attributes:
        how: By what it names the caller; nothing when it does not.
        decided: Whether the decision was made by it.
    """

    policy: Policy
    how: tuple[str, ...]
    decided: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a caller may use a tool, and why."""

    allowed: bool
    message: str
    reasons: tuple[Reason, ...]
    policies: tuple[Consulted, ...]


def explain(
    user: UserContext,
    owner: PolicyServer,
    access: AccessDecision,
    state: State | None,
    rule: ToolRule,
    *,
    requires_approval: bool,
    tells_states: bool,
    tells_names: bool,
) -> Explanation:
    """Return whether *user* may use a tool of *owner*, and why.

    Args:
        user: About whom it is.
        owner: The server.
        access: What the gateway decides of them and the server.
        state: The tool's states; None when there is no such tool.
        rule: The policies about the tool.
        requires_approval: Whether its calls are refused because a person must approve each.
        tells_states: Whether who asks may know of tools that are not served.
        tells_names: Whether they may know which policies there are.
    """
    reasons: tuple[Reason, ...] = (
        _of_server(owner),
        _of_tool(state, tells_states=tells_states),
        _of_access(access, is_admin=user.is_admin),
        _of_scope(user),
        _of_policies(user, rule, tells_names=tells_names),
    )
    if requires_approval:
        reasons = (*reasons, APPROVAL_MISSING)
    refused = next((reason for reason in reasons if not reason.passed), None)
    is_known = state is not None and is_served(*state)
    # A tool that is not served is nobody's business, nor are the policies about it.
    tells_policies = tells_states or is_known
    return Explanation(
        allowed=refused is None,
        message=(
            f"{user.username or user.user_id} may use this tool: {reasons[-1].message}"
            if refused is None
            else f"{user.username or user.user_id} may not use this tool: {refused.message}"
        ),
        reasons=reasons if tells_policies else reasons[:2],
        policies=_consulted(user, rule) if tells_policies and tells_names else (),
    )


APPROVAL_MISSING = Reason(
    "approval",
    False,
    "A person must approve each call (human_approval_required), and approvals are not available "
    "yet; APPROVALS=advisory lets calls pass.",
)


def blocking(user: UserContext, rule: ToolRule) -> str:
    """Return in one line which policies keep *user* from a tool, for records."""
    names = [policy.name for policy in deciding(user, rule)]
    shown = ", ".join(f'"{name}"' for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    verb = "denied by" if decide(user, rule) is PolicyDecision.DENIED else "allowed to others by"
    return f"{verb} {shown}{more}"


MOST_NAMED = 3
"""Policies that a record names; the others are counted."""


def _of_server(owner: PolicyServer) -> Reason:
    if owner.status == INACTIVE:
        return Reason("server", False, "The server is switched off.")
    if not owner.is_usable:
        return Reason("server", False, "What is stored of the server cannot be served.")
    return Reason("server", True, f"The server is {owner.status} and served at {owner.path}.")


def _of_tool(state: State | None, *, tells_states: bool) -> Reason:
    if state is not None and is_served(*state):
        return Reason("tool", True, "The tool is selected and active.")
    if state is None or not tells_states:
        return Reason("tool", False, "The server offers no tool of that name to anybody.")
    words = f"{state[0].value} and {state[1].value}"
    return Reason("tool", False, f"The tool is {words}; served is what is selected and active.")


def _of_access(access: AccessDecision, *, is_admin: bool) -> Reason:
    steps = access.verdict.trace
    if access.allowed:
        # An administrator may use it without any rule that names them.
        given = [step.rule.value for step in steps if step.bits & VIEW_BIT] or [access.rule.value]
        return Reason("access", True, f"They may use the server: {'; '.join(given)}.")
    said = "; ".join(step.rule.value for step in steps)
    told = f"They may not use the server: {said}."
    if is_admin:
        told += " Administrators see it without being named, and use it only if they are."
    return Reason("access", False, told)


def _of_scope(user: UserContext) -> Reason:
    missing = user.lacks(Scope.READ_TOOLS, Scope.INVOKE_TOOLS)
    if missing:
        return Reason("scope", False, f"Their token lacks the scope {' '.join(missing)}.")
    return Reason("scope", True, "Their token lets them list and call tools.")


POLICY_MESSAGES: Mapping[PolicyDecision, str] = {
    PolicyDecision.OPEN: "No policy is in the way.",
    PolicyDecision.ALLOWED: "A policy allows it to them.",
    PolicyDecision.ADMINISTRATOR: "Policies allow it to some only, but administrators pass those.",
    PolicyDecision.DENIED: "A policy denies it to them.",
    PolicyDecision.NOT_NAMED: "Policies allow it to some only, and name them in no way.",
}


def _of_policies(user: UserContext, rule: ToolRule, *, tells_names: bool) -> Reason:
    decision = decide(user, rule)
    named = deciding(user, rule)[:MOST_NAMED] if tells_names else ()
    names = ", ".join(f'"{policy.name}"' for policy in named)
    told = POLICY_MESSAGES[decision]
    message = f"{told[:-1]} ({names})." if names else told
    return Reason("policy", decision.is_allowed, message)


def _consulted(user: UserContext, rule: ToolRule) -> tuple[Consulted, ...]:
    by = {policy.id for policy in deciding(user, rule)}
    ordered = sorted(rule.policies, key=lambda policy: policy.effect is Effect.ALLOW)
    return tuple(
        Consulted(policy, ways(user, policy.subjects), policy.id in by) for policy in ordered
    )
