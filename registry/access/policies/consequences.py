"""Consequences: what a written policy or default changes about who may use tools, in words. Pure.

Told is the change, not what the policy says: each tool's rule without it is compared with that
after it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from packages.models.states import Effect
from registry.access.policies.decisions import NO_RULE, PolicyIndex, ToolRule, rules_of
from registry.access.policies.values import NO_SUBJECTS, Policy, Subjects, ToolFacts

MAX_NAMED = 3
"""Maximum number of tools, and of roles or scopes, that a sentence names."""

NO_CHANGE = "Changes for nobody which tools they may use."
NO_TOOLS = "Is about no tool that there is now."


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The tools of a server that a policy may be about.

    Attributes:
        default: What holds for those that no policy allows.
    """

    default: Effect
    tools: Sequence[ToolFacts]


def consequence(
    before: Collection[Policy], after: Collection[Policy], servers: Mapping[str, ServerTools]
) -> str:
    """Return in words what follows for the tools of *servers* from a change of policies."""
    if not any(server.tools for server in servers.values()):
        return NO_TOOLS
    was, now = PolicyIndex(before), PolicyIndex(after)
    return _said(
        (
            server.tools,
            rules_of(was.about(server_id), server.tools, server.default),
            rules_of(now.about(server_id), server.tools, server.default),
        )
        for server_id, server in servers.items()
    )


def default_consequence(
    policies: Collection[Policy], server_id: str, server: ServerTools, former: Effect
) -> str:
    """Return in words what follows for a server's tools from another default than *former*."""
    if not server.tools:
        return NO_TOOLS
    about = PolicyIndex(policies).about(server_id)
    was = rules_of(about, server.tools, former)
    now = rules_of(about, server.tools, server.default)
    return _said([(server.tools, was, now)])


def _said(
    compared: Iterable[tuple[Sequence[ToolFacts], Mapping[str, ToolRule], Mapping[str, ToolRule]]],
) -> str:
    """Return the differences between former and latter rules of tools in words."""
    found: dict[tuple[str, str], list[str]] = {}
    for tools, former, latter in compared:
        for tool in tools:
            pair = former.get(tool.name, NO_RULE), latter.get(tool.name, NO_RULE)
            for change in _changes(*map(_audience, pair)):
                found.setdefault(change, []).append(tool.name)
    said = [f"{verb} {_shown(names)} {whom}." for (verb, whom), names in found.items()]
    return " ".join(said) or NO_CHANGE


@dataclass(frozen=True, slots=True)
class _Audience:
    """Who may use a tool: those who are allowed (None for all), but those who are denied."""

    denied: Subjects
    allowed: Subjects | None


NOBODY = _Audience(Subjects(everyone=True), NO_SUBJECTS)


def _audience(rule: ToolRule) -> _Audience:
    if rule.denied.everyone:
        return NOBODY
    is_open = rule.allowed is None or rule.allowed.everyone
    return _Audience(rule.denied, None if is_open else rule.allowed)


def _changes(was: _Audience, now: _Audience) -> Iterator[tuple[str, str]]:
    """Yield a verb, and to whom, for each difference."""
    if was == now:
        return
    if now == NOBODY:
        yield "Closes", "to everyone, administrators too"
        return
    if was == NOBODY:
        whom = "everyone" if now.allowed is None else _also(now.allowed, "administrators")
        but = "" if now.denied == NO_SUBJECTS else f" but {_who(now.denied)}"
        yield "Opens", f"to {whom}{but}"
        return
    if was.allowed is None and now.allowed is not None:
        yield "Closes", f"to all others but {_also(now.allowed, 'administrators')}"
    elif was.allowed is not None and now.allowed is None:
        yield "Opens", "to everyone to whom no policy denies it"
    elif was.allowed is not None and now.allowed is not None:
        if (more := _without(now.allowed, was.allowed)) != NO_SUBJECTS:
            yield "Opens", f"to {_who(more)} too"
        if (less := _without(was.allowed, now.allowed)) != NO_SUBJECTS:
            yield "No longer allows", f"to {_who(less)}"
    yield from _denials(was, now)


def _denials(was: _Audience, now: _Audience) -> Iterator[tuple[str, str]]:
    if (more := _without(now.denied, was.denied)) != NO_SUBJECTS:
        yield "Denies", f"to {_who(more)}, administrators too"
    if (less := _without(was.denied, now.denied)) != NO_SUBJECTS:
        yield "No longer denies", f"to {_who(less)}"


def _without(subjects: Subjects, others: Subjects) -> Subjects:
    return Subjects(
        **{
            field.name: getattr(subjects, field.name) - getattr(others, field.name)
            for field in fields(Subjects)
            if field.name != "everyone"
        }
    )


def _also(subjects: Subjects, others: str) -> str:
    return others if subjects == NO_SUBJECTS else f"{_who(subjects)} and {others}"


def _who(subjects: Subjects) -> str:
    parts = [_counted(len(subjects.users), "user"), _counted(len(subjects.groups), "group")]
    parts += [f"role {role}" for role in sorted(role.value for role in subjects.roles)]
    scopes = sorted(subjects.scopes)
    parts += [f"scope {scope}" for scope in scopes[:MAX_NAMED]]
    parts.append(_counted(len(scopes) - MAX_NAMED, "more scope"))
    return ", ".join(part for part in parts if part)


def _counted(number: int, what: str) -> str:
    return "" if number <= 0 else f"{number} {what}{'' if number == 1 else 's'}"


def _shown(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(f'"{name}"' for name in distinct[:MAX_NAMED])
    more = len(distinct) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
