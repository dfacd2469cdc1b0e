"""Which transport a stored configuration means.

The union of the published schema is tried in its order, as the other application does: the first
transport that accepts the configuration wins, so one without a type and with an http url is `sse`.
"""

from typing import TypeAlias

from pydantic import ValidationError

from packages.models._generated import (
    MCPConfig,
    SSETransport,
    StdioTransport,
    StreamableHTTPTransport,
    WebSocketTransport,
)
from packages.models.errors import UnknownTransportError

Transport: TypeAlias = StdioTransport | WebSocketTransport | SSETransport | StreamableHTTPTransport

IN_ORDER: tuple[type[Transport], ...] = (
    StdioTransport,
    WebSocketTransport,
    SSETransport,
    StreamableHTTPTransport,
)


def narrow(config: MCPConfig) -> Transport:
    """Return *config* as the transport that it is, with every field kept.

    Raises:
        UnknownTransportError: It fits none.
    """
    fields = config.model_dump(by_alias=True, exclude_none=True)
    for transport in IN_ORDER:
        try:
            return transport.model_validate(fields)
        except ValidationError:
            continue
    raise UnknownTransportError(config.type)
