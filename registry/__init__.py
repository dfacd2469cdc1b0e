"""Registry and gateway for MCP servers."""

from importlib.metadata import version

__version__ = version("mcp-gateway-registry")
