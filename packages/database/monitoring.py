"""Listeners of the driver's command and connection events, which call plain callables."""

import math
import time
from collections.abc import Callable

from pymongo import monitoring
from typing_extensions import override

MICROSECONDS = 1_000_000
FRESH_SECONDS = 0.1
"""Maximum age of an answer that counts as proof that the database is available."""


class CommandTimer(monitoring.CommandListener):
    """Reports every command with its outcome and duration in seconds."""

    def __init__(self, observe: Callable[[str, str, float], None]) -> None:
        self._observe = observe

    @override
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Ignore the start."""

    @override
    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Report a success."""
        self._observe(event.command_name, "success", event.duration_micros / MICROSECONDS)

    @override
    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Report a failure."""
        self._observe(event.command_name, "failure", event.duration_micros / MICROSECONDS)


class SignOfLife(monitoring.CommandListener):
    """Remembers whether the database answered a moment ago."""

    def __init__(self) -> None:
        self._at = -math.inf

    @property
    def is_fresh(self) -> bool:
        """Whether the last answer is recent enough that a ping is unnecessary."""
        return time.monotonic() - self._at < FRESH_SECONDS

    @override
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Ignore the start."""

    @override
    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Note an answer."""
        self._at = time.monotonic()

    @override
    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Discard the last answer: the connection may have broken."""
        self._at = -math.inf


class PoolWatcher(monitoring.ConnectionPoolListener):
    """Reports how many connections are open and in use, and those that failed."""

    def __init__(
        self,
        opened: Callable[[int], None],
        in_use: Callable[[int], None],
        failed: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._in_use = in_use
        self._failed = failed

    @override
    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Ignore a new pool."""

    @override
    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Ignore a pool becoming usable."""

    @override
    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Count the loss of a server's connections."""
        self._failed()

    @override
    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Ignore a pool's end."""

    @override
    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        """Count a connection."""
        self._opened(1)

    @override
    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        """Ignore a finished handshake."""

    @override
    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        """Count a closed connection."""
        self._opened(-1)

    @override
    def connection_check_out_started(
        self, event: monitoring.ConnectionCheckOutStartedEvent
    ) -> None:
        """Ignore a request for a connection."""

    @override
    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """Count a failed request for a connection."""
        self._failed()

    @override
    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Count a connection in use."""
        self._in_use(1)

    @override
    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        """Count a returned connection."""
        self._in_use(-1)
