"""What is stored of a server's failures, and whether a connection says more than that."""

from datetime import datetime

from packages.database.client import Doc
from packages.database.stored import moment_of

FAILURES = "registry.consecutive_failures"
TROUBLE = ("lastError", "errorMessage", FAILURES)
"""What is stored of failures, and removed by a success."""


def is_news(known: Doc, quiet_since: datetime) -> bool:
    """Whether a connection just now says more than what is stored of a server."""
    registry = known.get("registry")
    has_failed = isinstance(registry, dict) and FAILURES.removeprefix("registry.") in registry
    connected = moment_of(known.get("lastConnected"))
    is_known = connected is not None and connected > quiet_since
    return has_failed or not known.keys().isdisjoint(TROUBLE) or not is_known
