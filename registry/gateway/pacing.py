"""How fast a feed of changes is read while many come.

A server answers a waiting reader at the first change, so that a hundred commits cost a hundred
questions, each of which has to open the journal, and as many readings of what changed. Asked a
few times a second, it tells of many at once. Pure but for the waiting.
"""

from registry.core.clock import Clock

ROUND_SECONDS = 0.25
"""How long what comes after the first change may have to wait."""

GAP_SECONDS = 0.005
"""Changes that are further apart than this did not come in one answer."""

MOST_TOGETHER = 100
"""An answer of more may have been cut short, so what follows it is asked for at once."""


class Pace:
    """Lets a first change through at once, and has those that follow it come together."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._round_began_at = float("-inf")
        self._heard_at = float("-inf")
        self._together = 0

    async def keep(self) -> None:
        """Say that a change was heard, and return when the next one may be asked for."""
        now = self._clock.monotonic()
        came_with_former = now - self._heard_at <= GAP_SECONDS
        self._heard_at = now
        if came_with_former:
            self._together += 1
            return
        was_cut_short = self._together > MOST_TOGETHER
        self._together = 1
        rest = self._round_began_at + ROUND_SECONDS - now
        if rest > 0:
            if was_cut_short:
                return
            await self._clock.sleep(rest)
            # What came with it is still to be handed out.
            self._heard_at = self._clock.monotonic()
        self._round_began_at = self._heard_at
