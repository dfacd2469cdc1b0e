"""Tools as HTTP endpoints that an OpenAPI document describes, for clients without MCP."""
