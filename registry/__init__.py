"""Registry and gateway for MCP servers."""

__version__: str


def __getattr__(name: str) -> str:
    # Read on first use: the lookup is too slow for `registry --help`.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    globals()[name] = found = version("mcp-gateway-registry")
    return found
