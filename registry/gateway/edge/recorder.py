"""Recorder: metrics, log line, usage record and spans of each request.

All of it is on the hot path. Names that clients choose never become labels, and arguments and
results are never recorded.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import structlog

from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.series import Count, Timing
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.requests import CallSpans, GatewayRequest
from registry.gateway.errors import CallOutcome
from registry.gateway.ports import CallNotes
from registry.gateway.protocol.envelope import METHODS
from registry.gateway.protocol.response_classification import judge
from registry.gateway.protocol.trace_context import clean_context
from registry.gateway.values import NOT_PUBLIC
from registry.usage.values import clean_name

log = structlog.get_logger()

Mode = Literal["off", "errors", "calls", "all"]
LINES_A_SECOND = 20
"""Logged errors per second; the next line says how many were left out. Metrics have all."""


class CallLog:
    """Writes `gateway_call`."""

    def __init__(self, mode: Mode) -> None:
        self.logs_all = mode == "all"
        self.logs_calls = mode in {"calls", "all"}
        self.logs_errors = mode != "off"
        self._second = 0.0
        self._lines = 0
        self._left_out = 0

    def note(self, exchange: GatewayRequest, outcome: CallOutcome, ended_at: float) -> None:
        """Log one request, unless the limit of this second is reached."""
        if not self.logs_all and not self._has_room(ended_at):
            self._left_out += 1
            return
        facts: dict[str, object] = {
            "server": exchange.server,
            "method": clean_name(exchange.method),
            "outcome": outcome.value,
            "era": "modern" if exchange.is_modern else "legacy",
            "duration_ms": _ms(ended_at - exchange.began_at),
            "request_bytes": exchange.request_bytes,
            "response_bytes": exchange.client.sent_bytes,
        }
        if exchange.tool is not None:
            facts["tool"] = exchange.tool
        if exchange.user is not None:
            facts["user_id"] = exchange.user.user_id
        if exchange.error_code:
            facts["error_code"] = exchange.error_code
        if exchange.decided_at:
            head_at = exchange.client.head_at or ended_at
            facts["admission_ms"] = _ms(exchange.decided_at - exchange.began_at)
            facts["upstream_ms"] = _ms(head_at - exchange.decided_at)
        if self._left_out:
            facts["suppressed"], self._left_out = self._left_out, 0
        log.info("gateway_call", **facts)

    def _has_room(self, now: float) -> bool:
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        self._lines += 1
        return self._lines <= LINES_A_SECOND


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


OTHER = "other"
LABELLED_METHODS = (METHODS - {""}) | {"response", "GET", "DELETE"}
"""Methods with a label of their own: clients choose the name, so the set must be closed."""

STANDING_METHODS = frozenset({"GET", "subscriptions/listen"})
"""Methods that open a long-lived stream, which may be silent."""

TARGETS: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}
"""Methods with usage records, and the member of `params` that names the target."""

CALL = "tools/call"
MAX_SERIES = 5_000
"""Maximum number of label sets of one metric; all others are counted under `other`."""

Phases = tuple[Timing, Timing, Timing]


class Tracing(Protocol):
    """Makes spans."""

    def begin(self, exchange: GatewayRequest) -> CallSpans:
        """Start the span of a request, with the client's span as parent."""


class Recorder:
    """Records requests; the metric of each label set is looked up once.

    Args:
        metrics: Counts and times.
        clock: Supplies the monotonic time of requests.
        notes: Receives usage records; None for none.
        call_log: Writes the log; None for none.
        tracing: Creates spans; None for none.
        budgets: Learn what calls cost; None for none.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock,
        *,
        notes: CallNotes | None = None,
        call_log: CallLog | None = None,
        tracing: Tracing | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._budgets = budgets
        self._monotonic = clock.monotonic
        self._request_timings = metrics.gateway_requests
        self._phase_timings = metrics.gateway_phases
        self._call_counts = metrics.gateway_tool_calls
        self._requests: dict[tuple[str, str, CallOutcome], Timing] = {}
        self._phases: dict[str, Phases] = {}
        self._calls: dict[tuple[str, str, CallOutcome], Count] = {}
        self._notes = notes
        self._tracing = tracing
        self._call_log = call_log
        self._logs_all = call_log is not None and call_log.logs_all
        self._logs_calls = call_log is not None and call_log.logs_calls
        self._logs_errors = call_log is not None and call_log.logs_errors
        self._in_flight = 0
        metrics.gateway_in_flight.set_function(lambda: self._in_flight)

    def started(self, exchange: GatewayRequest) -> None:
        """Count a request that began."""
        self._in_flight += 1
        exchange.client.monotonic = self._monotonic
        exchange.began_at = self._monotonic()

    def understood(self, exchange: GatewayRequest, params: Mapping[str, Any]) -> None:
        """Set the target of the request, and determine its trace.

        Invalid trace headers of *exchange* are removed, and missing ones are filled from
        `params._meta`.

        Args:
            exchange: The request; its method is known.
            params: The parameters of the message; empty without one.
        """
        named = TARGETS.get(exchange.method)
        if named is not None:
            target = params.get(named)
            if type(target) is str:
                exchange.target = target
        exchange.trace = clean_context(exchange.headers, params.get("_meta"))
        if self._tracing is not None:
            exchange.spans = self._tracing.begin(exchange)
        trace_id = exchange.trace_id
        if trace_id is not None:
            # Each request has a task of its own, so this ends with the task.
            structlog.contextvars.bind_contextvars(trace_id=trace_id)

    def forwarding(self, exchange: GatewayRequest) -> None:
        """Set that the request was allowed and goes upstream now."""
        exchange.decided_at = self._monotonic()
        if exchange.spans is not None:
            exchange.spans.forwarding(exchange)

    def ended(self, exchange: GatewayRequest) -> float:
        """Record the end of a request, and return its duration in seconds."""
        self._in_flight -= 1
        now = self._monotonic()
        seconds = now - exchange.began_at
        method, outcome = exchange.method, exchange.outcome
        timed = self._requests.get((exchange.label, method, outcome))
        if timed is None:
            timed = self._request_series(exchange.label, method, outcome)
        timed.observe(seconds)
        if exchange.decided_at and method not in STANDING_METHODS:
            self._time_phases(exchange, now)
        if method in TARGETS:
            outcome = self._note_call(exchange, now)
        if self._logs_errors and self._is_logged(exchange, outcome):
            assert self._call_log is not None  # noqa: S101 - set with it
            self._call_log.note(exchange, outcome, now)
        if exchange.spans is not None:
            exchange.spans.end(exchange, outcome)
        return seconds

    def _is_logged(self, exchange: GatewayRequest, outcome: CallOutcome) -> bool:
        if self._logs_all or (self._logs_calls and exchange.method == "tools/call"):
            return True
        return outcome is not CallOutcome.OK and not _has_left(exchange)

    def _time_phases(self, exchange: GatewayRequest, now: float) -> None:
        phases = self._phases.get(exchange.label)
        if phases is None:
            phases = self._phase_series(exchange.label)
        decided_at, head_at = exchange.decided_at, exchange.client.head_at
        phases[0].observe(decided_at - exchange.began_at)
        if head_at:
            phases[1].observe(head_at - decided_at)
            phases[2].observe(now - head_at)
        else:
            phases[1].observe(now - decided_at)

    def _note_call(self, exchange: GatewayRequest, now: float) -> CallOutcome:
        outcome, client, label = exchange.outcome, exchange.client, exchange.label
        if outcome is CallOutcome.OK:
            outcome, exchange.error_code = judge(client.tail)
        if exchange.method == CALL:
            # The names within a server that is not public are not public either.
            tool = NOT_PUBLIC if label == NOT_PUBLIC else exchange.tool or OTHER
            counted = self._calls.get((label, tool, outcome))
            if counted is None:
                counted = self._call_series(label, tool, outcome)
            counted.inc()
        user, route = exchange.user, exchange.route
        charge = None
        if exchange.tool_entry is not None and user is not None:
            charge = exchange.tool_entry.rules.charge
            if charge is not None and exchange.decided_at and self._budgets is not None:
                self._budgets.spent(user, charge, exchange.request_bytes + client.sent_bytes)
        if self._notes is not None and user is not None:
            self._notes.note(
                (
                    user.user_id,
                    user.username,
                    user.token_id,
                    None if route is None else route.server_id,
                    exchange.server,
                    exchange.method,
                    exchange.target,
                    exchange.is_modern,
                    outcome,
                    exchange.error_code,
                    user.role,
                    user.tenant_id,
                    exchange.tool,
                    charge,
                ),
                (
                    exchange.began_at,
                    exchange.decided_at,
                    client.head_at,
                    now,
                    exchange.request_bytes,
                    client.sent_bytes,
                    exchange.trace_id,
                ),
            )
        return outcome

    def _request_series(self, label: str, method: str, outcome: CallOutcome) -> Timing:
        known = method if method in LABELLED_METHODS else OTHER
        key = (label if len(self._requests) < MAX_SERIES else OTHER, known, outcome)
        child = self._requests.get(key)
        if child is None:
            child = self._requests[key] = self._request_timings.labels(*key)
        return child

    def _phase_series(self, label: str) -> Phases:
        label = label if len(self._phases) < MAX_SERIES else OTHER
        phases = self._phases.get(label)
        if phases is None:
            series = self._phase_timings.labels
            phases = self._phases[label] = (
                series(label, "admission"),
                series(label, "upstream"),
                series(label, "relay"),
            )
        return phases

    def _call_series(self, label: str, tool: str, outcome: CallOutcome) -> Count:
        has_room = len(self._calls) < MAX_SERIES
        key = (label, tool, outcome) if has_room else (OTHER, OTHER, outcome)
        child = self._calls.get(key)
        if child is None:
            child = self._calls[key] = self._call_counts.labels(*key)
        return child


def _has_left(exchange: GatewayRequest) -> bool:
    """Whether a client has closed a notification stream, which is how all of them end."""
    return exchange.outcome is CallOutcome.DISCONNECTED and exchange.method in STANDING_METHODS
