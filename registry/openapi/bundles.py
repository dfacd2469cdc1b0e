"""Descriptions of several files that were given together, kept as one document. Pure.

The other files are in the member `FILES` of the first one, so that whatever keeps a description
keeps all of it. They are told apart by URLs below `GIVEN`, which nobody fetches.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from registry.core.json import JsonObject, members
from registry.openapi.errors import DescriptionError
from registry.openapi.references import GIVEN

FILES: Final = "x-registry-files"
MAX_FILES: Final = 100
DEFAULT_NAME: Final = "openapi.yaml"
NAME = re.compile(r"(?!/)(?:(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f?#%:]+(?:/|$))+(?<!/)")
"""A path below a folder, without `.` and `..`, and without what has a meaning in URLs."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A description with the files that were given with it.

    Attributes:
        document: The first file.
        url: What relative references in it are relative to; None if it is the only file.
        files: The others by URL.
    """

    document: JsonObject
    url: str | None
    files: Mapping[str, JsonObject]


def is_name(text: str) -> bool:
    """Whether a text can be the name of a file: a relative path with slashes."""
    return NAME.fullmatch(text) is not None


def bundled(document: JsonObject, name: str | None, files: Mapping[str, JsonObject]) -> str:
    """Return one document with all files, as JSON text.

    Args:
        document: The first file.
        name: Its own name, by which the others refer to it.
        files: The others by name.
    """
    return json.dumps({**document, FILES: {"name": name or DEFAULT_NAME, "files": dict(files)}})


def unbundled(document: JsonObject) -> Bundle:
    """Return the files of a document.

    Raises:
        DescriptionError: It holds files in a form that is not that of `bundled`.
    """
    kept = document.get(FILES)
    if kept is None:
        return Bundle(document, None, {})
    name, files = members(kept).get("name"), members(kept).get("files")
    found: dict[str, JsonObject] = {}
    for key, value in members(files).items():
        if not is_name(key) or not isinstance(value, dict):
            raise DescriptionError(f"/{FILES}/files", "has a file that cannot be one")
        found[GIVEN + key] = value
    if not isinstance(name, str) or not is_name(name) or len(found) > MAX_FILES:
        raise DescriptionError(f"/{FILES}", "has files in an unknown form")
    rest = {member: value for member, value in document.items() if member != FILES}
    return Bundle(rest, GIVEN + name, found)
