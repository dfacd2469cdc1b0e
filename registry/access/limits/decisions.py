"""Which limits a call is subject to. Pure.

Limits are found once for each tool, and by the callers that they name, so that a call pays for
those that apply to it and not for the others.
"""

from collections.abc import Iterable, Sequence

from registry.access.limits.values import Limit, LimitedTool
from registry.access.policies.decisions import is_named
from registry.auth.identity import UserContext
from registry.tools.metadata import facet


class ToolLimits:
    """The limits for one tool.

    Attributes:
        tool: Its facts.
        everyone: Those that apply whoever calls.
    """

    __slots__ = ("_by_subject", "everyone", "tool")

    def __init__(self, tool: LimitedTool, limits: Iterable[Limit] = ()) -> None:
        self.tool = tool
        everyone: list[Limit] = []
        by_subject: dict[str, list[Limit]] = {}
        for limit in limits:
            named = limit.subjects
            if named.everyone:
                everyone.append(limit)
                continue
            # Ids, roles and scopes have different forms, and `applying` compares exactly.
            for subject in {*named.users, *named.groups, *named.roles, *named.scopes}:
                by_subject.setdefault(subject, []).append(limit)
        self.everyone = tuple(everyone)
        self._by_subject = by_subject

    @property
    def is_empty(self) -> bool:
        """Whether the tool has none."""
        return not self.everyone and not self._by_subject

    def applying(self, user: UserContext) -> Sequence[Limit]:
        """Return those that apply to a caller."""
        if not self._by_subject:
            return self.everyone
        subjects = (user.user_id, user.role, *user.groups, *user.scopes, *user.custom_scopes)
        found = {
            limit.id: limit
            for subject in subjects
            for limit in self._by_subject.get(subject, ())
            if limit.subjects.names(user)
        }
        return (*self.everyone, *found.values()) if found else self.everyone


class LimitIndex:
    """All enabled limits, by server."""

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        everywhere: list[Limit] = []
        by_server: dict[str, list[Limit]] = {}
        for limit in sorted(limits, key=lambda one: one.id):
            if not limit.is_enabled:
                continue
            if limit.target.owner_id is None:
                everywhere.append(limit)
            else:
                by_server.setdefault(limit.target.owner_id, []).append(limit)
        self._everywhere = tuple(everywhere)
        self._by_server = {server_id: (*everywhere, *own) for server_id, own in by_server.items()}

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self._everywhere and not self._by_server

    def about(self, tool: LimitedTool) -> ToolLimits:
        """Return the limits for a tool, whoever calls it."""
        found = self._by_server.get(tool.server_id, self._everywhere)
        return ToolLimits(tool, [limit for limit in found if _is_about(limit, tool)])


def _is_about(limit: Limit, tool: LimitedTool) -> bool:
    target = limit.target
    return (
        target.may_concern(tool.source_type)
        and is_named(target.tools, tool.name)
        and all(facet(flag, value) in tool.facets for flag, value in target.metadata.items())
    )
