"""The limits in memory, as calls use them."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from registry.access.limits.decisions import LimitIndex, ToolLimits
from registry.access.limits.ports import StoredLimits
from registry.access.limits.values import Limit, LimitedTool

KNOWN_TOOLS = 50_000
"""Maximum number of tools whose limits are kept found."""


class LimitTable:
    """All limits; follows their collection."""

    collection = "limits"

    def __init__(self, stored: StoredLimits) -> None:
        self._stored = stored
        self._index = LimitIndex()
        self._limits: Mapping[str, Limit] = {}
        self._found: dict[tuple[str, str], tuple[object, ToolLimits]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return self._index.is_empty

    def known(self, server_id: str, name: str, entry: object) -> ToolLimits | None:
        """Return a tool's limits if they were found before.

        Args:
            server_id: Its server.
            name: Its name there.
            entry: What stands for its facts; another object may have others.
        """
        found = self._found.get((server_id, name))
        return found[1] if found is not None and found[0] is entry else None

    def find(self, tool: LimitedTool, entry: object) -> ToolLimits:
        """Find a tool's limits, and keep them."""
        if len(self._found) >= KNOWN_TOOLS:
            self._found.clear()
        limits = self._index.about(tool)
        self._found[tool.server_id, tool.name] = (entry, limits)
        return limits

    def get(self, limit_id: str) -> Limit | None:
        """Return a limit that is in force; None if there is none."""
        return self._limits.get(limit_id)

    async def reload(self, ids: AbstractSet[str] | None) -> None:  # noqa: ARG002 - there are few
        """Read the limits again.

        Raises:
            DatabaseUnavailable: They stay as they were.
        """
        self._limits = await self._stored.every()
        self._index = LimitIndex(self._limits.values())
        self._found = {}
