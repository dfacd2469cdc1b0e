"""Failures of contact with upstreams. Messages are short and safe to store and show.

UpstreamError
├── UnsafeAddressError      the URL, or an address behind it, may not be contacted
├── UpstreamConnectError    no connection
├── UpstreamTimeoutError    no answer in time
├── UpstreamTooLargeError   more bytes or tools than we take
└── UpstreamProtocolError   an answer that is not MCP, or an MCP error
    ├── UpstreamLoopError       it leads back to this registry
    └── UpstreamRefusedError    credentials are missing or wrong
        └── UpstreamOAuthError      it wants OAuth
"""

from registry.core.errors import ErrorKind, RegistryError


class UpstreamError(RegistryError):
    """An upstream could not be used."""

    kind = ErrorKind.UPSTREAM


class UnsafeAddressError(UpstreamError):
    """The URL, or an address behind it, may not be contacted."""

    kind = ErrorKind.INVALID


class UpstreamConnectError(UpstreamError):
    """No connection could be made, or it broke."""


class UpstreamTimeoutError(UpstreamError):
    """No answer in time."""


class UpstreamTooLargeError(UpstreamError):
    """The answer is larger than we take."""


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
    """Credentials are missing or wrong."""


class UpstreamOAuthError(UpstreamRefusedError):
    """It names OAuth metadata where credentials are missing or wrong (RFC 9728, 5.1)."""
