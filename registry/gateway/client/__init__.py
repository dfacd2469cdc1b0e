"""The gateway as an MCP client of the registered servers."""
