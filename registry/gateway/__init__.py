"""The data plane: MCP traffic between clients and upstreams."""
