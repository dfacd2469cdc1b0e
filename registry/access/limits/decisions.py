"""Which limits a call is subject to. Pure."""

from collections.abc import Iterable

from packages.models.states import SourceType
from registry.access.limits.values import Limit, LimitedTool
from registry.access.policies.decisions import is_named
from registry.auth.identity import UserContext
from registry.tools.metadata import facet


class LimitIndex:
    """All enabled limits, by server."""

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        everywhere: list[Limit] = []
        by_server: dict[str, list[Limit]] = {}
        for limit in sorted(limits, key=lambda one: one.id):
            if not limit.is_enabled or limit.target.source_type is SourceType.OPENAPI:
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

    def about(self, tool: LimitedTool) -> tuple[Limit, ...]:
        """Return the limits for a tool, whoever calls it."""
        found = self._by_server.get(tool.server_id, self._everywhere)
        return tuple(limit for limit in found if _is_about(limit, tool))


def applying(limits: Iterable[Limit], user: UserContext) -> list[Limit]:
    """Return those of a tool's limits that name a caller."""
    return [limit for limit in limits if limit.subjects.names(user)]


def _is_about(limit: Limit, tool: LimitedTool) -> bool:
    target = limit.target
    return is_named(target.tools, tool.name) and all(
        facet(flag, value) in tool.facets for flag, value in target.metadata.items()
    )
