"""Names on the aggregate server: `<server slug>__<tool>`. Pure.

A name depends only on the slug and the tool, so that added or removed servers do not rename the
tools of others. It has at most 64 characters of `[A-Za-z0-9_-]`, which every model accepts; a
longer name is shortened and ends in a hash of the whole. A half without a hash can never look like
one with it, so no two halves are ever the same.
"""

import hashlib
import re

SEPARATOR = "__"
MAX_NAME_CHARACTERS = 64
MAX_PREFIX_CHARACTERS = 40
HASH_CHARACTERS = 10

CLEAN = re.compile(r"[A-Za-z0-9_-]+")
UNCLEAN_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]+")
HASHED = re.compile(rf"-[0-9a-f]{{{HASH_CHARACTERS}}}$")


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
