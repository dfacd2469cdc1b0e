"""What the everything server remembers between requests."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp_types import LOG_LEVEL_META_KEY

from tests.fakes.everything.asking import Context, is_modern

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


@dataclass(slots=True)
class State:
    """One server's memory; a session is known by its id.

    Attributes:
        bus: Carries events to the streams of `subscriptions/listen`.
        never: Is never set.
        waiting: How many calls of `test_wait` are running.
        cancelled: Set when one of them is cancelled.
        unlisted: Tools that can be called and are in no list.
    """

    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)
    levels: dict[str, str] = field(default_factory=dict)
    subscribed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    never: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    unlisted: frozenset[str] = frozenset()

    def wants_log(self, context: Context, level: str) -> bool:
        """Whether the client asked for messages of this level."""
        if is_modern(context):
            meta: Mapping[str, object] = context.meta or {}
            wanted = meta.get(LOG_LEVEL_META_KEY)
            return wanted in LEVELS and LEVELS.index(level) >= LEVELS.index(str(wanted))
        chosen = self.levels.get(session_id(context), "debug")
        return LEVELS.index(level) >= LEVELS.index(chosen)


def session_id(context: Context) -> str:
    """Return the id of the session; empty in the stateless era."""
    return "" if context.request is None else context.request.headers.get("mcp-session-id", "")
