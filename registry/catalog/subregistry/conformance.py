"""Converts stored `server.json` documents to the release that is served. Pure.

Lists of servers come in older forms and with mistakes; what they say is kept as it came. Clients
read what is served by the schema that it names, so what does not fit it is converted, left out
with a reason; a name that is none costs the document.
Source: the schema of `server.json` of 2025-12-11.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from registry.core.json import JsonObject, members

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"

NAME = re.compile(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+")
MIN_NAME, MAX_NAME = 3, 200
MAX_LINE = 100
"""Characters of a title or description."""

MAX_VERSION = 255
UNVERSIONED = "0.0.0"
LATEST = "latest"

TRANSPORT_URL = re.compile(r"https?://\S+|\{[a-zA-Z_][a-zA-Z0-9_]*\}\S*")
URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:[^\s<>\"{}|\\^`]+")
SHA256 = re.compile(r"[a-f0-9]{64}")
ICON_SIZE = re.compile(r"\d+x\d+|any")
ICON_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/svg+xml", "image/webp")
MAX_ICON_URL = 255

HTTP_TRANSPORTS = {
    "streamable-http": "streamable-http",
    "streamable": "streamable-http",
    "http": "streamable-http",
    "sse": "sse",
}
UNKNOWN_KIND = "unknown"
FORMATS = ("string", "number", "boolean", "filepath")
RENAMED = {
    "is_required": "isRequired",
    "is_secret": "isSecret",
    "is_repeated": "isRepeated",
    "value_hint": "valueHint",
    "website_url": "websiteUrl",
}
"""Members of earlier releases."""


@dataclass(slots=True)
class _Problems:
    """What was left out, and why."""

    found: list[str] = field(default_factory=list)

    def note(self, place: str, reason: str) -> None:
        """Note a part that is left out."""
        self.found.append(f"{place} {reason}")


def conforming(document: JsonObject) -> tuple[JsonObject | None, Sequence[str]]:
    """Return a document as it is served, and what of it is not; None if nothing is."""
    problems = _Problems()
    name = document.get("name")
    if (
        not isinstance(name, str)
        or not MIN_NAME <= len(name) <= MAX_NAME
        or not NAME.fullmatch(name)
    ):
        return None, ["name is not of the form namespace/name"]
    shown = _renamed(document)
    shown["$schema"] = SCHEMA
    version = document.get("version")
    is_version = isinstance(version, str) and 0 < len(version) <= MAX_VERSION
    shown["version"] = version if is_version and version != LATEST else UNVERSIONED
    title = _line(document.get("title"))
    shown["description"] = _line(document.get("description")) or title or _line(name) or name
    _put(shown, "title", title)
    _put(shown, "websiteUrl", _uri(shown.get("websiteUrl")))
    _put(shown, "repository", _repository(members(document.get("repository"))))
    _put(shown, "icons", _each(document, "icons", _icon, problems))
    _put(shown, "packages", _each(document, "packages", _package, problems))
    _put(shown, "remotes", _each(document, "remotes", _remote, problems))
    _put(shown, "_meta", _meta(document.get("_meta")))
    return shown, problems.found


def _put(shown: JsonObject, member: str, value: JsonValue) -> None:
    if value is None or value == []:
        shown.pop(member, None)
    else:
        shown[member] = value


def _renamed(stored: JsonObject) -> JsonObject:
    return {RENAMED.get(name, name): value for name, value in stored.items()}


def _each(
    document: JsonObject,
    member: str,
    convert: Callable[[JsonObject], JsonObject | str],
    problems: _Problems,
) -> JsonValue:
    """Return the items of a list that can be served; *convert* says why one cannot."""
    listed = document.get(member)
    kept: list[JsonValue] = []
    for number, item in enumerate(listed if isinstance(listed, list) else []):
        made = convert(_renamed(members(item)))
        if isinstance(made, str):
            problems.note(f"{member}[{number}]", made)
        else:
            kept.append(made)
    return kept


def _line(stored: JsonValue) -> str | None:
    """Return a text as one line that is not too long."""
    text = " ".join(stored.split()) if isinstance(stored, str) else ""
    if not text:
        return None
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 3]}..."


def _uri(stored: JsonValue) -> str | None:
    return stored if isinstance(stored, str) and URI.fullmatch(stored) else None


def _repository(stored: JsonObject) -> JsonObject | None:
    url, source = _uri(stored.get("url")), stored.get("source")
    if url is None:
        return None
    if not isinstance(source, str) or not source:
        # What is served from there is said to be from there.
        source = "github" if url.startswith("https://github.com/") else "other"
    shown: JsonObject = {**stored, "url": url, "source": source}
    for member in ("id", "subfolder"):
        if member in shown and not isinstance(shown[member], str):
            del shown[member]
    return shown


def _meta(stored: JsonValue) -> JsonObject | None:
    shown = {name: value for name, value in members(stored).items() if isinstance(value, dict)}
    return {**shown} or None


def _icon(icon: JsonObject) -> JsonObject | str:
    src = _uri(icon.get("src"))
    if src is None or len(src) > MAX_ICON_URL:
        return "has no URL, or too long a one"
    shown: JsonObject = {**icon, "src": src}
    sizes = icon.get("sizes")
    if sizes is not None:
        listed = sizes if isinstance(sizes, list) else [sizes]
        _put(
            shown,
            "sizes",
            [one for one in listed if isinstance(one, str) and ICON_SIZE.fullmatch(one)],
        )
    if shown.get("mimeType") not in ICON_TYPES:
        shown.pop("mimeType", None)
    if shown.get("theme") not in {"light", "dark"}:
        shown.pop("theme", None)
    return shown


def _package(package: JsonObject) -> JsonObject | str:
    kind, identifier = package.get("registryType"), package.get("identifier")
    if not isinstance(kind, str) or kind in {"", UNKNOWN_KIND}:
        return "is of no known kind of registry"
    if not isinstance(identifier, str) or not identifier:
        return "has no identifier"
    transport = _transport(members(package.get("transport")))
    if isinstance(transport, str):
        return transport
    shown: JsonObject = {**package, "transport": transport}
    version = package.get("version")
    if not isinstance(version, str) or not 0 < len(version) <= MAX_VERSION or version == LATEST:
        shown.pop("version", None)
    _put(shown, "registryBaseUrl", _uri(package.get("registryBaseUrl")))
    if not isinstance(package.get("runtimeHint"), str):
        shown.pop("runtimeHint", None)
    digest = package.get("fileSha256")
    if digest is not None and not (isinstance(digest, str) and SHA256.fullmatch(digest)):
        # Who cannot compare it must not be told that there is nothing to compare.
        return "has a fileSha256 that is none"
    for member, convert in (
        ("environmentVariables", _named_input),
        ("packageArguments", _argument),
        ("runtimeArguments", _argument),
    ):
        made = _inputs(package.get(member), convert)
        if isinstance(made, str):
            return f"{member} {made}"
        _put(shown, member, made)
    return shown


def _transport(transport: JsonObject) -> JsonObject | str:
    """Return how a package is spoken to."""
    kind = transport.get("type", "stdio")
    if kind == "stdio":
        return {**transport, "type": "stdio"}
    if not isinstance(kind, str) or kind not in HTTP_TRANSPORTS:
        return "has a transport that is not known"
    # Registries of images say the transport alone.
    return _http({"url": "http://localhost", **transport}, kind)


def _remote(remote: JsonObject) -> JsonObject | str:
    kind = remote.get("type")
    if not isinstance(kind, str) or kind not in HTTP_TRANSPORTS:
        return "has a transport that is not known"
    made = _http(remote, kind)
    if isinstance(made, str):
        return made
    return _with_variables(made)


def _http(transport: JsonObject, kind: str) -> JsonObject | str:
    url = transport.get("url")
    if not isinstance(url, str) or not TRANSPORT_URL.fullmatch(url):
        return "has a URL that is none of HTTP"
    shown: JsonObject = {**transport, "type": HTTP_TRANSPORTS[kind], "url": url}
    headers = _inputs(transport.get("headers"), _named_input)
    if isinstance(headers, str):
        return f"headers {headers}"
    _put(shown, "headers", headers)
    return shown


def _inputs(
    stored: JsonValue, convert: Callable[[JsonObject], JsonObject | str]
) -> list[JsonValue] | str:
    """Return inputs of one kind, or why one of them cannot be served."""
    kept: list[JsonValue] = []
    for item in stored if isinstance(stored, list) else []:
        made = convert(_input(members(item)))
        if isinstance(made, str):
            return made
        kept.append(made)
    return kept


def _input(stored: JsonObject) -> JsonObject:
    """Return an input as this release has it."""
    shown = _renamed(stored)
    for member in ("isRequired", "isSecret", "isRepeated"):
        if member in shown and not isinstance(shown[member], bool):
            shown[member] = str(shown[member]).lower() == "true"
    for member in ("description", "default", "placeholder", "value", "valueHint"):
        if member in shown:
            _put(shown, member, _text(shown[member]))
    if shown.get("format") not in FORMATS:
        shown.pop("format", None)
    if "choices" in shown:
        choices = shown["choices"]
        listed = [_text(one) for one in choices] if isinstance(choices, list) else []
        _put(shown, "choices", [one for one in listed if one is not None])
    return _with_variables(shown)


def _with_variables(shown: JsonObject) -> JsonObject:
    if "variables" not in shown:
        return shown
    named = members(shown["variables"])
    made: JsonObject = {name: _input(members(one)) for name, one in named.items()}
    return {**shown, "variables": made}


def _text(stored: JsonValue) -> str | None:
    """Return a value as the text that it is written as."""
    if isinstance(stored, bool):
        return "true" if stored else "false"
    if isinstance(stored, str):
        return stored
    return str(stored) if isinstance(stored, int | float) else None


def _named_input(shown: JsonObject) -> JsonObject | str:
    return shown if isinstance(shown.get("name"), str) else "has one without a name"


def _argument(shown: JsonObject) -> JsonObject | str:
    kind = shown.get("type")
    if kind not in {"named", "positional"}:
        kind = "named" if shown.get("name") else "positional"
    made: JsonObject = {**shown, "type": kind}
    if kind == "named":
        return _named_input(made)
    if "valueHint" not in made and "value" not in made:
        name = made.get("name")
        made["valueHint"] = name if isinstance(name, str) and name else "argument"
    return made
