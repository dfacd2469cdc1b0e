"""The gateway as the MCP server: all servers on one path, and servers of another era."""
