"""Lists of servers in the forms in which others publish them. Pure.

These are: pages of the official registry's API, now and before; its seed of 2025; files of
ToolHive, in its own form and the upstream one; Docker's catalog; single `server.json` files.
Each entry is read alone: a broken one is reported with its place and costs only itself.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import orjson
from pydantic import JsonValue

from packages.models.states import CatalogKind, CatalogStatus
from registry.catalog.errors import ImportUnreadableError
from registry.catalog.identity import (
    MAX_NAME,
    PACKAGE_KINDS,
    Package,
    is_loopback,
    is_name,
    keys_of,
    normalised_url,
)
from registry.catalog.values import LATEST, CatalogContent, CatalogToolInput
from registry.core.json import JsonObject, canonical_json, choice_of, members
from registry.openapi.documents import load
from registry.openapi.errors import DescriptionError
from registry.servers.credentials import has_secret

OFFICIAL = "io.modelcontextprotocol.registry/official"
PUBLISHER = "io.modelcontextprotocol.registry/publisher-provided"
MAX_VERSION = 255
MAX_TEXT = 8_192
MAX_TAGS = 50
MAX_TOOLS = 2_000
MAX_DOCUMENT_BYTES = 512 * 1024
"""Of one entry; the largest published ones have a few kilobytes."""


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """An entry that cannot be taken, and why."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadEntry:
    """An entry that was read.

    Attributes:
        place: Where it stands in the file or page.
        is_latest: Whether the registry says that it is; None where it does not say.
    """

    place: str
    content: CatalogContent
    digest: str
    is_latest: bool | None = None


@dataclass(frozen=True, slots=True)
class EntryList:
    """A page or file.

    Attributes:
        items: Each entry with its place.
        next_cursor: Of the next page, if there is one.
    """

    items: tuple[tuple[str, JsonObject], ...]
    next_cursor: str | None = None

    def read(self, start: int = 0) -> Iterator[ReadEntry | BrokenEntry]:
        """Read the entries, from that number on."""
        for place, item in self.items[start:]:
            yield read_entry(place, item)


class _BrokenError(Exception):
    """The entry cannot be taken. The message completes "it"."""


def entries_in(content: bytes) -> EntryList:
    """Return the entries of a page or file, unread.

    Raises:
        ImportUnreadableError: It is none that is known.
    """
    document = _parsed(content)
    if isinstance(document, list):
        return EntryList(tuple(_numbered("", document)))
    if not isinstance(document, dict):
        raise ImportUnreadableError(UNKNOWN)
    inner = document.get("data")
    _check_lists(document)
    _check_lists(members(inner))
    if isinstance(inner, dict) and ("servers" in inner or "remote_servers" in inner):
        return EntryList(_listed("data.", inner))
    if isinstance(document.get("registry"), dict):
        named = members(document["registry"])
        return EntryList(tuple(_named("registry.", named, _of_docker)))
    if "servers" in document or "remote_servers" in document:
        metadata = members(document.get("metadata"))
        cursor = metadata.get("nextCursor", metadata.get("next_cursor"))
        return EntryList(
            _listed("", document), cursor if isinstance(cursor, str) and cursor else None
        )
    if "name" in document or "server" in document:
        return EntryList((("", document),))
    raise ImportUnreadableError(UNKNOWN)


def _check_lists(document: JsonObject) -> None:
    """Refuse what only looks like a list of servers.

    Raises:
        ImportUnreadableError: It does.
    """
    for name in ("servers", "remote_servers"):
        listed = document.get(name, [])
        # Registries written in Go answer null for an empty page.
        is_empty_page = listed is None and "metadata" in document
        if not isinstance(listed, list | dict) and not is_empty_page:
            raise ImportUnreadableError(f"The document's `{name}` is no list of servers.")


PLACEHOLDER = re.compile(r"\{[^{}]*\}|<[^<>]*>")
"""What lists write in a URL in place of a secret."""

UNKNOWN = (
    "The document is no list of servers: it is neither an answer of the official registry's API "
    "nor a file of that, of ToolHive or of Docker."
)


def _parsed(content: bytes) -> JsonValue:
    try:
        return cast("JsonValue", orjson.loads(content))
    except orjson.JSONDecodeError:
        pass
    try:
        # Docker's catalog is YAML.
        return load(content)
    except DescriptionError as exc:
        raise ImportUnreadableError(
            f"The list of servers cannot be read: it {exc.reason}"
        ) from exc


def _listed(where: str, document: JsonObject) -> tuple[tuple[str, JsonObject], ...]:
    found: list[tuple[str, JsonObject]] = []
    for name in ("servers", "remote_servers"):
        listed = document.get(name)
        if isinstance(listed, list):
            found += _numbered(f"{where}{name}", listed)
        elif isinstance(listed, dict):
            found += _named(f"{where}{name}.", listed, _of_toolhive)
    return tuple(found)


def _numbered(where: str, items: list[JsonValue]) -> Iterator[tuple[str, JsonObject]]:
    for number, item in enumerate(items):
        yield f"{where}[{number}]", item if isinstance(item, dict) else {}


def _named(
    where: str, items: JsonObject, convert: Callable[[str, JsonObject], JsonObject]
) -> Iterator[tuple[str, JsonObject]]:
    for name, item in items.items():
        yield f"{where}{name}", convert(name, members(item))


def read_entry(place: str, item: JsonObject) -> ReadEntry | BrokenEntry:
    """Return one entry, or why it cannot be taken."""
    try:
        orjson.dumps(item)
    except TypeError:
        return BrokenEntry(place, "it holds text or a number that cannot be stored")
    server = members(item["server"]) if isinstance(item.get("server"), dict) else item
    meta = {**members(server.get("_meta")), **members(item.get("_meta"))}
    try:
        content = _content(server, meta)
    except _BrokenError as exc:
        return BrokenEntry(place, f"it {exc}")
    official = members(meta.get(OFFICIAL))
    latest = official.get("isLatest", official.get("is_latest"))
    if latest is None:
        latest = members(server.get("version_detail")).get("is_latest")
    return ReadEntry(
        place, content, digest_of(content), latest if isinstance(latest, bool) else None
    )


def digest_of(content: CatalogContent) -> str:
    """Return the SHA-256 (hexadecimal) of all that an import writes of an entry."""
    tools = [tool.definition for tool in content.tools or ()]
    text = canonical_json(
        {
            "document": content.document,
            "status": content.status.value,
            "tags": list(content.tags),
            "tools": cast("JsonValue", tools),
            "keys": list(content.keys),
        }
    )
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _content(server: JsonObject, meta: JsonObject) -> CatalogContent:
    name = _line(server.get("name"))
    if name is None:
        raise _BrokenError("has no name")
    if not is_name(name):
        raise _BrokenError(
            f"has a name that is not namespace/name, of letters, digits, . _ and -, and up to "
            f"{MAX_NAME} characters"
        )
    remotes = [one for one in _objects(server.get("remotes")) if _line(one.get("url"))]
    packages = [one for one in map(_package, _objects(server.get("packages"))) if one]
    urls = [str(one["url"]).strip() for one in remotes]
    if any(has_secret(PLACEHOLDER.sub("", url)) for url in urls):
        raise _BrokenError("has a URL with a secret, which everybody would see")
    package = packages[0] if packages else None
    if not urls and package is None:
        raise _BrokenError("has neither a remote with a URL nor a package with an identifier")
    keys = keys_of(urls, package)
    if not keys or any(normalised_url(url) is None for url in urls):
        raise _BrokenError("has a URL that is none of http or https, with a host and a port")
    document = _current(server)
    version = _line(document.get("version"))
    if version is not None and (version == LATEST or len(version) > MAX_VERSION):
        raise _BrokenError(f"has a version that is {LATEST!r} or too long")
    if len(orjson.dumps(document)) > MAX_DOCUMENT_BYTES:
        raise _BrokenError(f"has more than {MAX_DOCUMENT_BYTES} bytes")
    is_remote = keys[0].startswith("remote:")
    official = members(meta.get(OFFICIAL))
    stated = official.get("status", server.get("status"))
    extra = _extensions(members(meta.get(PUBLISHER)))
    known = [url for url in urls if package is None or not is_loopback(url)]
    return CatalogContent(
        name=name,
        kind=CatalogKind.REMOTE if is_remote else CatalogKind.CONTAINER,
        keys=keys,
        document=document,
        url=known[0] if is_remote else None,
        package=None if is_remote else package,
        title=_line(server.get("title")),
        description=_text(server.get("description")),
        version=version,
        status=choice_of(CatalogStatus, stated) or CatalogStatus.ACTIVE,
        tags=_tags(extra.get("tags")),
        tools=_tools(extra.get("tools")),
        published_at=_moment(
            official.get("publishedAt", official.get("published_at"))
            or members(server.get("version_detail")).get("release_date")
        ),
    )


def _current(server: JsonObject) -> JsonObject:
    """Return a `server.json` in its present form."""
    bare: JsonObject = {name: value for name, value in server.items() if name not in OBSOLETE}
    detail = members(server.get("version_detail"))
    version = _line(server.get("version")) or _line(detail.get("version"))
    bare["version"] = version or "0.0.0"
    bare.setdefault("description", "")
    if isinstance(server.get("remotes"), list):
        bare["remotes"] = [_remote(one) for one in _objects(server.get("remotes"))]
    if isinstance(server.get("packages"), list):
        bare["packages"] = [_listed_package(one) for one in _objects(server.get("packages"))]
    return bare


OBSOLETE = ("id", "version_detail", "status")


def _remote(remote: JsonObject) -> JsonObject:
    kind = remote.get("type", remote.get("transport_type"))
    rest = {name: value for name, value in remote.items() if name != "transport_type"}
    return {**rest, "type": kind if isinstance(kind, str) else "streamable-http"}


RENAMED = {
    "registry_name": "registryType",
    "registry_type": "registryType",
    "environment_variables": "environmentVariables",
    "package_arguments": "packageArguments",
    "runtime_arguments": "runtimeArguments",
    "runtime_hint": "runtimeHint",
}


def _listed_package(package: JsonObject) -> JsonObject:
    shown = {RENAMED.get(name, name): value for name, value in package.items()}
    if "identifier" not in shown and "name" in shown:
        shown["identifier"] = shown.pop("name")
    kind = shown.get("registryType")
    if isinstance(kind, str):
        shown["registryType"] = PACKAGE_KINDS.get(kind.lower(), kind)
    shown.setdefault("transport", {"type": "stdio"})
    return shown


def _package(package: JsonObject) -> Package | None:
    shown = _listed_package(package)
    identifier, kind = _line(shown.get("identifier")), _line(shown.get("registryType"))
    if identifier is None:
        return None
    return Package((kind or "unknown").lower(), identifier, _line(shown.get("version")))


def _of_toolhive(name: str, entry: JsonObject) -> JsonObject:
    """Return an entry of ToolHive's own form as a `server.json`."""
    made: JsonObject = {
        "name": _line(entry.get("name")) or name,
        "description": entry.get("description"),
        "version": "1.0.0",
    }
    if isinstance(entry.get("title"), str):
        made["title"] = entry["title"]
    if isinstance(entry.get("repository_url"), str):
        made["repository"] = {"url": entry["repository_url"], "source": "github"}
    if _line(entry.get("url")):
        made["remotes"] = [
            {
                "type": entry.get("transport") or "streamable-http",
                "url": entry["url"],
                "headers": _inputs(entry.get("headers")),
            }
        ]
    elif _line(entry.get("image")):
        made["packages"] = [
            {
                "registryType": "oci",
                "identifier": entry["image"],
                "transport": _transport_of(entry),
                "environmentVariables": _inputs(entry.get("env_vars")),
            }
        ]
    return {**made, "_meta": _publisher(entry)}


def _transport_of(entry: JsonObject) -> JsonObject:
    """Return how an image of ToolHive is spoken to."""
    kind, port = entry.get("transport") or "stdio", entry.get("target_port")
    if kind == "stdio":
        return {"type": kind}
    place = (
        f"http://localhost:{port}" if isinstance(port, int) and port > 0 else "http://localhost"
    )
    return {"type": kind, "url": place}


def _of_docker(name: str, entry: JsonObject) -> JsonObject:
    """Return an entry of Docker's catalog as a `server.json`."""
    made: JsonObject = {
        "name": name,
        "description": entry.get("description"),
        "version": "1.0.0",
    }
    if isinstance(entry.get("title"), str):
        made["title"] = entry["title"]
    remote = members(entry.get("remote"))
    if _line(remote.get("url")):
        made["remotes"] = [
            {
                "type": "sse" if remote.get("transport_type") == "sse" else "streamable-http",
                "url": remote["url"],
            }
        ]
    elif _line(entry.get("image")):
        variables = [
            {"name": one.get("env") or one.get("name"), "isSecret": True, "isRequired": True}
            for one in _objects(entry.get("secrets"))
        ]
        made["packages"] = [
            {
                "registryType": "oci",
                "identifier": entry["image"],
                "transport": {"type": "stdio"},
                "environmentVariables": cast("JsonValue", variables),
            }
        ]
    tags = members(entry.get("metadata")).get("tags", entry.get("tags"))
    return {**made, "_meta": _publisher({"tags": tags, "tools": entry.get("tools")})}


def _publisher(entry: Mapping[str, JsonValue]) -> JsonObject:
    kept = {name: entry[name] for name in ("tags", "tools") if entry.get(name)}
    return {PUBLISHER: {"import": cast("JsonValue", kept)}} if kept else {}


def _inputs(stored: JsonValue) -> JsonValue:
    spelt = {"required": "isRequired", "secret": "isSecret"}
    return [
        {spelt.get(name, name): value for name, value in one.items()} for one in _objects(stored)
    ]


def _extensions(publisher: JsonObject) -> JsonObject:
    """Return tags and tools that a publisher gives, at any of the usual depths."""
    found: JsonObject = {}
    level: list[JsonObject] = [publisher]
    for _ in range(3):
        for one in level:
            for name in ("tags", "tools"):
                if isinstance(one.get(name), list):
                    found.setdefault(name, one[name])
        level = [value for one in level for value in one.values() if isinstance(value, dict)]
    return found


def _tags(stored: JsonValue) -> tuple[str, ...]:
    listed = stored if isinstance(stored, list) else []
    tags = [tag[:64] for one in listed if (tag := _line(one)) is not None]
    return tuple(dict.fromkeys(tags))[:MAX_TAGS]


def _tools(stored: JsonValue) -> tuple[CatalogToolInput, ...] | None:
    if not isinstance(stored, list):
        return None
    found: dict[str, CatalogToolInput] = {}
    for one in stored[:MAX_TOOLS]:
        tool = members(one)
        name = _line(one) or _line(tool.get("name"))
        if name is not None:
            schema = tool.get("inputSchema", tool.get("input_schema"))
            found[name] = CatalogToolInput(
                name,
                _line(tool.get("title")),
                _text(tool.get("description")),
                schema if isinstance(schema, dict) else None,
            )
    return tuple(found.values())


def _objects(stored: JsonValue) -> list[JsonObject]:
    return [one for one in stored if isinstance(one, dict)] if isinstance(stored, list) else []


def _line(stored: JsonValue) -> str | None:
    if not isinstance(stored, str):
        return None
    text = " ".join(stored.split())
    return text if text and text.isprintable() else None


def _text(stored: JsonValue) -> str | None:
    if not isinstance(stored, str) or not stored.strip():
        return None
    return stored.strip().replace("\x00", "")[:MAX_TEXT]


def _moment(stored: JsonValue) -> datetime | None:
    if not isinstance(stored, str):
        return None
    try:
        found = datetime.fromisoformat(stored)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_newer(version: str | None, than: str | None) -> bool:
    """Whether a version is later, numbers compared as numbers; a pre-release is earlier."""
    return _order(version) > _order(than)


MAX_DIGITS = 9


def _order(version: str | None) -> tuple[tuple[tuple[int, int, str], ...], bool, str]:
    core, dash, rest = (version or "").lstrip("v").partition("-")
    parts = tuple(
        (1, int(part), "")
        if part.isdecimal() and part.isascii() and len(part) <= MAX_DIGITS
        else (0, 0, part)
        for part in core.split("+")[0].split(".")
    )
    return parts, not dash, rest
