"""Failures of contact with upstreams. Messages are short and safe to store and show.

UpstreamError
├── UnsafeAddressError      the URL, or an address behind it, may not be contacted
├── UpstreamConnectError    no connection
│   └── UpstreamBrokenError     it broke
├── UpstreamTimeoutError    no answer in time
├── UpstreamTooLargeError   more bytes or tools than we take
├── UpstreamMissingError    what was asked for does not exist
└── UpstreamProtocolError   an answer that is not MCP, or an MCP error
    ├── UpstreamLoopError       it leads back to this registry
    └── UpstreamRefusedError    credentials are missing or wrong
        └── UpstreamOAuthError      it wants OAuth
"""

from registry.core.errors import ErrorKind, RegistryError
from registry.core.json import JsonObject


class UpstreamError(RegistryError):
    """An upstream could not be used."""

    kind = ErrorKind.UPSTREAM


class UnsafeAddressError(UpstreamError):
    """The URL, or an address behind it, may not be contacted."""

    kind = ErrorKind.INVALID


class UpstreamConnectError(UpstreamError):
    """No connection could be made, or it broke."""


class UpstreamBrokenError(UpstreamConnectError):
    """A connection that was made broke."""


class UpstreamTimeoutError(UpstreamError):
    """No answer in time."""


class UpstreamTooLargeError(UpstreamError):
    """The answer is larger than we take."""


class UpstreamMissingError(UpstreamError):
    """What was asked for does not exist there."""


class UpstreamProtocolError(UpstreamError):
    """The answer is not MCP, or an MCP error."""


class UpstreamLoopError(UpstreamProtocolError):
    """It leads back to this registry, directly or through other gateways."""

    def __init__(self) -> None:
        super().__init__(
            "It leads back to this registry, which cannot be a server of itself, nor of a gateway "
            "that it is a server of."
        )


class UpstreamRefusedError(UpstreamProtocolError):
    """Credentials are missing or wrong.

    Attributes:
        is_forbidden: Whether they are valid, and do not suffice (403).
    """

    def __init__(self, message: str, *, is_forbidden: bool = False) -> None:
        super().__init__(message)
        self.is_forbidden = is_forbidden


class UpstreamOAuthError(UpstreamRefusedError):
    """It names OAuth metadata where credentials are missing or wrong (RFC 9728, 5.1)."""


class JsonRpcError(Exception):
    """The error that a server answered; what it means depends on what was asked.

    Attributes:
        refusal: What the status of the HTTP answer means, if that is an error too.
    """

    def __init__(self, error: JsonObject, refusal: UpstreamError | None = None) -> None:
        message = error.get("message")
        self.code = error.get("code")
        self.message = message if isinstance(message, str) else "an error without a message"
        self.refusal = refusal
        super().__init__(self.message)
