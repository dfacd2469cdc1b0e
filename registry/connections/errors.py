"""Failures of the connections domain."""

import math

from registry.core.errors import ErrorKind, RegistryError


class ReconnectingError(RegistryError):
    """The connection is being made already."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The connection is being made already; ask for its status.")


class ReconnectionLimitError(RegistryError):
    """The connection was made too often, or failed too often, a moment ago.

    Args:
        seconds: Until it may be made again.
    """

    kind = ErrorKind.RATE_LIMITED

    def __init__(self, seconds: float) -> None:
        retry_after = math.ceil(seconds)
        super().__init__(
            f"The connection was made again several times just now; wait {retry_after} s.",
            {"retry_after_seconds": retry_after},
        )
