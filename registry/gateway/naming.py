"""URIs on the combined server: `mcp.<server slug>+<uri>`. Pure."""

URI_MARK = "mcp."
"""Begins a resource's URI that says which server is meant: `mcp.<slug>+<uri>`."""


def qualified_uri(slug: str, uri: str) -> str:
    """Return a resource's URI, or URI template, that says which server is meant."""
    return f"{URI_MARK}{slug}+{uri}"


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return slug and URI of a qualified one, or None for any other."""
    if not uri.startswith(URI_MARK):
        return None
    slug, plus, rest = uri.removeprefix(URI_MARK).partition("+")
    return (slug, rest) if plus and slug and rest else None
