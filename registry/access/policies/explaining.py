"""Explanation of why a user may use a tool, or not. Pure.

Makes no decisions: the steps are the gateway's, in its order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packages.models.states import Effect
from registry.access.policies.decisions import ToolRule, decide, deciding, ways
from registry.access.policies.ports import PolicyServer, WaitingCall
from registry.access.policies.values import Policy, PolicyDecision, Reason
from registry.access.policy import VIEW_BIT, AccessDecision
from registry.auth.identity import Scope, UserContext
from registry.core.text import timestamp
from registry.tools.call_rules import CallRules
from registry.tools.exposure import is_served
from registry.tools.lifecycle import State

INACTIVE = "inactive"
POLICY_STEP = 5
"""Place of the step about policies, which says why a tool may be used."""


@dataclass(frozen=True, slots=True)
class Consulted:
    """A policy for the tool.

    Attributes:
        how: How it names the caller; empty if it does not.
        is_decisive: Whether it determined the decision.
    """

    policy: Policy
    matched_by: tuple[str, ...]
    is_decisive: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a caller may use a tool, and why.

    Attributes:
        warnings: What may surprise those who write policies; empty for others.
    """

    allowed: bool
    message: str
    reasons: tuple[Reason, ...]
    policies: tuple[Consulted, ...]
    warnings: tuple[str, ...]


def explain(  # noqa: PLR0913 - the steps, by keyword
    user: UserContext,
    owner: PolicyServer,
    access: AccessDecision,
    state: State | None,
    rule: ToolRule,
    *,
    rules: CallRules,
    further: tuple[Reason, ...],
    waiting: Sequence[WaitingCall] = (),
    reveals_states: bool,
    reveals_names: bool,
) -> Explanation:
    """Return whether *user* may use a tool of *owner*, and why.

    Args:
        user: The caller in question.
        owner: The server.
        access: The gateway's decision about them and the server.
        state: The tool's states; None if there is no such tool.
        rule: The policies for the tool.
        rules: What is demanded of each of its calls.
        further: What quarantines say, before all else; toolsets, limits and budgets, after it.
        waiting: Calls of the tool by *user* that wait for approval, newest first.
        reveals_states: Whether the reader may know of tools that are not served.
        reveals_names: Whether the reader may know which policies there are.
    """
    quarantine, *conditions = further
    reasons: tuple[Reason, ...] = (
        quarantine,
        _of_server(owner),
        _of_tool(state, reveals_states=reveals_states),
        _of_access(access, is_admin=user.is_admin),
        _of_scope(user),
        _of_policies(user, rule, reveals_names=reveals_names),
        *conditions,
    )
    if rules.is_confirmed:
        reasons = (*reasons, CONFIRMATION_NEEDED)
    if rules.approvals:
        reasons = (*reasons, _of_approvals(rules.approvals, waiting))
    refused = next((reason for reason in reasons if not reason.passed), None)
    is_known = state is not None and is_served(*state)
    # A tool that is not served is confidential, and so are the policies for it.
    reveals_policies = reveals_states or is_known
    return Explanation(
        allowed=refused is None,
        message=(
            f"{user.username or user.user_id} may use this tool: {reasons[POLICY_STEP].message}"
            if refused is None
            else f"{user.username or user.user_id} may not use this tool: {refused.message}"
        ),
        reasons=reasons if reveals_policies else reasons[:3],
        policies=_consulted(user, rule) if reveals_policies and reveals_names else (),
        warnings=_warnings(rule) if reveals_policies and reveals_names else (),
    )


CONFIRMATION_NEEDED = Reason(
    "confirmation", True, "Their user must confirm each call before it is sent."
)

CLOSED_BY_ALLOW = (
    "The policies that allow this tool close it to all others but administrators: without them it "
    "would be open to everyone who may use the server. With defaultEffect deny of the server, "
    "policies open its tools instead."
)


def _of_approvals(needed: int, waiting: Sequence[WaitingCall]) -> Reason:
    who = "A person" if needed == 1 else f"{needed} people"
    message = f"{who} must approve each call (human_approval_required): it waits for them."
    if waiting:
        said = "; ".join(
            f"{one.id} ({one.state}, {one.approvals} of {one.needed} approved, "
            f"expires {timestamp(one.expires_at)})"
            for one in waiting[:MAX_NAMED]
        )
        more = f"; and {len(waiting) - MAX_NAMED} more" if len(waiting) > MAX_NAMED else ""
        message += f" Of theirs wait now: {said}{more}."
    return Reason("approval", True, message)


def _warnings(rule: ToolRule) -> tuple[str, ...]:
    is_narrowed = rule.allowed is not None and not rule.allowed.everyone
    return (CLOSED_BY_ALLOW,) if is_narrowed and rule.default is Effect.ALLOW else ()


def blocking(user: UserContext, rule: ToolRule) -> str:
    """Return in one line which policies keep *user* from a tool, for records."""
    if decide(user, rule) is PolicyDecision.CLOSED:
        return "closed by the default of its server"
    names = [policy.name for policy in deciding(user, rule)]
    shown = ", ".join(f'"{name}"' for name in names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    verb = "denied by" if decide(user, rule) is PolicyDecision.DENIED else "allowed to others by"
    return f"{verb} {shown}{more}"


MAX_NAMED = 3
"""Maximum number of policies that a record names; the others are counted."""


def _of_server(owner: PolicyServer) -> Reason:
    if owner.status == INACTIVE:
        return Reason("server", False, "The server is inactive.")
    if not owner.is_usable:
        return Reason("server", False, "The stored server is invalid and cannot be served.")
    return Reason("server", True, f"The server is {owner.status} and served at {owner.path}.")


def _of_tool(state: State | None, *, reveals_states: bool) -> Reason:
    if state is not None and is_served(*state):
        return Reason("tool", True, "The tool is selected and active.")
    if state is None or not reveals_states:
        return Reason("tool", False, "The server serves no tool of that name to any caller.")
    words = f"{state[0].value} and {state[1].value}"
    return Reason("tool", False, f"The tool is {words}; it must be selected and active.")


def _of_access(access: AccessDecision, *, is_admin: bool) -> Reason:
    steps = access.verdict.trace
    if access.allowed:
        # An administrator may use it without any rule that names them.
        rules = [step.rule.value for step in steps if step.bits & VIEW_BIT] or [access.rule.value]
        return Reason("access", True, f"They may use the server: {'; '.join(rules)}.")
    rules = [step.rule.value for step in steps]
    message = f"They may not use the server: {'; '.join(rules)}."
    if is_admin:
        message += " Administrators may see it, but use it only if an ACL entry names them."
    return Reason("access", False, message)


def _of_scope(user: UserContext) -> Reason:
    missing = user.lacks(Scope.READ_TOOLS, Scope.INVOKE_TOOLS)
    if missing:
        return Reason("scope", False, f"Their token lacks the scope {' '.join(missing)}.")
    return Reason("scope", True, "Their token allows listing and calling tools.")


POLICY_MESSAGES: Mapping[PolicyDecision, str] = {
    PolicyDecision.OPEN: "No policy restricts it.",
    PolicyDecision.ALLOWED: "A policy allows it to them.",
    PolicyDecision.ADMINISTRATOR: "Policies allow it to some only, but administrators may use it.",
    PolicyDecision.DENIED: "A policy denies it to them.",
    PolicyDecision.NOT_NAMED: "Policies allow it to some only, and do not name them.",
    PolicyDecision.CLOSED: "The server refuses its tools by default, and no policy allows it.",
}


def _of_policies(user: UserContext, rule: ToolRule, *, reveals_names: bool) -> Reason:
    decision = decide(user, rule)
    named = deciding(user, rule)[:MAX_NAMED] if reveals_names else ()
    names = ", ".join(f'"{policy.name}"' for policy in named)
    message = POLICY_MESSAGES[decision]
    if names:
        message = f"{message[:-1]} ({names})."
    return Reason("policy", decision.is_allowed, message)


def _consulted(user: UserContext, rule: ToolRule) -> tuple[Consulted, ...]:
    by = {policy.id for policy in deciding(user, rule)}
    ordered = sorted(rule.policies, key=lambda policy: policy.effect is Effect.ALLOW)
    return tuple(
        Consulted(policy, ways(user, policy.subjects), policy.id in by) for policy in ordered
    )
