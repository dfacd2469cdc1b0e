"""One gate for each server: how many calls may be under way, wait, and go to one that fails.

What is bounded is bounded for each server, not for each address: two servers behind one host have
a gate each, so that neither can use up what the other needs.
"""

import asyncio
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog

from registry.connections.tracker import FRESH, ConnectionTracker
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.errors import Refusal, UpstreamBusy, UpstreamPaused
from registry.gateway.transport.circuit_breaker import (
    BreakerState,
    CircuitBreaker,
    CircuitBreakerRules,
)
from registry.gateway.transport.failures import (
    Evidence,
    evidence_of,
    failure,
    is_silence,
    says_that_it_fails,
)
from registry.gateway.values import Route
from registry.http.client.exchange import UNASKED

log = structlog.get_logger()

FRONT_FAILURES = frozenset({502, 503, 504})
"""The upstream's own front says that what is behind it is down or overloaded."""

BAD_REQUEST = 400

MIN_IDLE_CHECK = 256
"""Number of bulkheads above which unused ones are removed."""


@dataclass(frozen=True, slots=True)
class BulkheadLimits:
    """Limits of each server.

    Attributes:
        max_calls: Calls under way at a time, each with a connection.
        max_waiting: Calls that may wait for one of those to end.
        wait_seconds: How long they wait.
        rules: When a server that fails is left alone.
    """

    max_calls: int
    max_waiting: int
    wait_seconds: float
    rules: CircuitBreakerRules


def bulkhead_limits(settings: Settings) -> BulkheadLimits:
    """Return the limits that the settings ask for."""
    return BulkheadLimits(
        settings.gateway_concurrent_calls_per_server,
        settings.gateway_queued_calls_per_server,
        settings.gateway_queue_timeout_seconds,
        CircuitBreakerRules(
            settings.gateway_breaker_failures,
            settings.gateway_breaker_window_seconds,
            settings.gateway_breaker_cool_down_seconds,
        ),
    )


class Bulkhead:
    """The gate of one server, or of another origin that operations of a REST API are at.

    Attributes:
        name: Of what is behind it, for messages.
        breaker: Whether the server is asked at all.
        busy: How many calls are under way.
        notification_streams: How many streams are open that stay so.
        connections: Receives the outcomes of calls; None for none.
    """

    __slots__ = (
        "_clock",
        "_max",
        "_metrics",
        "_waiters",
        "breaker",
        "busy",
        "connections",
        "limits",
        "name",
        "notification_streams",
        "route",
    )

    def __init__(
        self,
        route: Route,
        limits: BulkheadLimits,
        clock: Clock,
        metrics: Metrics,
        connections: ConnectionTracker | None,
        elsewhere: str | None = None,
    ) -> None:
        self.route = route
        self.name = _name(route, elsewhere)
        self.limits = limits
        self.connections = connections
        self.breaker = CircuitBreaker(limits.rules)
        self.busy = 0
        self.notification_streams = 0
        self._max = limits.max_calls
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._clock = clock
        self._metrics = metrics

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if this bulkhead were created again."""
        used = self.busy or self.notification_streams or self._waiters
        return not used and self.breaker.state is BreakerState.CLOSED

    def call(self, *, is_standing: bool = False, user_id: str | None = None) -> "Permit":
        """Return a turn for one call.

        Args:
            is_standing: It opens a stream that stays open, which is counted elsewhere and takes
                no place of a call.
            user_id: Whose connection it goes over, where users have their own.
        """
        return Permit(self, user_id, is_standing=is_standing)

    def admit(self) -> bool:
        """Whether the breaker is closed; otherwise let the call through as a probe.

        Raises:
            UpstreamPaused: The server is not asked now.
        """
        breaker = self.breaker
        if breaker.state is BreakerState.CLOSED:
            return True
        before = breaker.state
        seconds = breaker.admit(self._clock.monotonic())
        if seconds:
            raise UpstreamPaused(self.name, max(1, math.ceil(seconds)))
        self._tell(before)
        return False

    def take(self, *, even_if_full: bool) -> bool:
        """Take a place for a call, if there is one."""
        if self.busy < self._max or even_if_full:
            self.busy += 1
            return True
        return False

    async def wait(self) -> None:
        """Wait for a place, and take it.

        Raises:
            UpstreamBusy: Too many wait already, or it took too long.
            UpstreamPaused: The server began to fail during the wait.
        """
        waiters = self._waiters
        if len(waiters) >= self.limits.max_waiting:
            self._metrics.gateway_queue_refusals.labels(self.route.label).inc()
            raise UpstreamBusy(self.name)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(place)
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                await place
        except BaseException as exc:
            if place.done() and not place.cancelled() and place.exception() is None:
                # It was given the place in the moment in which it gave up.
                self.leave()
            with suppress(ValueError):
                waiters.remove(place)
            if isinstance(exc, TimeoutError):
                self._metrics.gateway_queue_refusals.labels(self.route.label).inc()
                raise UpstreamBusy(self.name) from None
            raise

    def leave(self) -> None:
        """Give a place back: to who waits longest, if anybody."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.busy -= 1

    def answered(self) -> None:
        """Note the head of an answer; see `CircuitBreaker`."""
        if self.breaker.state is not BreakerState.CLOSED:
            before = self.breaker.state
            self.breaker.answered()
            self._tell(before)

    def failed(self, epoch: int, *, silent_since: int | None = None) -> None:
        """Note a failure; see `CircuitBreaker`."""
        before = self.breaker.state
        now = self._clock.monotonic()
        self.breaker.failed(epoch, now, silent_since=silent_since)
        self._tell(before)
        if self.breaker.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            self._send_away()

    def abandoned(self, epoch: int) -> None:
        """Note the end of a call that says nothing of the server; see `CircuitBreaker`."""
        if self.breaker.state is BreakerState.HALF_OPEN:
            self.breaker.abandoned(epoch, self._clock.monotonic())

    def repeated(self) -> None:
        """Note that a request is sent once more."""
        self._metrics.gateway_retries.labels(self.route.label).inc()
        log.info("gateway_request_retried", server=self.route.slug)

    def _send_away(self) -> None:
        """Tell those who wait that waiting is of no use."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                seconds = max(1, math.ceil(self.limits.rules.cool_down_seconds))
                waiter.set_exception(UpstreamPaused(self.name, seconds))

    def _tell(self, before: BreakerState) -> None:
        now = self.breaker.state
        if now is before:
            return
        label = self.route.label
        self._metrics.gateway_breaker_transitions.labels(label, now).inc()
        for state, change in ((before, -1), (now, 1)):
            if state is not BreakerState.CLOSED:
                self._metrics.gateway_breaker_state.labels(label, state).inc(change)
        if now is BreakerState.OPEN:
            log.warning("gateway_breaker_opened", server=self.route.slug)
        elif now is BreakerState.CLOSED:
            log.info("gateway_breaker_closed", server=self.route.slug)

    def retire(self) -> None:
        """Count no longer as open: another gate takes this one's place."""
        if self.breaker.state is not BreakerState.CLOSED:
            gauge = self._metrics.gateway_breaker_state
            gauge.labels(self.route.label, self.breaker.state).dec()
        # For the calls that are still under way.
        self.breaker = CircuitBreaker(replace(self.limits.rules, failures=0))


def _name(route: Route, elsewhere: str | None) -> str:
    return route.named if elsewhere is None else f"{route.named} at {elsewhere}"


class Permit:
    """One call's way through a gate, as a context that it is made in.

    Where each microsecond counts, `begin`, `wait` and `end` are called instead.

    A failure that says something of the server is noticed when it leaves the context; all others,
    the client's going away among them, are not failures of the server.

    Raises (on entering with `async with`):
        UpstreamPaused: The server is left alone for a while.
        UpstreamBusy: Too many calls to the server are under way.
    """

    __slots__ = (
        "_attempt",
        "_bulkhead",
        "_epoch",
        "_front_status",
        "_is_declined",
        "_is_standing",
        "_is_unasked",
        "_user_id",
        "_version",
        "_works",
    )

    def __init__(self, bulkhead: Bulkhead, user_id: str | None, *, is_standing: bool) -> None:
        self._bulkhead = bulkhead
        self._is_standing = is_standing
        self._is_declined = False
        self._is_unasked = False
        self._front_status = 0
        self._epoch = 0
        self._works = 0
        self._user_id = user_id
        self._version: datetime | None = None
        self._attempt = 0

    async def __aenter__(self) -> Self:
        if not self.begin():
            await self.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(error)

    def begin(self) -> bool:
        """Take the turn; False when it must be waited for first.

        Raises:
            UpstreamPaused: The server is left alone for a while.
        """
        bulkhead = self._bulkhead
        is_closed = bulkhead.admit()
        self._epoch, self._works = bulkhead.breaker.epoch, bulkhead.breaker.works
        if self._is_standing:
            bulkhead.notification_streams += 1
            self._begun()
            return True
        has_place = bulkhead.take(even_if_full=not is_closed)
        if has_place:
            self._begun()
        return has_place

    async def wait(self) -> None:
        """Wait for the turn, and take it.

        Raises:
            UpstreamPaused: The server is left alone for a while.
            UpstreamBusy: Too many calls to the server are under way.
        """
        bulkhead = self._bulkhead
        await bulkhead.wait()
        try:
            bulkhead.admit()
        except UpstreamPaused:
            bulkhead.leave()
            raise
        self._epoch, self._works = bulkhead.breaker.epoch, bulkhead.breaker.works
        self._begun()

    def _begun(self) -> None:
        bulkhead = self._bulkhead
        if bulkhead.connections is not None:
            version = self._version = bulkhead.route.modified_at
            self._attempt = bulkhead.connections.began(
                bulkhead.route.server_id, version, self._user_id
            )

    def end(self, error: BaseException | None) -> None:
        """End the turn, with what it failed with."""
        bulkhead = self._bulkhead
        # First, for a place that comes free may be of no use any more.
        if self._is_unasked:
            bulkhead.abandoned(self._epoch)
        elif not self._front_status:
            if error is None or isinstance(error, Refusal):
                bulkhead.breaker.completed()
            elif is_silence(error):
                bulkhead.failed(self._epoch, silent_since=self._works)
            elif says_that_it_fails(error):
                bulkhead.failed(self._epoch)
            else:
                bulkhead.abandoned(self._epoch)
        if bulkhead.connections is not None:
            self._tell(bulkhead.connections, error)
        if self._is_standing:
            bulkhead.notification_streams -= 1
        else:
            bulkhead.leave()

    def answered(self, status: int, *, is_handshake: bool = False) -> None:
        """Note the head of an answer; that of a handshake says nothing before it is read."""
        bulkhead = self._bulkhead
        if status == UNASKED:
            self._is_unasked = self._is_declined = True
            return
        if status in FRONT_FAILURES:
            self._front_status = status
            bulkhead.failed(self._epoch)
            return
        if bulkhead.breaker.state is not BreakerState.CLOSED:
            bulkhead.answered()
        if self._attempt is not FRESH and status < BAD_REQUEST and not is_handshake:
            self._tell_of_head()

    def declined(self) -> None:
        """Note that the server did not do what was asked, which says nothing of its connection."""
        self._is_declined = True

    def _tell_of_head(self) -> None:
        connections, server_id = self._bulkhead.connections, self._bulkhead.route.server_id
        if connections is None:
            return
        if self._is_standing:
            # What is on it may come in hours, and how it ends says nothing of how it began.
            connections.completed(server_id, self._version, self._user_id)
            self._attempt = FRESH
        else:
            connections.answered(server_id, self._version, self._user_id)

    def _tell(self, connections: ConnectionTracker, error: BaseException | None) -> None:
        """Tell what the end of a call says of the connection."""
        route = self._bulkhead.route
        server_id, version, user_id = route.server_id, self._version, self._user_id
        if error is None and not self._front_status:
            if self._is_declined:
                connections.abandoned(server_id, user_id)
            else:
                connections.completed(server_id, version, user_id)
            return
        evidence = Evidence.FAILS if self._front_status else evidence_of(error)
        if evidence is Evidence.REFUSES and not route.is_user_level:
            evidence = Evidence.FAILS
        match evidence:
            case Evidence.WORKS:
                connections.completed(server_id, version, user_id)
            case Evidence.NOTHING:
                connections.abandoned(server_id, user_id)
            case Evidence.REFUSES:
                connections.refused(server_id, version, user_id, self._problem(error))
            case Evidence.FAILS if self._is_standing and self._attempt is FRESH:
                connections.dropped(server_id, user_id)
            case Evidence.FAILS:
                problem = self._problem(error)
                connections.failed(server_id, version, user_id, self._attempt, problem)

    def _problem(self, error: BaseException | None) -> str:
        name = self._bulkhead.route.named
        if error is None or self._front_status:
            return f"The {name} answered HTTP {self._front_status}."
        refusal = error if isinstance(error, Refusal) else failure(name, error)
        return refusal.message


class Bulkheads:
    """The gates of all servers, made when they are first needed.

    A server that is led to another address gets a new one: what was learnt of the old address says
    nothing of the new.

    Args:
        connections: Receives the outcomes of calls; None for none.
    """

    def __init__(
        self,
        limits: BulkheadLimits,
        clock: Clock,
        metrics: Metrics,
        connections: ConnectionTracker | None = None,
    ) -> None:
        self._limits = limits
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._bulkheads: dict[str | tuple[str, str], Bulkhead] = {}
        self._prune_at = MIN_IDLE_CHECK

    def of(self, route: Route, elsewhere: str | None = None) -> Bulkhead:
        """Return the gate of the route's server.

        Args:
            route: The server.
            elsewhere: Another origin that is asked on its behalf. It has a gate of its own, and
                says nothing of the server's connection.
        """
        key = route.server_id if elsewhere is None else (route.server_id, elsewhere)
        bulkhead = self._bulkheads.get(key)
        if bulkhead is not None and (bulkhead.route is route or self._is_still(bulkhead, route)):
            return bulkhead
        return self._make(key, route, elsewhere)

    def _is_still(self, bulkhead: Bulkhead, route: Route) -> bool:
        if bulkhead.route.target != route.target or bulkhead.route.label != route.label:
            return False
        bulkhead.route = route
        return True

    def _make(self, key: str | tuple[str, str], route: Route, elsewhere: str | None) -> Bulkhead:
        former = self._bulkheads.get(key)
        if former is not None:
            former.retire()
        connections = self._connections if elsewhere is None else None
        bulkhead = Bulkhead(
            route, self._limits, self._clock, self._metrics, connections, elsewhere
        )
        self._bulkheads[key] = bulkhead
        if len(self._bulkheads) > self._prune_at:
            self._prune(bulkhead)
        return bulkhead

    def _prune(self, kept: Bulkhead) -> None:
        """Forget gates that hold nothing; those of removed servers are among them."""
        self._bulkheads = {
            key: bulkhead
            for key, bulkhead in self._bulkheads.items()
            if bulkhead is kept or not bulkhead.is_idle
        }
        self._prune_at = max(MIN_IDLE_CHECK, 2 * len(self._bulkheads))
