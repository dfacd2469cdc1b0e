"""Failures of contact with upstreams. Messages are short and safe to store and show.

UpstreamError
├── UnsafeAddressError      the URL, or an address behind it, may not be contacted
├── UpstreamConnectError    no connection
├── UpstreamTimeoutError    no answer in time
├── UpstreamTooLargeError   more bytes or tools than we take
└── UpstreamProtocolError   an answer that is not MCP, or an MCP error
    └── UpstreamRefusedError    credentials are missing or wrong
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


class UpstreamRefusedError(UpstreamProtocolError):
    """Credentials are missing or wrong."""
