"""Names of tools outside of their servers, and gateway paths of servers. Pure.

On the aggregate server a tool is `<server slug>__<tool>`. Such a name depends only on the slug and
the tool, so that added or removed servers do not rename the tools of others. It has at most 64
characters of `[A-Za-z0-9_-]`, which every model accepts; a longer name is shortened and ends in a
hash of the whole. A half without a hash can never look like one with it, so no two halves are ever
the same.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import count

DELIMITER = "_mcp_"
"""Between tool and server in names that jarvis-api builds and reads."""

PATH_PREFIX = "/mcp/"
SLUG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
RESERVED_SLUGS = frozenset({"toolsets", "connection", "oauth", "openapi", "health", "metrics"})
"""Paths below `/mcp/` that are reserved, for now or for later."""

MAX_SLUG_CHARACTERS = 128

SEPARATOR = "__"
MAX_NAME_CHARACTERS = 64
MAX_PREFIX_CHARACTERS = 40
HASH_CHARACTERS = 10

CLEAN = re.compile(r"[A-Za-z0-9_-]+")
UNCLEAN_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]+")
HASHED = re.compile(rf"-[0-9a-f]{{{HASH_CHARACTERS}}}$")

_UNCLEAN = re.compile(r"[^a-zA-Z0-9_.-]")
"""In names of servers; jarvis-api keeps dots."""


def function_name(tool: str, server_name: str) -> str:
    """Return the key of `toolFunctions`, as jarvis-api builds it: `<tool>_mcp_<server>`."""
    return f"{tool}{DELIMITER}{normalized_server_name(server_name)}"


def normalized_server_name(server_name: str) -> str:
    """Return *server_name* with every character outside `[a-zA-Z0-9_.-]` made `_`.

    A name without any other character becomes `server_<number>`, by the same hash as in
    jarvis-api: names of another script must not all become one.
    """
    if server_name and not _UNCLEAN.search(server_name):
        return server_name
    return _UNCLEAN.sub("_", server_name).strip("_") or f"server_{_number(server_name)}"


def _number(text: str) -> int:
    """Return the hash of JavaScript code that keeps 32 bits: `h = (h << 5) - h + unit`."""
    found = 0
    units = text.encode("utf-16-le", "surrogatepass")
    for low, high in zip(units[::2], units[1::2], strict=True):
        found = (found * 31 + low + (high << 8)) & 0xFFFFFFFF
    return 0x1_0000_0000 - found if found & 0x8000_0000 else found


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


def public_prefix(slug: str) -> str:
    """Return the first half of the names of a server's tools; it contains no separator."""
    if (
        CLEAN.fullmatch(slug)
        and len(slug) <= MAX_PREFIX_CHARACTERS
        and SEPARATOR not in slug
        # A trailing underscore would be ambiguous before the separator.
        and not slug.endswith("_")
        and not HASHED.search(slug)
    ):
        return slug
    return _hashed(slug, MAX_PREFIX_CHARACTERS).replace(SEPARATOR, "_-")


def public_suffix(prefix: str, name: str) -> str:
    """Return the second half of the name of a tool or prompt of the server with *prefix*."""
    room = MAX_NAME_CHARACTERS - len(prefix) - len(SEPARATOR)
    if CLEAN.fullmatch(name) and len(name) <= room and not HASHED.search(name):
        return name
    return _hashed(name, room)


def public_name(slug: str, name: str) -> str:
    """Return the name of a tool or prompt on the aggregate server."""
    prefix = public_prefix(slug)
    return f"{prefix}{SEPARATOR}{public_suffix(prefix, name)}"


def _hashed(text: str, room: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARACTERS]
    cleaned = UNCLEAN_CHARACTERS.sub("-", text)[: room - HASH_CHARACTERS - 1]
    return f"{cleaned}-{digest}"
