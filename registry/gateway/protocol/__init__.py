"""What MCP, JSON-RPC and HTTP say: messages, eras, headers, pages. Pure."""
