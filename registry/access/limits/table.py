"""The limits in memory, as calls use them."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from registry.access.limits.decisions import LimitIndex
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
        self._found: dict[int, tuple[object, LimitedTool, tuple[Limit, ...]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return self._index.is_empty

    def about(
        self, entry: object, tool: LimitedTool | None = None
    ) -> tuple[LimitedTool, tuple[Limit, ...]] | None:
        """Return a tool's facts and its limits, as long as they are known.

        Args:
            entry: The object that stands for the tool; another one is another tool.
            tool: Its facts; with them it is always known.
        """
        found = self._found.get(id(entry))
        if found is not None and found[0] is entry:
            return found[1], found[2]
        if tool is None:
            return None
        if len(self._found) >= KNOWN_TOOLS:
            self._found.clear()
        limits = self._index.about(tool)
        # Holds the entry, so that no other object gets its id.
        self._found[id(entry)] = (entry, tool, limits)
        return tool, limits

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
