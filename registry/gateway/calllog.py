"""Log gateway requests, one line each: none, those that did not end well, all calls, or all.

A line costs more than the call it is about, so errors are limited to a few a second. The usage
record of a call says all that its line says.
"""

from typing import Literal

import structlog

from registry.gateway.errors import Outcome
from registry.gateway.requests import Exchange
from registry.usage.values import clean_name

log = structlog.get_logger()

Mode = Literal["off", "errors", "calls", "all"]
LINES_A_SECOND = 20
"""Errors that are logged; the next line says how many were left out. All are in the metrics."""


class CallLog:
    """Writes `gateway_call`."""

    def __init__(self, mode: Mode) -> None:
        self.logs_all = mode == "all"
        self.logs_calls = mode in {"calls", "all"}
        self.logs_errors = mode != "off"
        self._second = 0.0
        self._lines = 0
        self._left_out = 0

    def note(self, exchange: Exchange, outcome: Outcome, ended_at: float) -> None:
        """Log one request, unless too many were logged within this second."""
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
            facts["left_out"], self._left_out = self._left_out, 0
        log.info("gateway_call", **facts)

    def _has_room(self, now: float) -> bool:
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        self._lines += 1
        return self._lines <= LINES_A_SECOND


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
