"""The catalog: MCP servers that exist, apart from those that are registered here."""
