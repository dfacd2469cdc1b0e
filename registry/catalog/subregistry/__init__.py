"""The catalog and the servers of this gateway in the API of the official MCP registry."""
