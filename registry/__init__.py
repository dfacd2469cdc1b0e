"""Registry and gateway for MCP servers."""

__version__: str


def __getattr__(name: str) -> str:
    # Read when it is asked for: looking it up takes longer than `registry --help` may.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    globals()[name] = found = version("mcp-gateway-registry")
    return found
