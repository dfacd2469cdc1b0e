"""Counts and times gateway requests, with labels whose values are bounded."""

from prometheus_client import Histogram

from registry.core.metrics import Metrics
from registry.gateway.errors import Outcome

NO_SERVER = "-"
OTHER = "other"
METHODS = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
        "response",
        "GET",
        "DELETE",
    }
)
"""Methods with a label of their own: clients choose the name, so the set must be closed."""


class Recorder:
    """Records the end of each request; the children of the histogram are looked up once."""

    def __init__(self, metrics: Metrics) -> None:
        self._histogram = metrics.gateway_requests
        self._children: dict[tuple[str, str, Outcome], Histogram] = {}
        self._in_flight = 0
        metrics.gateway_in_flight.set_function(lambda: self._in_flight)

    def started(self) -> None:
        """Note that a request began."""
        self._in_flight += 1

    def ended(self, label: str, method: str, outcome: Outcome, seconds: float) -> None:
        """Note that a request ended. *label* is that of a route, or `NO_SERVER`."""
        self._in_flight -= 1
        key = (label, method if method in METHODS else OTHER, outcome)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._histogram.labels(*key)
        child.observe(seconds)
