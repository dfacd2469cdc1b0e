"""Gateway paths of servers. Pure."""

from collections.abc import Iterator
from itertools import count

from registry.tools.naming import normalized_server_name

PATH_PREFIX = "/mcp/"
SLUG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
RESERVED_SLUGS = frozenset({"toolsets", "connection", "oauth", "openapi", "health", "metrics"})
"""Paths below `/mcp/` that are reserved, for now or for later."""

MAX_SLUG_CHARACTERS = 128


def default_path(server_name: str) -> str:
    """Return the default gateway path of a server."""
    slug = normalized_server_name(server_name).lstrip("._-") or "server"
    return PATH_PREFIX + slug[:MAX_SLUG_CHARACTERS]


def candidate_paths(server_name: str) -> Iterator[str]:
    """Yield the default path, then the same with `-2`, `-3`, … for when it is taken."""
    first = default_path(server_name)
    yield first
    for number in count(2):
        yield f"{first}-{number}"


def slug_of(path: str) -> str | None:
    """Return the part of a gateway path after `/mcp/`, or None if it is no gateway path."""
    slug = path.removeprefix(PATH_PREFIX).rstrip("/")
    if slug == path.rstrip("/") or not slug or "/" in slug:
        return None
    return slug
