"""Prompts, resources and resource templates of MCP servers, as their upstreams list them."""
