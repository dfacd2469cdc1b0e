"""Notices that requests for approval changed: they wake calls that wait, and what executes them.

The change stream reports changes of all replicas, and the services of this process their own at
once. Nothing is read here: whoever is woken reads what concerns it, so that waiting costs the
database nothing. Implements `view.tables.FollowedTable`.
"""

import asyncio
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

MAX_CHANGED = 1_000
"""Maximum number of remembered ids of changed requests; with more, any may have changed."""


class ApprovalNotices:
    """Notices of changed requests."""

    collection = "approvals"

    def __init__(self) -> None:
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._changed: set[str] | None = None
        self._arrived = asyncio.Event()
        # What changed before this process began is unknown.
        self._arrived.set()

    async def reload(self, ids: AbstractSet[str] | None) -> None:
        """Note changed requests; None for all."""
        if ids is not None:
            for approval_id in ids:
                self.note(approval_id)
            return
        for watching in self._watching.values():
            for event in watching:
                event.set()
        self._changed = None
        self._arrived.set()

    def note(self, approval_id: str) -> None:
        """Note that a request changed. Cheap."""
        for event in self._watching.get(approval_id, ()):
            event.set()
        if self._changed is not None:
            self._changed.add(approval_id)
            if len(self._changed) > MAX_CHANGED:
                self._changed = None
        self._arrived.set()

    @contextmanager
    def watch(self, approval_id: str) -> Iterator[asyncio.Event]:
        """Yield what is set whenever the request may have changed, within the block."""
        event = asyncio.Event()
        watching = self._watching.setdefault(approval_id, set())
        watching.add(event)
        try:
            yield event
        finally:
            watching.discard(event)
            if not watching and self._watching.get(approval_id) is watching:
                del self._watching[approval_id]

    async def changed(self) -> frozenset[str] | None:
        """Wait for changes; return the requests that changed since the last call, None for all.

        For one task only.
        """
        await self._arrived.wait()
        self._arrived.clear()
        changed, self._changed = self._changed, set()
        return None if changed is None else frozenset(changed)
