"""Where the request that is being worked on came from."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UrlOrigin:
    """One request's marks, for records.

    Attributes:
        request_id: As answered in `X-Request-ID`; None outside a request.
        source_address: IP address of the peer, or what else started the work.
    """

    request_id: str | None
    source_address: str | None


PROCESS = UrlOrigin(None, "process")
"""Work that no request asked for: a command, a start."""

current_origin: ContextVar[UrlOrigin] = ContextVar("current_origin", default=PROCESS)
"""Set around each request by whoever receives it."""
