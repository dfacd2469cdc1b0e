"""Registered MCP servers."""
