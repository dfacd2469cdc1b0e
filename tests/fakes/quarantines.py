"""Quarantines that a test sets."""

from collections.abc import Sequence

from registry.access.quarantine.values import Quarantine


class FakeQuarantines:
    """Stored quarantines, in memory."""

    def __init__(self, *quarantines: Quarantine) -> None:
        self.quarantines = quarantines

    async def unlifted(self) -> Sequence[Quarantine]:
        """Return them."""
        return self.quarantines
