"""How quota is leased to processes so that the calls of all of them keep a rate. Pure.

The calls of a period are counted in slots, which divide it. What is leased counts in the slot that
it is leased in, and may be used until that slot ends; a slot counts until it lies a whole period
back. So the calls of any period of that length never exceed the rate, whichever process makes
them, and a call may be refused up to one slot too early.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.access.limits.values import Period

SLOTS = {Period.SECOND: 10, Period.MINUTE: 20, Period.HOUR: 20, Period.DAY: 24}
"""Number of slots of a period."""

RESERVE_FROM = 60
"""From this rate on, a process may keep one unused call longer than its slot, so that occasional
calls need not wait for a lease. Each process can so exceed the rate by one call."""

AHEAD_SECONDS = 5.0
"""For how long a process leases quota: of what it does not use, others are short meanwhile."""

HOLD_SECONDS = 30.0
"""How long permits of a process count that has not renewed them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """An answer to a request for quota.

    Attributes:
        count: How many calls may be made; 0 for none.
        slot: The slot that they count in.
        slots: The counts to store.
        valid_ms: How long they may be made.
        reserve_ms: How long one of them may be, where the rate allows it.
        wait_ms: Where none may be made: how long until one may be.
        is_moved: Whether what was counted before is to be stored in other slots.
    """

    count: int
    slot: int
    slots: Mapping[int, int]
    valid_ms: int = 0
    reserve_ms: int = 0
    wait_ms: int = 0
    is_moved: bool = False


def slot_ms(period: Period) -> int:
    """Return the length of a slot in milliseconds."""
    return period.seconds * 1000 // SLOTS[period]


def lease(slots: Mapping[int, int], rate: int, period: Period, now_ms: int, wanted: int) -> Grant:
    """Return up to *wanted* calls of a rate, and the counts to store.

    Args:
        slots: The stored counts, by the number of their slot since 1970.
        rate: How many calls a period may have.
        period: Its length.
        now_ms: Milliseconds since 1970, by the database's clock.
        wanted: How many calls the process expects to make before the slot ends.
    """
    length, number = slot_ms(period), SLOTS[period]
    now_slot = now_ms // length
    counted = {at: count for at, count in slots.items() if at >= now_slot - number and count}
    newest = max(counted, default=now_slot)
    is_moved = newest > now_slot + 1
    if is_moved:
        # The clock was set back. What was counted before counts for a whole period from now.
        counted = moved(counted, now_slot - newest)
    # Another process may be a few milliseconds ahead.
    slot = now_slot + 1 if newest == now_slot + 1 else now_slot
    left = rate - sum(counted.values())
    if left <= 0:
        wait_ms = _wait(counted, rate, length, number, now_ms)
        return Grant(0, slot, counted, wait_ms=wait_ms, is_moved=is_moved)
    count = min(left, max(1, wanted))
    counted[slot] = counted.get(slot, 0) + count
    return Grant(
        count,
        slot,
        counted,
        valid_ms=(slot + 1) * length - now_ms,
        reserve_ms=(slot + number) * length - now_ms if rate >= RESERVE_FROM else 0,
    )


@dataclass(frozen=True, slots=True)
class Jump:
    """The database's clock went forward by more than the time that passed.

    Attributes:
        at_ms: What it said then.
        by_ms: By how much.
    """

    at_ms: int
    by_ms: int


def after_jumps(slots: Mapping[int, int], period: Period, jumps: Iterable[Jump]) -> dict[int, int]:
    """Return counts in the slots in which they would be by the clock as it is now.

    So what was counted before a jump counts as long as if there had been none.
    """
    length = slot_ms(period)
    found = dict(slots)
    for jump in jumps:
        slot = jump.at_ms // length
        if found and max(found) < slot:
            found = moved(found, slot - (jump.at_ms - jump.by_ms) // length)
    return found


def moved(slots: Mapping[int, int], by: int) -> dict[int, int]:
    """Return counts in other slots: later by so many, or earlier if it is negative."""
    return {at + by: count for at, count in slots.items()}


def given_back(slots: Mapping[int, int], slot: int, count: int) -> dict[int, int]:
    """Return the counts without *count* calls of a slot, which were not made."""
    left = dict(slots)
    if slot in left:
        left[slot] = max(0, left[slot] - count)
    return left


def _wait(counted: Mapping[int, int], rate: int, length: int, number: int, now_ms: int) -> int:
    """Return how long it takes until enough of the oldest slots do not count any more."""
    excess = sum(counted.values()) - rate + 1
    for at in sorted(counted):
        excess -= counted[at]
        if excess <= 0:
            return max(1, (at + number + 1) * length - now_ms)
    # Nothing may be called at all.
    return length * number


def wanted_of(rate: int, used: int, seconds: float) -> int:
    """Return how many calls to ask for, after *used* ones in the *seconds* before.

    Twice as many as in the last `AHEAD_SECONDS`, and at most a quarter of all, so that others get
    some; at least a hundredth of all.
    """
    expected = 2 * used
    if seconds > AHEAD_SECONDS:
        expected = int(expected * AHEAD_SECONDS / seconds)
    return max(1, min(expected, rate // 4), rate // 100)


def kept_permits(most: int, used: int, peak: int) -> int:
    """Return how many permits a process keeps, of which it used *peak* at most in the last while.

    What is unused is kept for the next calls, while there are any, and only up to a third of all:
    others may need it.
    """
    return max(used, min(peak + 1, most // 3) if peak else 0)
