"""From a flat configuration to the transport it means."""

from typing import Any

import pytest

from packages.models import (
    MCPConfig,
    SSETransport,
    StdioTransport,
    StreamableHTTPTransport,
    Transport,
    UnknownTransportError,
    WebSocketTransport,
    narrow,
)

HTTP_URL = "https://mcp.example.com/mcp"


@pytest.mark.requirement("R-315")
@pytest.mark.parametrize(
    ("config", "transport"),
    [
        ({"command": "npx", "args": []}, StdioTransport),
        ({"type": "stdio", "command": "npx", "args": ["-y"]}, StdioTransport),
        ({"url": "wss://mcp.example.com"}, WebSocketTransport),
        ({"type": "websocket", "url": "ws://mcp.example.com"}, WebSocketTransport),
        ({"url": HTTP_URL}, SSETransport),
        ({"type": "sse", "url": HTTP_URL}, SSETransport),
        ({"type": "http", "url": HTTP_URL}, StreamableHTTPTransport),
        ({"type": "streamable-http", "url": HTTP_URL}, StreamableHTTPTransport),
        ({"command": "npx", "args": [], "url": HTTP_URL}, StdioTransport),
    ],
)
def test_the_first_transport_that_accepts_a_configuration_is_meant(
    config: dict[str, Any], transport: type[Transport]
) -> None:
    narrowed = narrow(MCPConfig.model_validate(config))

    assert type(narrowed) is transport


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"type": "grpc", "url": HTTP_URL},
        {"type": "stdio", "command": "npx"},
        {"type": "sse", "url": "wss://mcp.example.com"},
        {"type": "streamable-http"},
        {"url": "file:///etc/passwd"},
    ],
)
def test_a_configuration_that_fits_no_transport_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnknownTransportError, match="none of the transports"):
        narrow(MCPConfig.model_validate(config))


def test_a_narrowed_configuration_keeps_every_field() -> None:
    config = {
        "type": "sse",
        "url": HTTP_URL,
        "headers": {"X-Team": "blue"},
        "toolFunctions": {"a.$b": {"function": {"parameters": {"default": None}}}},
        "unknown": {"deep": [1, None]},
    }

    narrowed = narrow(MCPConfig.model_validate(config))

    assert narrowed.model_dump(by_alias=True, exclude_none=True) == config
