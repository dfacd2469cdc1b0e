"""Ports of quarantine."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from registry.access.quarantine.values import BlastRadius, NewQuarantine, Quarantine


class StoredQuarantines(Protocol):
    """Reads quarantines. Implemented by `registry.access.quarantine.repository`."""

    async def unlifted(self) -> Sequence[Quarantine]:
        """Return all that nobody has lifted, expired ones included.

        Raises:
            DatabaseUnavailable: They cannot be read.
        """


class CallHistory(Protocol):
    """Tells which calls were made."""

    async def reached(self, asked: NewQuarantine, since: datetime) -> BlastRadius:
        """Return what a subject reached, or who reached it, since then.

        Raises:
            DatabaseUnavailable: It cannot be read.
        """
