"""References of a description: within a file, and between files."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from registry.core.json import JsonObject, JsonValue

WEB = frozenset({"http", "https"})
MAX_CHAIN = 50
"""Longest chain of references to references."""

GIVEN = "https://given.invalid/"
"""Begins the URLs of files that were given with a description, and that nobody fetches."""

NO_SCHEMAS = frozenset({"example", "examples", "default", "enum", "const"})
"""Members whose values are data: a `$ref` in them refers to nothing."""


class Place(NamedTuple):
    """Where a value is: the URL of its file, empty for the first one, and a JSON Pointer."""

    file: str
    pointer: str


class Located(NamedTuple):
    """A value and its place."""

    value: JsonValue
    place: Place


def external_references(document: JsonObject, url: str | None) -> set[str]:
    """Return the URLs of the other files that a file names; those that cannot be fetched not."""
    found: set[str] = set()
    for reference in _references(document):
        target = urldefrag(reference).url
        if not target:
            continue
        absolute = urljoin(url or "", target)
        if _is_web(absolute) and absolute != url:
            found.add(absolute)
    return found


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in WEB
    except ValueError:
        return False


def _references(document: JsonObject) -> Iterator[str]:
    left: list[JsonValue] = [document]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left.extend(node)
        elif isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                yield reference
            left.extend(
                inner
                for name, inner in node.items()
                if name not in NO_SCHEMAS and isinstance(inner, dict | list)
            )


class References:
    """Resolves references.

    Args:
        document: The first file.
        url: Where it was fetched, if it was.
        files: The others, by the URLs that name them.
        bases: Where redirects led to, of those that were elsewhere: relative references in them
            are relative to that (RFC 3986, 5.1.3).
    """

    def __init__(
        self,
        document: JsonObject,
        url: str | None,
        files: Mapping[str, JsonObject],
        bases: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url or ""
        self._bases = bases or {}
        self._files: dict[str, JsonObject] = {**files, "": document}
        if url:
            self._files[url] = document

    def target(self, reference: str, file: str) -> Place | None:
        """Return the place that a reference in a file points to; None if it points nowhere."""
        try:
            address, fragment = urldefrag(reference)
            if address:
                absolute = urljoin(self._bases.get(file, file) or self._url, address)
                file = "" if absolute == self._url else absolute
        except ValueError:
            return None
        if file not in self._files or (fragment and not fragment.startswith("/")):
            return None
        return Place(file, unquote(fragment))

    def at(self, place: Place) -> JsonValue | None:
        """Return the value at a place; None if there is none."""
        value: JsonValue = self._files[place.file]
        for part in place.pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return None
        return value

    def resolved(self, value: JsonValue, place: Place) -> Located | None:
        """Follow references until there is none; None if one points nowhere, or in a circle."""
        for _ in range(MAX_CHAIN):
            reference = value.get("$ref") if isinstance(value, dict) else None
            if not isinstance(reference, str):
                return Located(value, place)
            target = self.target(reference, place.file)
            if target is None:
                return None
            found = self.at(target)
            if found is None:
                return None
            value, place = found, target
        return None


def below(place: Place, *names: str | int) -> Place:
    """Return the place of a member of what is at *place*."""
    pointer = place.pointer
    for name in names:
        pointer += "/" + str(name).replace("~", "~0").replace("/", "~1")
    return Place(place.file, pointer)


def shown(place: Place) -> str:
    """Return a place as it is told to people."""
    name = place.file.removeprefix(GIVEN)
    return f"{name}#{place.pointer}" if name else place.pointer
