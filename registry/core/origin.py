"""Origin of the current request, for records; and the name of this process."""

import os
import socket
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UrlOrigin:
    """Identifies one request in records.

    Attributes:
        request_id: As answered in `X-Request-ID`; None outside a request.
        source_address: IP address of the peer, or what else started the work.
    """

    request_id: str | None
    source_address: str | None


PROCESS = UrlOrigin(None, "process")
"""Work without a request, such as a command or the start."""

current_origin: ContextVar[UrlOrigin] = ContextVar("current_origin", default=PROCESS)
"""Set around each request by the code that receives it."""


def process_name() -> str:
    """Return host and process id, by which records name this process."""
    return f"{socket.gethostname()}:{os.getpid()}"
