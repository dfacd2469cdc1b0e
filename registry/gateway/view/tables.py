"""Small collections that the view holds in memory as a whole, and reloads when they change."""

from collections.abc import Set as AbstractSet
from typing import Protocol


class FollowedTable(Protocol):
    """One collection, in memory. Reading it from there takes no I/O.

    Attributes:
        collection: Its name; `pending.TABLES` names it too.
    """

    collection: str

    async def reload(self, ids: AbstractSet[str] | None) -> None:
        """Read documents again: those with these ids, or all.

        An unreadable document costs only itself.

        Raises:
            DatabaseUnavailable: The table stays as it was, and is reloaded later.
        """
